"""Modulated convolution, plain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .resample import blur


__all__ = ["modulated_conv"]


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor, up: bool = False, demodulate: bool = True) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k], style [N, I] -> [N, O, H, W], or twice the size with ``up``."""
    y = x * style.to(x.dtype)[:, :, None, None]
    if up:
        y = blur(F.conv_transpose2d(y, weight.to(x.dtype).transpose(0, 1), stride=2), padding=1, gain=4.0)
    else:
        y = F.conv2d(y, weight.to(x.dtype), padding=weight.shape[-1] // 2)
    if demodulate:
        with torch.autocast(x.device.type, enabled=False):
            power = style.float().square() @ weight.float().square().sum(dim=(2, 3)).t()  # [N, O]
            demod = (power + 1e-8).rsqrt()
        y = y * demod.to(y.dtype)[:, :, None, None]
    return y
