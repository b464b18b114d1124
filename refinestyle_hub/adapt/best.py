"""What a run keeps of its tokens: their running average, and the best average so far."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..runtime.optim import update_average
from ..tokens.parameters import TokenParameters


__all__ = ["Best"]

BEGINNING = 10  # steps; the average reaches over fewer of them at first


class Best:
    """The running average ``now`` of tokens that are optimised, and ``tokens``, the best average so far, of ``step``.

    The best is the last of the measured ones whose distance from the pictures is at most ``slack`` times the smallest.
    """

    def __init__(self, parameters: TokenParameters, slack: float) -> None:
        """Begin with the tokens as they are."""
        self.slack = slack
        self.now = copy.deepcopy(parameters).requires_grad_(False)
        self.tokens = copy.deepcopy(self.now)
        self.step, self.nearest = 0, math.inf

    def update(self, parameters: TokenParameters, step: int, decay: float) -> None:
        """Average the tokens after a step, counted from 1."""
        update_average(self.now, parameters, min(decay, step / (step + BEGINNING)))

    def add(self, step: int, distance: float) -> None:
        """Keep the average of this step if it is near enough."""
        self.nearest = min(self.nearest, distance)
        if self.is_near(distance):
            self.step = step
            self.tokens.load_state_dict(self.now.state_dict())

    def is_near(self, distance: float) -> bool:
        """Whether an average of this distance is near enough, beside the nearest so far."""
        return distance <= self.slack * self.nearest

    def tensors(self) -> dict[str, Tensor]:
        """Both averages by name, as ``restore`` takes them."""
        both = (("average", self.now), ("best", self.tokens))
        return {f"{part}.{name}": leaf for part, tokens in both for name, leaf in tokens.named_parameters()}

    def numbers(self) -> list[Any] | None:
        """The step of the best, and the nearest distance; None before the first measurement."""
        return None if math.isinf(self.nearest) else [self.step, self.nearest]

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Any) -> None:
        """Continue from ``tensors()`` and ``numbers()``. Raises KeyError, RuntimeError, TypeError or ValueError."""
        for name, leaf in self.tensors().items():
            leaf.copy_(tensors[name])
        if numbers is not None:
            self.step, self.nearest = int(numbers[0]), float(numbers[1])
