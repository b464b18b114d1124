"""What a generator tells an encoder about a drawing of a picture: which way the tokens would have to go.

An encoder that sees the picture, the drawing and their difference must learn by itself what each kernel does to a
drawing. The gradient of the distance by the tokens' P says so for this very picture: each look of the second stage
becomes a step of a learned descent (Andrychowicz et al. 2016, arXiv 1606.04474; Adler and Öktem 2017, arXiv
1704.04058), at the price of two gradients of a drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .generator import Generator
from .losses import Perceptual, mse
from .losses.perceptual import MIN_SIDE
from .token_batch import TokenBatch
from .tokens import LayerTokens


__all__ = ["DISTANCES", "feedback"]

DISTANCES = 2  # whose gradients are told: the squared error of the pixels, and the perceptual distance


def feedback(
    generator: Generator,
    w_plus: Tensor,
    tokens: Mapping[str, LayerTokens],
    finish: Callable[[dict[str, LayerTokens]], dict[str, LayerTokens]],
    pictures: Tensor,
    perceptual: Perceptual,
    size: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw, and take the gradients of the distances from the pictures.

    Args:
        w_plus: [N, L, D]. tokens: of N samples, by layer, and ``finish`` makes of them what the generator takes.
        pictures: [N, 3, R, R] in [-1, 1], which were to be drawn.
        perceptual: looks at both averaged to ``size`` x ``size`` pixels, or what it needs at least.

    Returns:
        The drawing [N, 3, R, R]; and the gradients by layer, [N, T, 2, O], the root of their mean square being 1 for
        each picture, layer and distance: how far to go is for the encoder to say. Both without a graph.
    """
    # a graph is needed even where the caller wants none, and no graph takes tensors of inference mode
    with torch.inference_mode(False), torch.enable_grad():
        w_plus, pictures = w_plus.detach().clone(), pictures.detach().clone()
        held = {name: _detached(x) for name, x in tokens.items()}
        drawn = generator(w_plus, TokenBatch(len(w_plus), finish(held)))
        side = max(size, MIN_SIDE)
        small, wanted = (F.interpolate(x.float(), size=(side, side), mode="area") for x in (drawn, pictures))
        distances = [mse(drawn.float(), pictures).sum(), perceptual(small, wanted).sum()]
        free = [x.p for x in held.values()]
        gradients = [torch.autograd.grad(x, free, retain_graph=x is distances[0]) for x in distances]
    told = {}
    for name, *both in zip(held, *gradients, strict=True):
        gradient = torch.stack(both, dim=2).float()
        told[name] = gradient * gradient.square().mean(dim=(1, 3), keepdim=True).clamp_min(1e-24).rsqrt()
    return drawn.detach(), told


def _detached(tokens: LayerTokens) -> LayerTokens:
    """The same numbers, of which only P can move."""
    a = None if tokens.a is None else tokens.a.detach().clone()
    return LayerTokens(tokens.p.detach().clone().requires_grad_(), tokens.q.detach().clone(), a, tokens.pre.clone())
