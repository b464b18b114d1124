"""What a picture shares with its source when only the style may change: relations, not values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["between_samples", "within_samples"]


def between_samples(source: Tensor, adapted: Tensor, temperature: float = 0.2) -> Tensor:
    """Penalise changes in how alike the samples of a batch are: a scalar, 0 where nothing changes.

    Cross-domain correspondence: Ojha et al. 2021 (CDC, arXiv 2104.06820, eq. 2 and 3). For each sample the cosine
    similarities with all others, as a distribution; then the Kullback-Leibler divergence.

    Args:
        source: Features [N, ...] of the source pictures, N at least 2.
        adapted: Features [N, ...] of the same samples in the new style.
        temperature: The temperature of the softmax. The paper has 1, and a weight in the thousands for what that
            leaves.
    """
    wanted, found = (_similarities(x.flatten(1)) / temperature for x in (source, adapted))
    return F.kl_div(found.log_softmax(dim=1), wanted.log_softmax(dim=1), reduction="batchmean", log_target=True)


def within_samples(source: Tensor, adapted: Tensor) -> Tensor:
    """Penalise changes in which places of a picture are alike: a scalar, 0 where nothing changes.

    Self-correlation consistency: Xiao et al. 2022 (RSSA, arXiv 2203.04121, section 3.2). Mean squared difference of
    the cosine similarities between all places; what a picture's features have in common (its style) is left out.

    Args:
        source: Feature maps [N, C, h, w] of the source pictures.
        adapted: Feature maps [N, C, h, w] of the same samples in the new style.
    """
    return (_self_similarity(adapted) - _self_similarity(source)).square().mean()


def _similarities(x: Tensor) -> Tensor:
    """Cosine similarities [N, N - 1] of each of [N, F] with the others."""
    x = F.normalize(x.float() - x.float().mean(dim=0), dim=1)
    n = len(x)
    others = ~torch.eye(n, dtype=torch.bool, device=x.device)
    return (x @ x.mT)[others].reshape(n, n - 1)


def _self_similarity(x: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, h w, h w]."""
    points = x.float().flatten(2)
    points = F.normalize(points - points.mean(dim=2, keepdim=True), dim=1)
    return points.mT @ points
