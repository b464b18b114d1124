"""Styles of our own, as filters of portraits: any number of true pictures of each can be made.

A filter takes pictures ``[N, 3, H, W]`` in [-1, 1] and a source of chance, and returns pictures likewise. Sizes are in
shares of the picture's side, so the styles are the same at any resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub.train.degrade import gaussian_blur


__all__ = ["FILTERS", "Filter"]

Filter: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def grey(x: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> luminance [N, 1, H, W] in [0, 1]."""
    return (torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))[:, None] + 1) / 2


def noise(x: Tensor, cells: int, rng: torch.Generator) -> Tensor:
    """Smooth noise [N, 1, H, W] of deviation 1 or less, with so many cells along a side."""
    coarse = torch.randn(len(x), 1, cells, cells, generator=rng).to(x)
    return F.interpolate(coarse, x.shape[2:], mode="bicubic", align_corners=False)


def painted(light: Tensor, colours: list[tuple[float, float, float]]) -> Tensor:
    """Luminance [N, 1, H, W] in [0, 1] -> a ramp through ``colours`` in [0, 1], [N, 3, H, W] in [-1, 1]."""
    stops = light.new_tensor(colours)  # [K, 3]
    place = light[:, 0].clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - low)[..., None]
    return (stops[low] * (1 - share) + stops[low + 1] * share).permute(0, 3, 1, 2) * 2 - 1


def charcoal(x: Tensor, rng: torch.Generator) -> Tensor:
    """Dark lines and soft shading on grained paper, without colour."""
    light, side = grey(x), x.shape[-1]
    lines = (light / gaussian_blur(light, side / 48).clamp(min=0.05)).clamp(0, 1) ** 4  # darker than what is around
    shading = 0.45 + 0.55 * (gaussian_blur(light, side / 64) * 3).round() / 3
    grain = 1 + 0.06 * noise(x, side // 2, rng)
    return painted(lines * shading * grain, [(0.08, 0.08, 0.09), (0.93, 0.91, 0.87)])


def woodcut(x: Tensor, rng: torch.Generator) -> Tensor:
    """Few flat, strong colours and dark contours."""
    side = x.shape[-1]
    flat = gaussian_blur(x, side / 64)
    light = grey(flat)
    levels = (light * 4).round() / 4
    strong = (levels + 0.8 * (flat - 2 * light + 1)).clamp(0, 1)  # of each level the picture's hue, made stronger
    across, down = light[..., :, 1:] - light[..., :, :-1], light[..., 1:, :] - light[..., :-1, :]
    steep = F.pad(across.abs(), (0, 1)) + F.pad(down.abs(), (0, 0, 0, 1))
    ink = (1 - steep * side / 12).clamp(0, 1)
    warm = x.new_tensor([1.0, 0.92, 0.75])[:, None, None]
    return strong * warm * ink * 2 - 1


def copper(x: Tensor, rng: torch.Generator) -> Tensor:
    """Beaten metal: one ramp of colours, hard lights, dents."""
    light, side = grey(x), x.shape[-1]
    local = (light - gaussian_blur(light, side / 8)) * 1.8 + 0.45 + 0.06 * noise(x, side // 6, rng)
    return painted(local, [(0.1, 0.04, 0.03), (0.45, 0.2, 0.1), (0.85, 0.5, 0.3), (1.0, 0.92, 0.8)])


def bulge(x: Tensor, rng: torch.Generator) -> Tensor:
    """A shape: the upper head swells, the chin narrows, the skin turns blue-green."""
    n, _, height, width = x.shape
    down, across = torch.meshgrid(
        torch.linspace(-1, 1, height, device=x.device), torch.linspace(-1, 1, width, device=x.device), indexing="ij"
    )
    head = torch.exp(-((down + 0.25) ** 2) / 0.18 - across**2 / 0.5)  # about the brow
    chin = torch.exp(-((down - 0.55) ** 2) / 0.08 - across**2 / 0.3)
    grid = torch.stack([across * (1 - 0.38 * head + 0.5 * chin), down - 0.3 * head * (down + 0.25)], dim=-1)
    moved = F.grid_sample(x, grid.expand(n, -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=True)
    mixed = torch.einsum("nchw,dc->ndhw", moved, x.new_tensor([[0.5, 0.0, 0.0], [0.4, 0.6, 0.2], [0.2, 0.3, 0.7]]))
    return mixed.clamp(-1, 1)


FILTERS: Mapping[str, Filter] = {"charcoal": charcoal, "woodcut": woodcut, "bulge": bulge, "copper": copper}
