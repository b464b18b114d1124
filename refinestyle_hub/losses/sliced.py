"""Sliced Wasserstein distances of pictures and of feature maps, as sets of local patches: no pairs are needed.

Rabin et al. 2011; on bands of pictures Karras et al. 2018 (arXiv 1710.10196, section 5); on feature maps as a loss for
textures, with tags that say where a feature lies, Heitz et al. 2021 (arXiv 2006.07229, sections 3 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["bands", "opponent", "sliced_features", "sliced_pictures", "sliced_wasserstein"]

OPPONENT = ((0.577, 0.577, 0.577), (2.12, 0.0, -2.12), (-1.225, 2.45, -1.225))  # orthogonal rows
SMALLEST_BAND = 16  # pixels: what is left holds the colours
FLAT = 0.05  # share of the variance of both sets that ``y`` is taken to have at least
PLACES = 1024  # of a map of ``x`` that are compared, at most: a grid of random offset; of all of ``y`` as many in all


def sliced_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of point sets on D lines, mean over them.

    Args:
        x: Projections [P, D].
        y: Projections [P', D]. Where their number is another, their quantiles at the places of ``x`` count.
    """
    x, y = x.sort(dim=0).values, y.sort(dim=0).values
    return (x - _quantiles(y, len(x))).square().mean()


def opponent(x: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] in lightness and two opponent colours, these at three times their size: in most pictures
    they vary that much less, and would hardly count."""
    return torch.einsum("ij,njhw->nihw", x.new_tensor(OPPONENT), x)


def bands(x: Tensor) -> list[Tensor]:
    """Laplacian pyramid of pictures [N, 3, H, W]: details of each octave, and last the colours at 16 px or less."""
    found = []
    while x.shape[-1] > SMALLEST_BAND:
        low = F.avg_pool2d(x, 2)
        found.append(x - F.interpolate(low, scale_factor=2.0, mode="bilinear"))
        x = low
    return [*found, x]


def sliced_pictures(x: Tensor, y: Tensor, rng: torch.Generator, lines: int = 32, place: float = 0.5) -> Tensor:
    """Distance of 3x3 patches of pictures [N, 3, H, W] and [M, 3, H, W], mean over the bands of their pyramids.

    Each band counts relative to its variance in ``y``. ``place``: weight of where a patch lies, in deviations.
    ``y`` is best the whole of a style. The set that is nearest on average to small draws of it is narrower than it is:
    four pictures that differ in one normal number are drawn to 0.58 of its deviation by four at a time, to 0.67 by 20.
    """
    return _compare(bands(opponent(x)), bands(opponent(y)), rng, lines, place, kernel=3)


def sliced_features(
    x: Sequence[Tensor], y: Sequence[Tensor], rng: torch.Generator, lines: int = 32, place: float = 0.5
) -> Tensor:
    """Distance of features in maps [N, C, h, w] and [M, C, h, w], mean over the maps, relative to their variance."""
    return _compare(x, y, rng, lines, place, kernel=1)


def _compare(
    x: Sequence[Tensor], y: Sequence[Tensor], rng: torch.Generator, lines: int, place: float, kernel: int
) -> Tensor:
    distances = []
    for a, b in zip(x, y, strict=True):
        filters = torch.randn(lines, a.shape[1], kernel, kernel, generator=rng).to(a)
        filters = filters / filters.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        slopes = place * torch.randn(2, lines, generator=rng)
        strides = _strides(a, b)
        corner = torch.randint(max(strides), (2,), generator=rng)
        points, tags = [], []
        for maps, stride in zip((a, b), strides, strict=True):
            top, left = (corner % stride).tolist()  # the same grid where the strides are the same
            rows, columns = (
                torch.linspace(-1, 1, side)[start::stride]
                for side, start in zip(maps.shape[-2:], (top, left), strict=True)
            )
            tags.append((torch.cartesian_prod(rows, columns) @ slopes).to(maps))  # [h' w', D]
            points.append(_project(maps, filters, stride, top, left))  # [N, h' w', D]
        p, q = points
        # a flat style has next to no variance
        least = FLAT * torch.cat([p.flatten(0, 1), q.flatten(0, 1)]).detach().var(dim=0).mean()
        scale = (torch.maximum(q.var(dim=(0, 1)).mean(), least) + 1e-8).rsqrt()
        p, q = p * scale + tags[0], q * scale + tags[1]
        distances.append(sliced_wasserstein(p.flatten(0, 1), q.flatten(0, 1)))
    return torch.stack(distances).mean()


def _strides(x: Tensor, y: Tensor) -> tuple[int, int]:
    """Powers of 2, of the grids of either: all maps of ``y`` together have about as many places as those of ``x``."""
    stride = 1
    while x.shape[-2] * x.shape[-1] > PLACES * stride**2:
        stride *= 2
    coarser = stride
    while len(y) * y.shape[-2] * y.shape[-1] > PLACES * len(x) * coarser**2:
        coarser *= 2
    return stride, coarser


def _project(x: Tensor, filters: Tensor, stride: int, top: int, left: int) -> Tensor:
    """Maps [N, C, h, w] along ``filters`` [D, C, k, k] at the places of a grid: [N, h' w', D]."""
    padding = filters.shape[-1] // 2
    x = F.pad(x, (padding,) * 4, mode="replicate") if padding else x
    return F.conv2d(x[:, :, top:, left:], filters, stride=stride).permute(0, 2, 3, 1).flatten(1, 2)


def _quantiles(x: Tensor, count: int) -> Tensor:
    if len(x) == count:
        return x
    return F.interpolate(x.mT[None], size=count, mode="linear", align_corners=True)[0].mT
