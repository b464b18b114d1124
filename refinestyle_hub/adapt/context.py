"""The context that a step of an adaptation gives to its terms, and the protocols of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ..tokens.parameters import TokenParameters
from .references import References


__all__ = ["Context", "Features", "Learner", "Term"]

# pictures [N, 3, R, R] -> maps [N, C, h, w], fine to coarse
Features: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


@dataclass(eq=False)
class Context:
    """One step: N samples before and after, and the pictures of the style. Costly parts are made on first use.

    All pictures are squares of r x r pixels, whole ones or the same window of each.
    """

    step: int
    progress: float  # of the whole run, 0 to 1
    turn: int  # how often whole references were seen before: each is redrawn in its turn
    w_plus: Tensor  # [N, L, D]
    references: References
    chosen: Tensor  # [N, 3, r, r]: references of this step, repeated where there are fewer than N
    reference_features: Sequence[Tensor]  # of all references; empty where there are no ``features``
    typical_features: Sequence[Tensor]  # of some fixed samples without tokens; empty likewise
    inversions: Tensor | None  # [M, L, D]: w+ of the references, where they were looked for
    parameters: TokenParameters
    rng: torch.Generator  # of this step: the only source of chance
    draw: Callable[[Tensor], Tensor]  # w+ [n, L, D] -> pictures with the present tokens
    plain: Callable[[Tensor], Tensor]  # the same without tokens
    features: Features | None  # frozen; None: there is neither a discriminator nor a perceptual network

    @cached_property
    def adapted(self) -> Tensor:
        """The samples with the present tokens, [N, 3, r, r]; gradients flow to these."""
        return self.draw(self.w_plus)

    @cached_property
    def source(self) -> Tensor:
        """The samples without tokens, [N, 3, r, r], without gradients."""
        with torch.no_grad():
            return self.plain(self.w_plus)

    @cached_property
    def source_features(self) -> Sequence[Tensor]:
        """Feature maps of ``source``."""
        with torch.no_grad():
            return self._features(self.source)

    @cached_property
    def adapted_features(self) -> Sequence[Tensor]:
        """Feature maps of ``adapted``."""
        return self._features(self.adapted)

    def _features(self, pictures: Tensor) -> Sequence[Tensor]:
        assert self.features is not None, "a term that compares features needs a network that gives them"
        return self.features(pictures)


class Term(Protocol):
    """A part of the objective: ``weight`` times what the call returns, a scalar, is minimised."""

    name: str
    weight: float

    def __call__(self, context: Context) -> Tensor:
        """The term at this step."""


@runtime_checkable
class Learner(Protocol):
    """A term that learns as well, such as a discriminator."""

    def learn(self, context: Context) -> Mapping[str, float]:
        """Make a step of its own after the step of the tokens, and return metrics."""

    def state(self) -> dict[str, Tensor]:
        """What it has learnt, as tensors by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``."""
