"""The colours of a style in closed form: where an adaptation begins, and where it ends.

Few steps on few pictures learn slowly that a blue wall is grey in a style without colours: most samples have no blue.
The linear map that gives one set of colours the mean and the covariance of another, and moves them least on the way,
is known (Pitie and Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping"). On the kernel of toRGB it is
a change of low rank, so tokens hold it exactly. They stand beside those that are learnt, and stay: were they learnt
further, hues would come back where no picture shows any, and lightness would have fewer tokens left. Lightness is left
to the steps: strokes and paper share it out. What the other layers learn moves the hues a little, so the result gets
them once more.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generators.base import Generator
from ..losses.sliced import OPPONENT
from ..tokens.layer_tokens import LayerTokens
from ..tokens.parameters import TokenParameters, factors
from ..tokens.token_set import TokenSet


__all__ = ["begin_with_palette", "colour_map", "end_with_palette", "recolouring"]

FLAT = 1e-4  # added to variances of colours in [-1, 1], so that a flat set has a map


def colour_map(x: Tensor, y: Tensor, widest: float = math.inf) -> tuple[Tensor, Tensor]:
    """M [3, 3] and t [3]: hues of M c + t, at each lightness, are distributed as those of ``y``; lightness stays.

    Hues are taken as normal with a mean that is linear in lightness, counted in its own deviations.

    Args:
        x, y: Pictures [N, 3, H, W] and [M, 3, H', W'].
        widest: The largest factor by which hues are drawn apart.
    """
    axes = F.normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1)  # [3, 3]: lightness, and two of hue
    (mean_x, deviation, slope_x, rest_x), (mean_y, _, slope_y, rest_y) = (_moments(axes, one) for one in (x, y))
    root, inverse = (_power(rest_x, exponent) for exponent in (0.5, -0.5))
    turn = inverse @ _power(root @ rest_y @ root, 0.5) @ inverse  # of hues around their mean
    values, vectors = torch.linalg.eigh(turn)
    turn = vectors * values.clamp_max(widest) @ vectors.mT
    change = torch.cat([(slope_y - turn @ slope_x)[:, None] / deviation, turn], dim=1)  # [2, 3]: colours to hues
    offset = mean_y[1:] - change @ mean_x
    whole = axes.mT @ torch.cat([torch.eye(3).to(axes)[:1], change]) @ axes
    return whole.to(x), (axes[1:].mT @ offset).to(x)


def _moments(axes: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of colours along ``axes``: their mean [3], the deviation of lightness [], the change of hues for it [2], and the
    covariance of hues around that [2, 2]."""
    colours = axes @ pictures.cpu().double().transpose(0, 1).flatten(1)  # [3, pixels]; not all devices have doubles
    covariance = colours.cov() + FLAT * torch.eye(3).to(axes)
    deviation = covariance[0, 0].sqrt()
    slope = covariance[1:, 0] / deviation
    return colours.mean(dim=1), deviation, slope, covariance[1:, 1:] - torch.outer(slope, slope)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    found: Tensor = vectors * values.clamp_min(1e-12) ** exponent @ vectors.mT
    return found


@torch.no_grad()
def begin_with_palette(parameters: TokenParameters, generator: Generator, samples: Tensor, pictures: Tensor) -> None:
    """Fix tokens of toRGB layers, and start bias offsets, so that samples have the hues of ``pictures``.

    Args:
        parameters: What the adaptation learns; layers that it lacks stay as they are.
        generator: What the tokens refine.
        samples: Of the generator without tokens, [N, 3, H, W] in [-1, 1].
        pictures: Of the style, [M, 3, H', W'] in [-1, 1].
    """
    for name, change in generator.recoloured(*colour_map(samples, pictures)).items():
        if name in parameters.names:
            parameters.begin(name, *change)


@torch.no_grad()
def recolouring(generator: Generator, samples: Tensor, pictures: Tensor) -> TokenSet:
    """Tokens of toRGB layers that give ``samples`` of a generator the hues of ``pictures``, and draw none apart.

    Hues that the pictures have beside those that lightness tells are learnt by then: to draw them further apart would
    paint what little is left of the source's.
    """
    layers = {}
    for name, (change, offset) in generator.recoloured(*colour_map(samples, pictures, 1.0)).items():
        p, q = factors(change, generator.kernel_stats()[name].norm)
        layers[name] = LayerTokens(p, q, None, torch.ones(len(p), dtype=torch.bool, device=p.device), offset)
    return TokenSet(layers)


def end_with_palette(tokens: TokenSet, generator: Generator, samples: Tensor, pictures: Tensor) -> TokenSet:
    """Give a token set the hues of ``pictures`` once more, in the layers that it has.

    Args:
        tokens: Of ``generator``, all before the modulation.
        samples: Drawn with them, [N, 3, H, W] in [-1, 1].
        pictures: Of the style, [M, 3, H', W'] in [-1, 1].
    """
    layers = dict(tokens.layers)
    drawing = generator.merge(replace(tokens, base=None))  # a run's copy of half weights has another fingerprint
    for name, found in recolouring(drawing, samples, pictures).layers.items():
        if mine := layers.get(name):
            bias = None if mine.bias is None else found.bias  # none is offset where none was learnt
            layers[name] = LayerTokens.concatenate([mine, replace(found, bias=bias)])
    return replace(tokens, layers=layers)
