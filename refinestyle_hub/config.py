"""Plain, frozen configurations: what ``config.json`` of each part holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ConfigError


__all__ = ["DiscriminatorConfig", "GeneratorConfig"]

MAX_SIZE = 1 << 14  # of a side or a width: a config from a stranger must not ask for the moon


def _resolutions(resolution: int) -> list[int]:
    if not 8 <= resolution <= MAX_SIZE or resolution & (resolution - 1):
        raise ConfigError(f"resolution must be a power of two from 8 to {MAX_SIZE}, not {resolution}.")
    return [2**k for k in range(2, resolution.bit_length())]


def _checked_channels(resolution: int, channels: Mapping[int, int]) -> dict[int, int]:
    """Channels by resolution with integer keys (JSON knows only strings), in rising order."""
    plan = {int(r): int(c) for r, c in channels.items()}
    wanted = _resolutions(resolution)
    if sorted(plan) != wanted or min(plan.values()) < 1 or max(plan.values()) > MAX_SIZE:
        raise ConfigError(
            f"channels must give a width of 1 to {MAX_SIZE} for each resolution in {wanted}, not {plan}."
        )
    return {r: plan[r] for r in wanted}


def config_f_channels(resolution: int, base: int = 32768, maximum: int = 512) -> dict[int, int]:
    """Widths of StyleGAN2 config-f: ``min(base / resolution, maximum)`` (Karras et al. 2020, appendix B)."""
    return {r: min(base // r, maximum) for r in _resolutions(resolution)}


@dataclass(frozen=True)
class GeneratorConfig:
    """StyleGAN2 generator: any power-of-two size, any widths, no classes."""

    resolution: int = 1024  # output height and width, pixels
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    channels: Mapping[int, int] = field(default_factory=dict)  # feature maps by resolution; empty: config-f
    conv_clamp: float | None = None  # the published fp16 networks clamp activations at 256
    num_fp16_res: int = 0  # how many of the highest resolutions ran in fp16 on a GPU
    crop: str = "ffhq"  # how the training pictures were framed; "ffhq" is by facial landmarks, "none" as they came
    parents: tuple[str, ...] = ()  # digests of the generators it was fine-tuned from, nearest first

    def __post_init__(self) -> None:
        channels = self.channels or config_f_channels(self.resolution)
        object.__setattr__(self, "channels", _checked_channels(self.resolution, channels))
        for name in ("z_dim", "w_dim", "mapping_layers"):
            limit = 64 if name == "mapping_layers" else MAX_SIZE
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} must be from 1 to {limit}, not {getattr(self, name)}.")

    @property
    def num_layers(self) -> int:
        """Number L of w+ codes: one per convolution and one for the last toRGB."""
        return 2 * len(self.channels)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """StyleGAN2 residual discriminator with minibatch standard deviation."""

    resolution: int = 1024
    channels: Mapping[int, int] = field(default_factory=dict)  # feature maps by resolution; empty: config-f
    mbstd_group: int = 4  # samples per group of the minibatch statistic
    mbstd_channels: int = 1  # 0 leaves the statistic out
    conv_clamp: float | None = None
    num_fp16_res: int = 0

    def __post_init__(self) -> None:
        channels = self.channels or config_f_channels(self.resolution)
        object.__setattr__(self, "channels", _checked_channels(self.resolution, channels))
