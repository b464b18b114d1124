"""Token sets: the sizes of their tokens, and the generator that they were made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError
from .generator_configs import MAX_SIZE, Fingerprint


__all__ = ["TokenLayerConfig", "TokenSetConfig"]


@dataclass(frozen=True)
class TokenLayerConfig:
    """Sizes of the tokens of one layer."""

    tokens: int  # T
    inputs: int
    outputs: int
    spatial: Literal["scaled", "broadcast", "full"]
    kernel: int | None  # side of A ("scaled") or of the taps of Q ("full"); None: "broadcast"
    bias: bool  # whether there is an offset to the layer's bias

    def __post_init__(self) -> None:
        sizes = (self.tokens, self.inputs, self.outputs, self.kernel or 1)
        if not all(0 <= size <= MAX_SIZE for size in sizes) or (self.kernel is None) != (self.spatial == "broadcast"):
            raise ConfigError(f"These sizes of tokens do not fit together: {self}.")


@dataclass(frozen=True)
class TokenSetConfig:
    """What a saved token set says of itself."""

    layers: Mapping[str, TokenLayerConfig]
    base: Fingerprint | None  # the generator it was made for; None: unknown
    metadata: Mapping[str, Any] = field(default_factory=dict)
