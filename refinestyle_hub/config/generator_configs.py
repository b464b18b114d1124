"""Generators and their discriminator: sizes, layers, and what identifies a generator."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from ..errors import ConfigError


__all__ = [
    "GENERATOR_CONFIGS",
    "MAX_SIZE",
    "DiscriminatorConfig",
    "Fingerprint",
    "GeneratorConfig",
    "GeneratorShape",
    "LayerSpec",
    "MobileStyleGANConfig",
    "StyleGAN2Config",
    "config_f_channels",
]

MAX_SIZE = 1 << 14  # of a side or a width: a config from a stranger must not ask for all of the memory


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


def config_f_channels(resolution: int, base: int = 32768) -> dict[int, int]:
    """Widths of StyleGAN2 config-f: ``min(base / resolution, 512)`` (Karras et al. 2020, appendix B)."""
    return {r: min(base // r, 512) for r in _resolutions(resolution)}


def _fp16_from(resolution: int, num_fp16_res: int) -> int:
    """Lowest resolution that runs in fp16 on a GPU: never below 8 px, as in the published networks."""
    return max(2 * resolution >> num_fp16_res, 8)


@dataclass(frozen=True)
class LayerSpec:
    """A modulated convolution of a generator, which tokens can refine."""

    name: str  # such as "b64.conv0" or "b64.torgb"
    role: Literal["conv", "rgb"]  # between feature maps, or from a feature map to colours
    inputs: int
    outputs: int
    kernel: int  # side, 1 or 3
    resolution: int  # of its output, pixels
    up: bool  # doubles the size
    code: int  # index of its w+ code

    def useful(self, rank: int) -> int:
        """At most ``rank`` tokens: a pointwise kernel has no more ranks than outputs."""
        return min(rank, self.outputs) if self.kernel == 1 else rank


@dataclass(frozen=True)
class GeneratorShape:
    """What fits a generator, whatever network it is: codes, pictures, and the layers that tokens refine."""

    resolution: int  # output height and width, pixels
    w_dim: int  # D
    num_ws: int  # L, w+ codes
    layers: tuple[LayerSpec, ...]  # coarse to fine

    def __post_init__(self) -> None:
        if not all(1 <= size <= MAX_SIZE for size in (self.resolution, self.w_dim, self.num_ws)):
            raise ConfigError(f"resolution, w_dim and num_ws must be from 1 to {MAX_SIZE}.")
        sizes = [size for spec in self.layers for size in (spec.inputs, spec.outputs, spec.resolution)]
        if not all(1 <= size <= MAX_SIZE for size in sizes) or any(
            spec.kernel not in (1, 3) or not 0 <= spec.code < self.num_ws for spec in self.layers
        ):
            raise ConfigError(f"These layers do not fit a generator with {self.num_ws} codes.")


@dataclass(frozen=True)
class GeneratorConfig(ABC):
    """What every generator has; each network adds its own sizes."""

    network: ClassVar[str]  # as people call it, such as "StyleGAN2"

    resolution: int = 1024  # output height and width, pixels
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    # how the training pictures were framed; "ffhq" is by facial landmarks, "none" as they came
    crop: str = field(default="ffhq", kw_only=True)
    # digests of the generators it was fine-tuned from, nearest first
    parents: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for name in ("z_dim", "w_dim", "mapping_layers"):
            limit = 64 if name == "mapping_layers" else MAX_SIZE
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} must be from 1 to {limit}, not {getattr(self, name)}.")

    @property
    @abstractmethod
    def num_ws(self) -> int:
        """Number L of w+ codes: the first drives the layer at 4 px, and each doubling has two more."""

    @property
    @abstractmethod
    def layers(self) -> tuple[LayerSpec, ...]:
        """Modulated convolutions, coarse to fine."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """Everything that decides the shapes of codes and token sets, in one readable word."""

    def full_precision(self) -> GeneratorConfig:
        """The same network without layers that run in half precision of their own accord."""
        return self

    @property
    def shape(self) -> GeneratorShape:
        """The sizes that codes, encoders and token sets must fit."""
        return GeneratorShape(self.resolution, self.w_dim, self.num_ws, self.layers)


@dataclass(frozen=True)
class StyleGAN2Config(GeneratorConfig):
    """StyleGAN2 generator: any power-of-two size, any widths, no classes."""

    network = "StyleGAN2"

    channels: Mapping[int, int] = field(default_factory=dict)  # feature maps by resolution; empty: config-f
    conv_clamp: float | None = None  # the published fp16 networks clamp activations at 256
    num_fp16_res: int = 0  # how many of the highest resolutions ran in fp16 on a GPU

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = self.channels or config_f_channels(self.resolution)
        object.__setattr__(self, "channels", _checked_channels(self.resolution, channels))

    @property
    def num_ws(self) -> int:
        """Number L of w+ codes: one per convolution and one for the last toRGB."""
        return 2 * len(self.channels)

    @property
    def fp16_from(self) -> int:
        """Lowest resolution that runs in fp16 on a GPU."""
        return _fp16_from(self.resolution, self.num_fp16_res)

    def full_precision(self) -> StyleGAN2Config:
        """The same network without fp16 blocks."""
        return replace(self, num_fp16_res=0)

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Modulated convolutions, coarse to fine. A toRGB shares its code with the next block's first convolution."""
        specs: list[LayerSpec] = []
        code, inputs = 0, 0
        for r, outputs in self.channels.items():
            if r > 4:
                specs.append(LayerSpec(f"b{r}.conv0", "conv", inputs, outputs, 3, r, True, code))
                code += 1
            specs.append(LayerSpec(f"b{r}.conv1", "conv", outputs, outputs, 3, r, False, code))
            specs.append(LayerSpec(f"b{r}.torgb", "rgb", outputs, 3, 1, r, False, code + 1))
            code, inputs = code + 1, outputs
        return tuple(specs)

    @property
    def architecture(self) -> str:
        """Such as ``"stylegan2-128-z256-w256-m4-c256.256.128.64.32.16"``."""
        widths = ".".join(str(width) for width in self.channels.values())
        return f"stylegan2-{self.resolution}-z{self.z_dim}-w{self.w_dim}-m{self.mapping_layers}-c{widths}"


