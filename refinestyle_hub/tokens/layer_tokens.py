"""The tokens of one layer, which layers a pattern selects, and what a strength may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from ..boundary.numbers import real
from ..errors import BaseMismatchError, ConfigError, LayerError, ShapeError, printable
from .modulated_conv import Residual, join


__all__ = ["LayerTokens", "checked", "match_layers"]


def _shape(x: Tensor | None) -> str:
    return "none" if x is None else str(list(x.shape))


@dataclass(frozen=True, eq=False)
class LayerTokens:
    """Tokens of one layer. In a ``TokenBatch`` every tensor has a leading dimension N.

    Raises:
        ShapeError: The tensors do not fit together.
    """

    p: Tensor  # [T, O]
    q: Tensor  # [T, I], or [T, I, k, k] where every token has its own taps ("full")
    a: Tensor | None  # [T, k, k] ("scaled"); None: all ones ("broadcast"), or "full"
    pre: Tensor  # [T] bool: the token enters before the modulation, else after it
    bias: Tensor | None = None  # [O], added to the layer's bias

    def __post_init__(self) -> None:
        lead, full = self.p.shape[:-1], self.q.ndim == self.p.ndim + 2
        fits = (
            self.p.ndim >= 2
            and (full or self.q.ndim == self.p.ndim)
            and self.q.shape[: len(lead)] == lead
            and (self.a is None or (not full and self.a.ndim == len(lead) + 2 and self.a.shape[: len(lead)] == lead))
            and (self.pre.shape == lead and self.pre.dtype == torch.bool)
            and (self.bias is None or self.bias.shape == (*lead[:-1], self.p.shape[-1]))
        )
        if not fits:
            raise ShapeError(
                f"Tokens do not fit together: P {_shape(self.p)}, Q {_shape(self.q)}, A {_shape(self.a)}, "
                f"pre {_shape(self.pre)} {self.pre.dtype}, bias {_shape(self.bias)}.\n"
                "Expected P [T, O], Q [T, I] or [T, I, k, k], A [T, k, k] or none, pre [T] (bool), bias [O] or none."
            )

    @property
    def rank(self) -> int:
        """Number of tokens T."""
        return self.p.shape[-2]

    @property
    def outputs(self) -> int:
        return self.p.shape[-1]

    @property
    def inputs(self) -> int:
        return self.q.shape[self.p.ndim - 1]

    @property
    def spatial(self) -> Literal["scaled", "broadcast", "full"]:
        """``"scaled"``, ``"broadcast"`` or ``"full"``."""
        if self.a is not None:
            return "scaled"
        return "full" if self.q.ndim > self.p.ndim else "broadcast"

    def tensors(self) -> dict[str, Tensor]:
        """The tensors there are, by the names that files use."""
        named = {"p": self.p, "q": self.q, "a": self.a, "pre": self.pre, "bias": self.bias}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> LayerTokens:
        """Apply ``change`` to every tensor."""
        return replace(self, **{name: change(tensor) for name, tensor in self.tensors().items()})

    def scale(self, strength: float | Tensor) -> LayerTokens:
        """Residual and bias offset times ``strength``."""
        return replace(self, p=self.p * strength, bias=None if self.bias is None else self.bias * strength)

    def shared(self, strength: Tensor | None = None) -> Residual:
        """The tokens as they enter a batch whose samples all use them, with ``strength`` [N] or [1]."""
        a = None if self.a is None else self.a[None]
        bias = None if self.bias is None else self.bias[None]
        return Residual(self.p[None], self.q[None], a, self.pre[None], bias, strength)

    @staticmethod
    def concatenate(parts: Sequence[LayerTokens]) -> LayerTokens:
        """Exact sum of residuals and of bias offsets."""
        if len(parts) == 1:
            return parts[0]
        home = parts[0].p.device  # sets from files lie on the CPU, those made on a GPU lie there
        parts = [part if part.p.device == home else part.map(lambda x: x.to(home)) for part in parts]
        if len({(part.inputs, part.outputs) for part in parts}) > 1:
            shapes = ", ".join(f"{part.inputs} -> {part.outputs}" for part in parts)
            raise BaseMismatchError(f"These token sets were made for different generators: one layer is {shapes}.")
        whole = join([part.shared() for part in parts])
        offsets = [part.bias for part in parts if part.bias is not None]
        bias = sum(offsets[1:], offsets[0]) if offsets else None
        return LayerTokens(whole.p[0], whole.q[0], None if whole.a is None else whole.a[0], whole.pre[0], bias)


def match_layers(patterns: str | Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    """Layer names that each name or glob (``"b64.*"``) selects.

    Raises:
        LayerError: A pattern selects nothing.
    """
    known = list(names)
    found = {}
    for pattern in [patterns] if isinstance(patterns, str) else list(patterns):
        found[pattern] = [name for name in known if fnmatchcase(name, pattern)]
        if not found[pattern]:
            raise LayerError(f"No layer matches {pattern!r}. Layers: {', '.join(known) or 'none'}.")
    return found


def checked(strength: float | Tensor) -> float | Tensor:
    """Return a strength once it is checked.

    Raises:
        ConfigError: It is not a finite number.
    """
    if torch.compiler.is_compiling():  # to look at values would tie a compiled graph to them
        return strength
    if not isinstance(strength, Tensor):
        return real(strength, "A strength")
    if strength.is_meta or strength.is_complex() or not bool(strength.detach().isfinite().all()):
        raise ConfigError(f"A strength is a finite number, not {printable(repr(strength))}.")
    return strength
