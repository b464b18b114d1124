"""What generators and encoders do to pictures: the attribute network learns to read its attributes in spite of it."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images import from_uint8, to_uint8


__all__ = ["degrade", "gaussian_blur", "jpeg"]


def degrade(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Pictures ``[N, 3, H, W]`` in [-1, 1]: slight colour changes for all, blur, noise or JPEG for some of them."""
    if strength == 0:
        return x
    n = len(x)
    gain = 1 + strength * torch.from_numpy(rng.normal(0, (0.06, 0.02, 0.02, 0.02), (n, 4))).float()
    shift = strength * torch.from_numpy(rng.normal(0, 0.04, n)).float()
    x = x * (gain[:, :1] * gain[:, 1:])[:, :, None, None] + shift[:, None, None, None]
    kind = rng.integers(0, 6, n)  # 0 blur, 1 noise, 2 JPEG, 3 blur then noise, others none
    some = torch.from_numpy(np.isin(kind, (0, 3)))
    if some.any():
        x[some] = gaussian_blur(x[some], rng.uniform(0.3, 0.3 + 1.2 * strength))
    some = torch.from_numpy(np.isin(kind, (1, 3)))
    x[some] += strength * torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.1), x[some].shape)).float()
    for i in np.flatnonzero(kind == 2):
        x[i] = jpeg(x[i], int(rng.integers(100 - int(70 * strength), 96)))
    return x.clamp_(-1, 1)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``[N, C, H, W]``; ``sigma`` in pixels."""
    reach = max(math.ceil(3 * sigma), 1)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    channels = x.shape[1]
    for shape, padding in (((1, -1), (reach, reach, 0, 0)), ((-1, 1), (0, 0, reach, reach))):
        weight = kernel.view(1, 1, *shape).expand(channels, -1, -1, -1)
        x = F.conv2d(F.pad(x, padding, mode="reflect"), weight, groups=channels)
    return x


def jpeg(x: Tensor, quality: int) -> Tensor:
    """One picture ``[3, H, W]`` in [-1, 1] through a JPEG file of that quality (1..95)."""
    file = io.BytesIO()
    Image.fromarray(to_uint8(x).permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=quality)
    return from_uint8(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