@dataclass(frozen=True)
class MobileStyleGANConfig(GeneratorConfig):
    """MobileStyleGAN generator: pictures of twice the size of the last feature maps."""

    network = "MobileStyleGAN"

    channels: Mapping[int, int] = field(default_factory=dict)  # feature maps by resolution; empty: as published

    def __post_init__(self) -> None:
        super().__post_init__()
        half = self.resolution // 2
        channels = _checked_channels(half, self.channels or config_f_channels(half))
        if self.resolution != 2 * half or any(width % 4 for width in list(channels.values())[:-1]):
            raise ConfigError(f"resolution must be even, and all widths but the last multiples of 4: {channels}.")
        object.__setattr__(self, "channels", channels)

    @property
    def num_ws(self) -> int:
        """Number L of w+ codes: one per convolution and one for toRGB."""
        return 2 * len(self.channels)

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Modulated convolutions, coarse to fine: a full one at 4 px, then pointwise ones, and toRGB to 12 bands."""
        specs: list[LayerSpec] = []
        inputs = 0
        for i, (r, outputs) in enumerate(self.channels.items()):
            if r > 4:
                specs.append(LayerSpec(f"b{r}.conv0", "conv", inputs // 4, outputs, 1, r, False, 2 * i - 1))
            specs.append(LayerSpec(f"b{r}.conv1", "conv", outputs, outputs, 1 if r > 4 else 3, r, False, 2 * i))
            inputs = outputs
        return (*specs, LayerSpec(f"b{r}.torgb", "rgb", inputs, 12, 1, r, False, self.num_ws - 1))

    @property
    def architecture(self) -> str:
        """Such as ``"mobilestylegan-32-z8-w8-m2-c16.16.8"``."""
        widths = ".".join(str(width) for width in self.channels.values())
        return f"mobilestylegan-{self.resolution}-z{self.z_dim}-w{self.w_dim}-m{self.mapping_layers}-c{widths}"


# By the class that config.json names: files can be read, and cards written, without the networks.
GENERATOR_CONFIGS: dict[str, type[GeneratorConfig]] = {
    "MobileStyleGANGenerator": MobileStyleGANConfig,
    "StyleGAN2Generator": StyleGAN2Config,
}


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

    @property
    def fp16_from(self) -> int:
        """Lowest resolution that runs in fp16 on a GPU."""
        return _fp16_from(self.resolution, self.num_fp16_res)

    def full_precision(self) -> DiscriminatorConfig:
        """The same network without fp16 blocks."""
        return replace(self, num_fp16_res=0)


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a generator: its weights, to which tokens belong, and its latent space, to which codes do."""

    architecture: str  # sizes, such as "stylegan2-128-z256-w256-m4-c256.256.128.64.32.16"
    digest: str  # of the weights, 32 hexadecimal digits
    parents: tuple[str, ...] = ()  # digests of the generators it was fine-tuned from, nearest first
    latent_space: str = ""  # projections of the mapping network, 4 hexadecimal digits each; empty: not known

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([0-9a-f]{4})*", self.latent_space):
            raise ConfigError(f"latent_space must be 4 hexadecimal digits for each tensor, not '{self.latent_space}'.")

    def __str__(self) -> str:
        return f"{self.architecture}@{self.digest[:12]}"
