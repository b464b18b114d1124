"""Differentiable augmentation of what a discriminator sees (Zhao et al. 2020, arXiv 2006.10738), without colour.

A discriminator that sees a handful of pictures soon knows them by heart; moved and with holes they are always new.
Colours are left alone: they are what a style is made of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["augment", "cut_out", "translate"]


def augment(x: Tensor, rng: torch.Generator, shift: float = 0.125, hole: float = 0.4) -> Tensor:
    """Each of [N, 3, H, W] mirrored or not, moved, and with a square of zeros."""
    flips = torch.rand(len(x), generator=rng).to(x.device) < 0.5
    x = torch.where(flips[:, None, None, None], x.flip(3), x)
    return cut_out(translate(x, rng, shift), rng, hole)


def translate(x: Tensor, rng: torch.Generator, shift: float = 0.125) -> Tensor:
    """Move each of [N, C, H, W] by whole pixels, up to ``shift`` of the side; its edge is repeated."""
    height, width = x.shape[2:]
    down, right = round(height * shift), round(width * shift)
    padded = F.pad(x, (right, right, down, down), mode="replicate")
    tops = torch.randint(2 * down + 1, (len(x),), generator=rng).tolist()
    lefts = torch.randint(2 * right + 1, (len(x),), generator=rng).tolist()
    moved = [p[:, t : t + height, s : s + width] for p, t, s in zip(padded, tops, lefts, strict=True)]
    return torch.stack(moved)


def cut_out(x: Tensor, rng: torch.Generator, hole: float = 0.4) -> Tensor:
    """Set a square of ``hole`` times the side to 0 in each of [N, C, H, W]; it may reach over the edge."""
    sides = torch.tensor(x.shape[2:])
    centres = (torch.rand(len(x), 2, generator=rng) * sides).to(x.device)  # [N, 2]
    inside = []
    for axis, side in enumerate(x.shape[2:]):
        places = torch.arange(side, device=x.device) + 0.5
        inside.append((places - centres[:, axis, None]).abs() < hole * side / 2)  # [N, side]
    return x * ~(inside[0][:, :, None] & inside[1][:, None, :])[:, None]
