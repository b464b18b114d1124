"""Distances between pictures, and between sets of pictures. Pure functions; no network of its own.

Pictures are ``[N, 3, H, W]`` in [-1, 1]. Features are ``[N, F]`` of any network. Sums over sets run in float64 on the
CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import ShapeError
from ..runtime.optional import optional


__all__ = [
    "Estimate",
    "PairDistance",
    "frechet_distance",
    "intra_cluster_diversity",
    "kernel_distance",
    "ms_ssim",
    "pairwise_diversity",
]

PairDistance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # two batches [N, ...] -> [N]


@dataclass(frozen=True)
class Estimate:
    """Mean of several estimates and their standard deviation."""

    mean: float
    std: float


# --- sets -----------------------------------------------------------------------------------------------------------


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features ``[N, F]``, ``[M, F]`` (Heusel et al. 2017, arXiv 1706.08500).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)``. Biased: it falls as N and M grow, so compare at equal numbers only.

    Raises:
        ShapeError: These are not two sets of at least two features of the same width.
    """
    x, y = _features(x, y)
    cx, cy = torch.cov(x.T), torch.cov(y.T)  # [F, F]
    # tr (C1 C2)^1/2 = tr (R C2 R)^1/2 with R = C1^1/2: symmetric, so its eigenvalues are real
    values, vectors = torch.linalg.eigh(cx)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cy @ root).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + cx.trace() + cy.trace() - 2 * cross)


def kernel_distance(x: Tensor, y: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """Unbiased squared MMD with the kernel ``(a.b / F + 1)^3`` (KID: Binkowski et al. 2018, arXiv 1801.01401).

    Args:
        x: Features ``[N, F]``.
        y: Features ``[M, F]``.
        subsets: The number of estimates to average.
        size: Features drawn from either set for each estimate, without replacement; at most the smaller set.
        seed: The seed of the draw.

    Returns:
        Mean over the subsets and the standard deviation between them. Around 0 (also below) for equal distributions.
    """
    x, y = _features(x, y)
    size = min(size, len(x), len(y))
    random = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(subsets):
        a, b = (s[torch.randperm(len(s), generator=random)[:size]] for s in (x, y))
        xx, yy, xy = _kernel(a, a), _kernel(b, b), _kernel(a, b)  # [size, size]
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        estimates.append(float(within - 2 * xy.mean()))
    values = torch.tensor(estimates, dtype=torch.float64)
    return Estimate(float(values.mean()), float(values.std(correction=0)))


def pairwise_diversity(items: Tensor, distance: PairDistance, pairs: int = 1000, seed: int = 0) -> float:
    """Mean distance between two different items of ``[N, ...]``: over all pairs, or ``pairs`` drawn ones if fewer."""
    first, second = torch.triu_indices(len(items), len(items), offset=1)
    if not len(first):
        raise ShapeError("Diversity needs at least two items.")
    chosen = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))[:pairs]
    found = [distance(items[first[c]], items[second[c]]).cpu().double() for c in torch.split(chosen, 64)]
    return float(torch.cat(found).mean())


def intra_cluster_diversity(
    items: Tensor, references: Tensor, distance: PairDistance, pairs: int = 1000, seed: int = 0
) -> float:
    """Diversity that copies of the references do not have (Ojha et al. 2021, CDC, arXiv 2104.06820, section 4.1).

    Each item joins its nearest reference; ``pairwise_diversity`` is taken in each cluster of at least two and averaged
    over the clusters. With a perceptual distance this is intra-LPIPS. 0 where every item repeats its reference.
    """
    to_each = torch.stack([distance(items, r.expand_as(items)) for r in references], dim=1)  # [N, R]
    nearest_reference = to_each.argmin(dim=1)
    clusters = [items[nearest_reference == r] for r in range(len(references))]
    found = [pairwise_diversity(cluster, distance, pairs, seed) for cluster in clusters if len(cluster) > 1]
    if not found:
        raise ShapeError("No reference has two items near it: draw more items.")
    return sum(found) / len(found)


# --- pairs ----------------------------------------------------------------------------------------------------------


MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363)  # the first four of Wang et al. 2003, rescaled to sum to 1 below


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity of pictures ``[N, 3, H, W]``, H and W at least 99, -> ``[N]``; 1 if equal.

    Four scales, not the five of Wang et al. 2003: the fifth does not fit into 128 pixels.

    Raises:
        MissingDependencyError: torchmetrics is not installed.
    """
    image = optional("torchmetrics.functional.image", "MS-SSIM", "refinestyle-hub[train]")
    _pictures(x, y)
    betas = tuple(weight / sum(MS_SSIM_WEIGHTS) for weight in MS_SSIM_WEIGHTS)
    similarity = image.multiscale_structural_similarity_index_measure
    found: Tensor = similarity(x, y, data_range=2.0, betas=betas, reduction="none")
    return found


# --- parts ----------------------------------------------------------------------------------------------------------


def _features(x: Tensor, y: Tensor) -> Sequence[Tensor]:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or not (len(x) and len(y)):
        raise ShapeError(f"Two sets of features [N, F], [M, F] are needed, not {list(x.shape)} and {list(y.shape)}.")
    return x.cpu().double(), y.cpu().double()  # not all devices have doubles


def _pictures(x: Tensor, y: Tensor) -> None:
    if x.dim() != 4 or x.shape != y.shape:
        raise ShapeError(f"Two batches of pictures [N, 3, H, W] are needed, not {list(x.shape)} and {list(y.shape)}.")


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
