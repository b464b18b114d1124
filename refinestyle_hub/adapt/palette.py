"""The colours of a style in closed form: where an adaptation begins.

Few steps on few pictures learn slowly that a blue wall is grey in a style without colours: most samples have no blue.
The linear map that gives one set of colours the mean and the covariance of another, and moves them least on the way,
is known (Pitie and Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping"). On the kernel of toRGB it is
a change of low rank, so tokens hold it exactly. Lightness is left to the steps: strokes and paper share it out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generators.base import Generator
from ..losses.sliced import OPPONENT
from ..tokens.parameters import TokenParameters


__all__ = ["begin_with_palette", "colour_map"]

FLAT = 1e-4  # added to variances of colours in [-1, 1], so that a flat set has a map


def colour_map(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """M [3, 3] and t [3], so that the hues of M c + t have mean and covariance of those of ``y``; lightness stays.

    Args:
        x, y: Pictures [N, 3, H, W] and [M, 3, H', W'].
    """
    plane = F.normalize(torch.tensor(OPPONENT, dtype=torch.float64)[1:], dim=1)  # [2, 3]: what is no lightness
    means, covariances = [], []
    for pictures in (x, y):
        hues = plane @ pictures.cpu().double().transpose(0, 1).flatten(1)  # [2, pixels]; not all devices have doubles
        means.append(hues.mean(dim=1))
        covariances.append(hues.cov() + FLAT * torch.eye(2).to(hues))
    root, inverse = (_power(covariances[0], exponent) for exponent in (0.5, -0.5))
    matrix = inverse @ _power(root @ covariances[1] @ root, 0.5) @ inverse
    offset = means[1] - matrix @ means[0]
    whole = torch.eye(3).to(plane) + plane.mT @ (matrix - torch.eye(2).to(plane)) @ plane
    return whole.to(x), (plane.mT @ offset).to(x)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    found: Tensor = vectors * values.clamp_min(1e-12) ** exponent @ vectors.mT
    return found


@torch.no_grad()
def begin_with_palette(parameters: TokenParameters, generator: Generator, samples: Tensor, pictures: Tensor) -> None:
    """Tokens and bias offsets of toRGB layers begin where samples of the generator have the hues of ``pictures``.

    Args:
        parameters: What the adaptation learns; layers that it lacks stay as they are.
        generator: What the tokens refine.
        samples: Of the generator without tokens, [N, 3, H, W] in [-1, 1].
        pictures: Of the style, [M, 3, H', W'] in [-1, 1].
    """
    for name, change in generator.recoloured(*colour_map(samples, pictures)).items():
        if name in parameters.names:
            parameters.begin(name, *change)
