"""What a generator tells an encoder about a drawing of a picture: which way the tokens would have to go.

An encoder that sees the picture, the drawing and their difference must learn by itself what each kernel does to a
drawing. The gradient of the distance by the tokens says so for this very picture: each look of the second stage
becomes a step of a learned descent (Andrychowicz et al. 2016, arXiv 1606.04474; Adler and Öktem 2017, arXiv
1704.04058), at the price of two gradients of a drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generators.base import Generator
from ..losses.perceptual import MIN_SIDE, Perceptual
from ..losses.pixel import mse
from ..tokens.batch import TokenBatch
from ..tokens.token_set import LayerTokens


__all__ = ["DISTANCES", "Feedback", "Told"]

DISTANCES = 2  # whose gradients are told: the squared error of the pixels, and the perceptual distance


class Told(NamedTuple):
    """Gradients of both distances by the tokens of a layer; the root of the mean square of each is 1 for each picture,
    or it is 0, as that by Q is where P is: how far to go is for the encoder to say."""

    p: Tensor  # [N, T, 2, O]
    q: Tensor  # [N, T, 2, I], or [N, T, 2, I k k] where every token has its own taps


class Feedback:
    """On drawings of N pictures; what each look at the same pictures needs again is computed once.

    Args:
        pictures: [N, 3, R, R] in [-1, 1], which are to be drawn.
        perceptual: looks at both averaged to ``size`` x ``size`` pixels, or what it needs at least.
    """

    def __init__(self, pictures: Tensor, perceptual: Perceptual, size: int) -> None:
        self._side = max(size, MIN_SIDE)
        with torch.inference_mode(False), torch.no_grad():  # no graph takes tensors of inference mode
            self._pictures = pictures.detach().clone()
            self._perceptual = perceptual.reference(self._small(self._pictures))

    def __call__(
        self,
        generator: Generator,
        w_plus: Tensor,
        tokens: Mapping[str, LayerTokens],
        finish: Callable[[dict[str, LayerTokens]], dict[str, LayerTokens]],
    ) -> tuple[Tensor, dict[str, Told]]:
        """Draw, and take the gradients of the distances from the pictures.

        Args:
            w_plus: [N, L, D]. tokens: of N samples, by layer, and ``finish`` makes of them what the generator takes.

        Returns:
            The drawing [N, 3, R, R], and the gradients by layer. Both without a graph.
        """
        with torch.inference_mode(False), torch.enable_grad():  # a graph is needed even where the caller wants none
            held = {name: _detached(x) for name, x in tokens.items()}
            drawn = generator(w_plus.detach().clone(), TokenBatch(len(w_plus), finish(held)))
            distances = [mse(drawn.float(), self._pictures).sum(), self._perceptual(self._small(drawn)).sum()]
            free = [tensor for x in held.values() for tensor in (x.p, x.q)]
            gradients = [torch.autograd.grad(x, free, retain_graph=x is distances[0]) for x in distances]
        both = [_even(torch.stack(pair, dim=2).flatten(3)) for pair in zip(*gradients, strict=True)]
        return drawn.detach(), {name: Told(*both[2 * i : 2 * i + 2]) for i, name in enumerate(held)}

    def _small(self, pictures: Tensor) -> Tensor:
        return F.interpolate(pictures.float(), size=(self._side, self._side), mode="area")


def _even(gradient: Tensor) -> Tensor:
    """[N, T, 2, C], the root of the mean square being 1 for each picture and distance."""
    gradient = gradient.float()
    return gradient * gradient.square().mean(dim=(1, 3), keepdim=True).clamp_min(1e-24).rsqrt()


def _detached(tokens: LayerTokens) -> LayerTokens:
    """The same numbers, of which P and Q can move."""
    p, q = (x.detach().clone().requires_grad_() for x in (tokens.p, tokens.q))
    return LayerTokens(p, q, None if tokens.a is None else tokens.a.detach().clone(), tokens.pre.clone())
