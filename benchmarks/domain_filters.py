"""Styles of our own, as filters of portraits: any number of true pictures of each can be made.

A filter takes pictures ``[N, 3, H, W]`` in [-1, 1] and a source of chance, and returns pictures likewise. Sizes are in
shares of the picture's side, so the styles are the same at any resolution.
"""

from __future__ import annotations

import math
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


def copper(x: Tensor, rng: torch.Generator) -> Tensor:
    """Beaten metal: one ramp of colours, hard lights, dents."""
    light, side = grey(x), x.shape[-1]
    local = (light - gaussian_blur(light, side / 8)) * 1.8 + 0.45 + 0.06 * noise(x, side // 6, rng)
    return painted(local, [(0.1, 0.04, 0.03), (0.45, 0.2, 0.1), (0.85, 0.5, 0.3), (1.0, 0.92, 0.8)])


def kuwahara(x: Tensor, radius: int) -> Tensor:
    """Flat patches with sharp edges: of the four squares at a pixel the mean of the one that varies least."""
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    mean, square = F.avg_pool2d(padded, radius + 1, 1), F.avg_pool2d(padded.square(), radius + 1, 1)
    spread = (square - mean.square()).sum(dim=1, keepdim=True)
    height, width = x.shape[2:]
    corners = [(slice(top, top + height), slice(left, left + width)) for top in (0, radius) for left in (0, radius)]
    means = torch.stack([mean[:, :, rows, columns] for rows, columns in corners])
    least = torch.stack([spread[:, :, rows, columns] for rows, columns in corners]).argmin(dim=0, keepdim=True)
    return means.gather(0, least.expand(-1, -1, x.shape[1], -1, -1))[0]


def places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels in [-1, 1], [H, W] each."""
    down, across = (torch.linspace(-1, 1, side, device=x.device) for side in x.shape[2:])
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return rows, columns


def pencil(x: Tensor, rng: torch.Generator) -> Tensor:
    """Graphite on white paper: contours, and two layers of hatching where it is dark."""
    side = x.shape[-1]
    light = 1.1 * grey(x)
    tone = gaussian_blur(light, side / 120)
    ink = ((light + 0.04) / (gaussian_blur(light, side / 90) + 0.04)).clamp(0, 1) ** 3.5
    rows, columns = places(x)
    wobble = 0.008 * noise(x, 24, rng)
    for angle, lines, darker in ((0.75, 85, 0.62), (-0.5, 80, 0.38)):
        phase = (columns * math.cos(angle) + rows * math.sin(angle) + wobble) * math.pi * lines
        ink = ink * (1 - ((darker - tone) * 3.2).clamp(0, 0.75) * (0.5 + 0.5 * phase.cos()) ** 1.5)
    grain = 1 + 0.05 * noise(x, side // 3, rng)
    return painted(0.12 + 0.88 * ink * grain, [(0.16, 0.16, 0.18), (0.98, 0.97, 0.95)])


def watercolour(x: Tensor, rng: torch.Generator) -> Tensor:
    """Thin washes without fine detail, on paper that stays white towards the edges."""
    side = x.shape[-1]
    flat = kuwahara(kuwahara(x, max(2, side // 100)), max(2, side // 60))
    light = grey(flat)
    vivid = light + 1.35 * ((flat + 1) / 2 - light)
    washed = 1 - (1 - vivid.clamp(0, 1)) * (0.72 + 0.12 * noise(x, 10, rng))
    soft = gaussian_blur(grey(x), side / 200)
    gathered = 1.6 * (gaussian_blur(soft, side / 60) - soft)  # pigment runs to the dark side of edges
    washed = washed * (1 - gathered.clamp(0, 0.5))
    rows, columns = places(x)
    reach = (columns.square() + (0.95 * rows).square()).sqrt() + 0.12 * noise(x, 7, rng) + 0.03 * noise(x, 40, rng)
    bare = (5 * (reach - 0.78)).clamp(0, 1)
    grain = 1 + 0.03 * noise(x, side // 3, rng)
    return ((washed * (1 - bare) + 0.97 * bare) * grain).clamp(0, 1) * 2 - 1


def popart(x: Tensor, rng: torch.Generator) -> Tensor:
    """A screen print in five flat colours, from dark blue to cream, by lightness alone."""
    side = x.shape[-1]
    light = grey(kuwahara(x, max(2, side // 80)))
    light = 0.7 * (light - gaussian_blur(light, side / 6)) + 0.8 * light + 0.15
    inks = x.new_tensor(
        [(0.09, 0.07, 0.3), (0.8, 0.08, 0.42), (1.0, 0.5, 0.15), (1.0, 0.87, 0.35), (0.97, 0.97, 0.88)]
    )
    print_ = inks[0][:, None, None].expand_as(x)
    for above, ink in zip((0.24, 0.43, 0.62, 0.82), inks[1:], strict=True):
        share = 0.5 + 0.5 * ((light - above) * side / 9).clamp(-1, 1)
        print_ = print_ * (1 - share) + ink[:, None, None] * share
    return print_ * 2 - 1


def engraving(x: Tensor, rng: torch.Generator) -> Tensor:
    """Dark blue ink on warm paper: firm contours, and fine waves that swell with the shade."""
    side = x.shape[-1]
    light = grey(x)
    light = 0.8 * (light - gaussian_blur(light, side / 6)) + 0.75 * light + 0.2
    ink = ((light + 0.04) / (gaussian_blur(light, side / 80) + 0.04)).clamp(0, 1) ** 4
    rows, columns = places(x)
    wave = (rows + 0.02 * (columns * 9).sin() + 0.012 * noise(x, 10, rng)) * math.pi * 80
    shade = (1.15 * gaussian_blur(light, side / 150)).clamp(0, 1)
    lines = (shade + 0.35 * (1 - shade) * wave.cos()).clamp(0, 1)
    return painted(ink * lines, [(0.07, 0.12, 0.32), (0.42, 0.47, 0.6), (0.97, 0.94, 0.86)])


def bronze(x: Tensor, rng: torch.Generator) -> Tensor:
    """Cast metal with bright edges, and patina in its hollows."""
    side = x.shape[-1]
    soft = kuwahara(grey(x), max(2, side // 110))
    local = 1.9 * (soft - gaussian_blur(soft, side / 7)) + 0.42 + 0.03 * noise(x, side // 12, rng)
    ramp = [(0.05, 0.03, 0.03), (0.3, 0.17, 0.08), (0.66, 0.42, 0.2), (0.95, 0.78, 0.5), (1.0, 0.97, 0.88)]
    patina = gaussian_blur((0.5 - local).clamp(0, 1), side / 100) * (0.6 + 0.5 * noise(x, 14, rng)).clamp(0, 1)
    green = x.new_tensor([-0.45, 0.1, -0.05])[:, None, None]
    return painted(local, ramp) * (1 - patina) + patina * green


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


FILTERS: Mapping[str, Filter] = {
    "charcoal": charcoal,
    "bulge": bulge,
    "copper": copper,
    "pencil": pencil,
    "watercolour": watercolour,
    "popart": popart,
    "engraving": engraving,
    "bronze": bronze,
}
