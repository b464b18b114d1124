"""Encoders: their network, and the generator that they read images for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..boundary.fields import check_fields, setting
from ..errors import ConfigError
from .generator_configs import MAX_SIZE, Fingerprint, GeneratorShape


__all__ = ["EncoderConfig", "EncoderNetwork"]


@dataclass(frozen=True)
class EncoderNetwork:
    """The network of an encoder, whatever generator it reads images for.

    With the defaults and a generator of 1024 px, both stages have 55 M parameters.
    """

    stages: Literal["one", "two"] = setting("two", "One learns w+ and tokens together, two learn w+ before tokens.")
    size: int = setting(0, "Side of the image that the encoder sees, in pixels. 0 takes the generator's, at most 256.")
    backbone: str = setting("compact", "The compact backbone, or the name of a timm model.")
    widths: tuple[int, ...] = setting((64, 128, 256, 512), "Widths of the compact backbone at strides 2, 4, 8 and 16.")
    strides: tuple[int, ...] = setting((4, 8, 16), "Strides of the three feature maps that a timm backbone gives.")
    width: int = setting(384, "Width of the transformer blocks.")
    depth: int = setting(2, "Transformer blocks for each group of layers.")
    heads: int = setting(6, "Heads of the attention.")
    rank: int = setting(8, "Tokens T of each layer; a pointwise kernel has no more than it has outputs.")
    residual: Literal["post", "pre"] = setting("post", "The tokens enter after or before the modulation.")
    spatial: Literal["scaled", "broadcast", "full"] = setting(
        "scaled", "A is learnt for each token, is 1, or each token has its own taps."
    )
    layers: tuple[str, ...] = setting(("*.conv*",), "Names or globs of the layers that get tokens.")
    num_iters: int = setting(1, "Refinement iterations of the second stage.")
    gradient_feedback: bool = setting(False, "Give the second stage the gradients of its render by the tokens.")
    identity_feedback: float = setting(0.0, "Weight of a face's features in the distance whose gradients these are.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.stages == "two" and not self.layers:
            raise ConfigError("The second stage answers with tokens: name layers that get some, or take one stage.")
        if (self.gradient_feedback or self.num_iters > 1) and self.stages == "one":
            raise ConfigError("Refinement iterations and gradient feedback need two stages.")
        if not 0 <= self.identity_feedback <= 100:
            raise ConfigError(f"identity_feedback must be from 0 to 100, not {self.identity_feedback}.")
        if self.identity_feedback and not self.gradient_feedback:
            raise ConfigError("identity_feedback is a part of the gradient feedback: set gradient_feedback too.")
        if not 1 <= self.num_iters <= 64:
            raise ConfigError(f"num_iters must be from 1 to 64, not {self.num_iters}.")
        if len(self.widths) != 4 or len(self.strides) != 3:
            raise ConfigError("The compact backbone has four widths, and every backbone maps of three strides.")
        sizes = {"widths": self.widths, "strides": self.strides, "width": (self.width,), "rank": (self.rank,)}
        for name, values in sizes.items():
            if not all(1 <= value <= MAX_SIZE for value in values):
                raise ConfigError(f"{name} must be from 1 to {MAX_SIZE}, not {values}.")
        if self.backbone == "compact" and self.strides != (4, 8, 16):
            raise ConfigError(f"The compact backbone has the strides (4, 8, 16), not {self.strides}.")
        coarsest = max(self.strides)
        if self.size and (not 16 <= self.size <= MAX_SIZE or self.size % coarsest):
            raise ConfigError(f"size must be a multiple of {coarsest} from 16 to {MAX_SIZE}, not {self.size}.")
        if not 1 <= self.depth <= 64 or self.heads < 1 or self.width % (4 * self.heads):
            raise ConfigError(
                f"depth must be from 1 to 64 (it is {self.depth}), and width {self.width} a multiple of 4 x heads "
                f"({self.heads})."
            )


@dataclass(frozen=True)
class EncoderConfig:
    """Encoder of one generator; a size of 0 in its network becomes the generator's, from 16 to 256."""

    generator: GeneratorShape
    network: EncoderNetwork = field(default_factory=EncoderNetwork)
    base: Fingerprint | None = None  # the generator it was trained for; None: unknown

    def __post_init__(self) -> None:
        if not self.network.size:
            size = max(16, *self.network.strides, min(self.generator.resolution, 256))
            object.__setattr__(self, "network", replace(self.network, size=size))
