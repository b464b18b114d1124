"""What photos have and drawings lack: colours, crops, blur, noise, JPEG and things before the face, on the device.

Pictures are [N, 3, 256, 256] in [-1, 1]. Each function changes a share of the pictures, each by its own amount.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


# JPEG's table of luminance (ITU-T T.81, annex K.1)
TABLE = """16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""


def uniform(x: Tensor, *shape: int) -> Tensor:
    """From 0 to 1, one for each picture: [N, *shape]."""
    return torch.rand(len(x), *shape, device=x.device)


def normal(x: Tensor, *shape: int) -> Tensor:
    """Standard normal, [N, *shape]."""
    return torch.randn(len(x), *shape, device=x.device)


def some(x: Tensor, share: float, changed: Tensor) -> Tensor:
    """``changed`` for a share of the pictures, ``x`` for the others."""
    return torch.where(uniform(x, 1, 1, 1) < share, changed, x)


def jpeg(x: Tensor, strength: Tensor) -> Tensor:
    """Rounded in 8 x 8 blocks of the cosine transform; ``strength`` [N] is a factor on the table."""
    k, i = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    scale = torch.full((8, 1), math.sqrt(2 / 8))
    scale[0] = math.sqrt(1 / 8)
    cosines = (scale * torch.cos(math.pi * (2 * i + 1) * k / 16)).to(x)
    table = x.new_tensor([float(step) for step in TABLE.split()]).view(8, 8)
    n, c, height, width = x.shape
    blocks = (x * 127.5).view(n, c, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    steps = (table * strength.view(n, 1, 1, 1, 1, 1)).clamp_min(1)
    blocks = cosines.T @ (((cosines @ blocks @ cosines.T) / steps).round() * steps) @ cosines
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(x.shape) / 127.5


def recrop(x: Tensor, scale: float, turn: float, shift: float, flip: float = 0.0) -> Tensor:
    """Scaled, turned and shifted by normal amounts of these deviations, and mirrored with a probability."""
    size, angle = (normal(x) * scale).exp(), normal(x) * turn
    sign = torch.where(uniform(x) < flip, -1.0, 1.0)
    across = torch.stack([size * angle.cos() * sign, -size * angle.sin(), normal(x) * shift], dim=1)
    down = torch.stack([size * angle.sin() * sign, size * angle.cos(), normal(x) * shift], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def recolour(x: Tensor, strength: float) -> Tensor:
    """Gamma, light, white balance and saturation; a few pictures become grey."""
    y = ((x + 1) / 2).clamp(1e-4, 1) ** (0.35 * strength * normal(x, 1, 1, 1)).exp().clamp(0.5, 2)
    y = y * (1 + 0.12 * strength * normal(x, 1, 1, 1)) * (1 + 0.07 * strength * normal(x, 3, 1, 1))
    y = y + 0.04 * strength * normal(x, 1, 1, 1)
    grey = y.mean(dim=1, keepdim=True)
    saturation = (1 + 0.3 * strength * normal(x, 1, 1, 1)).clamp(0, 2)
    saturation = torch.where(uniform(x, 1, 1, 1) < 0.04, torch.zeros_like(saturation), saturation)
    return (grey + (y - grey) * saturation).clamp(0, 1) * 2 - 1


def occlude(x: Tensor, share: float) -> Tensor:
    """An ellipse or a bar of a colour, of stripes or of another picture covers a part."""
    side = torch.linspace(-1, 1, x.shape[2], device=x.device)
    down, across = torch.meshgrid(side, side, indexing="ij")
    centre, radius, angle = (
        (uniform(x, 2, 1, 1) * 2 - 1) * 0.9,
        0.12 + 0.4 * uniform(x, 2, 1, 1),
        uniform(x, 1, 1) * 6.3,
    )
    dx, dy = across - centre[:, 0], down - centre[:, 1]
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    a, b = u / radius[:, 0], v / radius[:, 1]
    inside = torch.where(uniform(x, 1, 1) < 0.5, torch.maximum(a.abs(), b.abs()) < 1, a.square() + b.square() < 1)
    inside = inside & (uniform(x, 1, 1) < share)
    stripes = 0.5 + 0.5 * torch.sin(u * (5 + 40 * uniform(x, 1, 1)))
    stripes = torch.where(uniform(x, 1, 1) < 0.5, stripes, torch.zeros_like(stripes))
    colour = (uniform(x, 3, 1, 1) * 2 - 1) + stripes[:, None] * (uniform(x, 3, 1, 1) - 0.5)
    cover = some(colour.clamp(-1, 1), 0.35, x.roll(1, 0).flip(3))
    return torch.where(inside[:, None], cover, x)


def degrade(x: Tensor) -> Tensor:
    """What the encoder sees of pictures whose losses are taken as they are: crop, blur, noise and JPEG."""
    x = some(x, 0.3, recrop(x, 0.01, 0.01, 0.008))
    for side, share in ((128, 0.15), (64, 0.05)):
        small = F.interpolate(x, size=(side, side), mode="area")
        x = some(x, share, F.interpolate(small, size=x.shape[2:], mode="bicubic"))
    x = some(x, 0.4, x + torch.randn_like(x) * 0.08 * uniform(x, 1, 1, 1))
    return some(x, 0.4, jpeg(x, 2 * uniform(x))).clamp(-1, 1)
