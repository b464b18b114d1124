"""Two-fold resampling with the FIR [1, 3, 3, 1] (Karras et al. 2019/2020; the 'upfirdn2d' of the published code).

Every use in StyleGAN2 is one of three depthwise convolutions, so no compiled extension is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["blur", "downsample", "upsample"]


def _kernel(x: Tensor, gain: float) -> Tensor:
    """Depthwise kernel [C, 1, 4, 4] whose taps sum to ``gain``."""
    i = torch.arange(4, dtype=x.dtype, device=x.device)  # made there: a copy would make a GPU wait
    taps = 1 + 2 * torch.minimum(i, 3 - i)  # 1, 3, 3, 1
    kernel = torch.outer(taps, taps) * (gain / 64.0)
    return kernel.expand(x.shape[1], 1, 4, 4)


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Low-pass ``x`` [N, C, H, W] with zeros around it; the output is H + 2 padding - 3 high."""
    return F.conv2d(x, _kernel(x, gain), padding=padding, groups=x.shape[1])


def downsample(x: Tensor) -> Tensor:
    """Halve [N, C, 2H, 2W] to [N, C, H, W]."""
    return F.conv2d(x, _kernel(x, 1.0), stride=2, padding=1, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Double [N, C, H, W] to [N, C, 2H, 2W]; gain 4 keeps the mean, since three of four samples are zero."""
    return F.conv_transpose2d(x, _kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])
