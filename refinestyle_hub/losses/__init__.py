"""Distances between pictures, and regularisers of what is optimised."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .perceptual import Perceptual


__all__ = ["Perceptual", "code_spread", "mse", "shrink"]


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference [N] of pictures [N, 3, H, W]; in [-1, 1] the largest is 4."""
    return (x - y).square().mean(dim=(1, 2, 3))


def code_spread(w_plus: Tensor) -> Tensor:
    """How far the codes of w+ [N, L, D] lie from their own mean: mean squared distance [N], 0 in W.

    Codes that agree stay editable (Tov et al. 2021, e4e, section 3.2, which penalises the offsets from the first).
    """
    return (w_plus - w_plus.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1)


def shrink(x: Tensor, largest: int) -> Tensor:
    """Pictures [N, 3, H, W] averaged down by a power of two until neither side is larger than ``largest``."""
    factor = 1
    while max(x.shape[2:]) > largest * factor:
        factor *= 2
    return F.avg_pool2d(x, factor) if factor > 1 else x
