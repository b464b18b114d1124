"""Plain, frozen configurations: what ``config.json`` of each part holds."""

from __future__ import annotations

from .encoder_configs import EncoderConfig, EncoderNetwork
from .generator_configs import (
    GENERATOR_CONFIGS,
    DiscriminatorConfig,
    Fingerprint,
    GeneratorConfig,
    GeneratorShape,
    LayerSpec,
    MobileStyleGANConfig,
    StyleGAN2Config,
    config_f_channels,
)
from .token_configs import TokenLayerConfig, TokenSetConfig


__all__ = [
    "GENERATOR_CONFIGS",
    "DiscriminatorConfig",
    "EncoderConfig",
    "EncoderNetwork",
    "Fingerprint",
    "GeneratorConfig",
    "GeneratorShape",
    "LayerSpec",
    "MobileStyleGANConfig",
    "StyleGAN2Config",
    "TokenLayerConfig",
    "TokenSetConfig",
    "config_f_channels",
]
