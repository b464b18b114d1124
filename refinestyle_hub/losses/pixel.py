"""Squared distance of pictures, and how they are shrunk before they are compared."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


__all__ = ["mse", "shrink"]


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference [N] of pictures [N, 3, H, W]; in [-1, 1] the largest is 4."""
    return (x - y).square().mean(dim=(1, 2, 3))


def shrink(x: Tensor, largest: int) -> Tensor:
    """Pictures [N, 3, H, W] averaged down by a power of two until neither side is larger than ``largest``."""
    factor = 1
    while max(x.shape[2:]) > largest * factor:
        factor *= 2
    return F.avg_pool2d(x, factor) if factor > 1 else x
