"""Gradient feedback: which way the tokens of a render would have to move.

A stage that sees an image, its render and their difference must learn by itself what each kernel does to a render. The
gradient of a distance with respect to the tokens says so for this very image: each iteration becomes a step of a
learned descent (Andrychowicz et al. 2016, arXiv 1606.04474; Adler and Öktem 2017, arXiv 1704.04058), at the price of
two gradients of a render.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generators.base import Generator
from ..losses.identity_network import IdentityDistance
from ..losses.perceptual import MIN_SIDE, Perceptual
from ..losses.pixel import mse
from ..tokens.batch import TokenBatch
from ..tokens.layer_tokens import LayerTokens


__all__ = ["DISTANCES", "FeedbackDistance", "Reference", "TokenGradients", "render_with_gradients"]

DISTANCES = 2  # the squared error of the pixels, and the feedback distance


class TokenGradients(NamedTuple):
    """Gradients of both distances with respect to the tokens of a layer.

    For each image and distance the root mean square is 1, so that the stage alone decides the length of a step; or it
    is 0, as that by Q is where P is.
    """

    p: Tensor  # [N, T, 2, O]
    q: Tensor  # [N, T, 2, I], or [N, T, 2, I k k] where every token has its own taps


class FeedbackDistance(NamedTuple):
    """The perceptual distance, and with a weight the distance in features that tell people apart."""

    perceptual: Perceptual
    identity: IdentityDistance | None = None
    weight: float = 0.0  # of the second


class Reference:
    """Images [N, 3, S, S] in [-1, 1] that renders are compared with; their features are computed once.

    Args:
        distance: Compares both averaged to ``size`` x ``size`` pixels, or to the least that it needs.
    """

    def __init__(self, images: Tensor, distance: FeedbackDistance, size: int) -> None:
        self.resolution, self._side = images.shape[-1], max(size, MIN_SIDE)
        self._weight = distance.weight
        with torch.inference_mode(False), torch.no_grad():  # no graph takes tensors of inference mode
            self._images = images.detach().clone()
            self._perceptual = distance.perceptual.reference(self._small(self._images))
            self._identity = distance.identity and distance.identity.reference(self._small(self._images))

    def distances(self, rendered: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        """Both distances of renders [N, 3, S, S], each summed over the batch; chips of faces take turns."""
        small = self._small(rendered)
        total = self._perceptual(small).sum()
        if self._identity is not None:
            total = total + self._weight * self._identity(turn, small).sum()
        return mse(rendered.float(), self._images).sum(), total

    def _small(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float(), size=(self._side, self._side), mode="area")


def render_with_gradients(
    generator: Generator, w_plus: Tensor, tokens: Mapping[str, LayerTokens], reference: Reference, turn: int = 0
) -> tuple[Tensor, dict[str, TokenGradients]]:
    """Render w+ [N, L, D] with tokens of N samples by layer, and differentiate its distances from the reference.

    Args:
        turn: Which of the chips of a face is compared, where faces are.

    Returns:
        The render [N, 3, S, S] of the reference's size, and the gradients by layer; both without a graph.
    """
    with torch.inference_mode(False), torch.enable_grad():  # a graph is needed even where the caller wants none
        leaves = {name: _leaves(x) for name, x in tokens.items()}
        rendered = generator(w_plus.detach().clone(), TokenBatch(len(w_plus), leaves), resolution=reference.resolution)
        free = [tensor for x in leaves.values() for tensor in (x.p, x.q)]
        pixels, features = reference.distances(rendered, turn)
        gradients = (
            torch.autograd.grad(pixels, free, retain_graph=True),
            torch.autograd.grad(features, free),
        )
    both = [_normalised(torch.stack(pair, dim=2).flatten(3)) for pair in zip(*gradients, strict=True)]
    return rendered.detach(), {name: TokenGradients(*both[2 * i : 2 * i + 2]) for i, name in enumerate(leaves)}


def _normalised(gradient: Tensor) -> Tensor:
    """[N, T, 2, C] with a root mean square of 1 for each image and distance."""
    gradient = gradient.float()
    return gradient * gradient.square().mean(dim=(1, 3), keepdim=True).clamp_min(1e-24).rsqrt()


def _leaves(tokens: LayerTokens) -> LayerTokens:
    """A copy whose P and Q require gradients."""
    p, q = (x.detach().clone().requires_grad_() for x in (tokens.p, tokens.q))
    return LayerTokens(p, q, None if tokens.a is None else tokens.a.detach().clone(), tokens.pre.clone())
