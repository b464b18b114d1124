"""What an inversion minimises: pixels, perceptual distance at two sizes, features of the face, and a regulariser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..losses.perceptual import Perceptual
from ..losses.pixel import shrink
from ..runtime.bf16 import in_bf16


__all__ = ["FINE", "Distance", "InversionLoss", "LossValues", "perceptual_distances"]

Distance: TypeAlias = Callable[[Tensor], Tensor]  # pictures [N, 3, R, R] -> [N]
FINE, SMALLEST = 256, 32  # pixels: the largest and the smallest size at which the perceptual distance is taken


def perceptual_distances(
    crops: Tensor, perceptual: Perceptual, compiled: bool = False, half: bool = False
) -> list[Distance]:
    """Distances from ``crops``, fine (as they are, up to 256 px) and coarse (at half that size).

    For w+ the coarse one will do, at a quarter of the cost. Tokens need both: each scale alone is satisfied by
    patterns that the other finds wrong. Where gradients are wanted, ``compiled`` takes them by a graph of
    torch.compile, and ``half`` computes the network's maps in bfloat16 where the processor has it; they are compared
    in float32.
    """

    def at(size: int) -> Distance:
        reference = cache(lambda: perceptual.reference(shrink(crops, size), compiled))  # not all distances are used

        def distance(pictures: Tensor) -> Tensor:
            near = reference()  # the crops' own maps are in float32
            with in_bf16(pictures.device, half and pictures.requires_grad):
                return near(shrink(pictures, size))

        return distance

    side = min(crops.shape[-1], FINE)
    return [at(side), at(max(side // 2, SMALLEST))]


class LossValues(NamedTuple):
    """The loss of one step."""

    loss: Tensor  # [N], to be descended
    total: Tensor  # [N], by which answers are compared
    metrics: Mapping[str, float]


class InversionLoss:
    """Pixels, perceptual distance, identity and regularisers.

    A step descends one of the perceptual distances, in turn, for they are most of its cost; answers are compared by
    the mean of what each gave last.
    """

    def __init__(
        self,
        pixels: Distance,
        perceptual: Sequence[Distance],
        weight: float,
        on_pictures: Callable[[Tensor], object] | None = None,  # called with those of each step, [N, 3, R, R]
        identity: Callable[[int, Tensor], Tensor] | None = None,  # of the step and its pictures, [N]; has its weight
    ) -> None:
        self.pixels, self.perceptual, self.weight = pixels, perceptual, weight
        self.on_pictures, self.identity = on_pictures, identity
        self.latest: list[Tensor] = []  # [N] of each perceptual distance

    def __call__(self, step: int, pictures: Tensor, penalty: Tensor) -> LossValues:
        if self.on_pictures is not None:
            self.on_pictures(pictures.detach())
        turn = step % len(self.perceptual)
        squares, near = self.pixels(pictures), self.perceptual[turn](pictures)  # [N]
        if not self.latest:
            with torch.no_grad():
                self.latest = [near if i == turn else other(pictures) for i, other in enumerate(self.perceptual)]
        self.latest[turn] = near.detach()
        distances = torch.stack(self.latest).mean(dim=0)
        rest = squares + penalty
        if self.identity is not None:
            rest = rest + self.identity(step, pictures)
        metrics = {"mse": float(squares.detach().mean()), "perceptual": float(distances.mean())}
        return LossValues(rest + self.weight * near, rest.detach() + self.weight * distances, metrics)
