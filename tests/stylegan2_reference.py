"""StyleGAN2 written out from the published formulas, for comparison: slow, and with no code of the package.

Kernels are built for each sample and applied as a grouped convolution; resampling inserts zeros, pads, filters, drops.
Sources: Karras et al. 2019 (1812.04948) and 2020 (1912.04958); layer names are those of the published checkpoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


FIR = (1.0, 3.0, 3.0, 1.0)
Weights = dict[str, Tensor]


def resample(x: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1.0) -> Tensor:
    """Insert zeros after each sample, pad, filter with the normalised FIR, keep every ``down``-th."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, (*pad, *pad))
    taps = torch.tensor(FIR, dtype=x.dtype)
    taps = taps / taps.sum() * math.sqrt(gain)
    for shape in ((1, 1, 4, 1), (1, 1, 1, 4)):
        x = F.conv2d(x, taps.reshape(shape).repeat(c, 1, 1, 1), groups=c)
    return x[:, :, ::down, ::down]


def dense(weights: Weights, name: str, x: Tensor, lr: float = 1.0, activate: bool = False) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    x = x @ (weight * (lr / math.sqrt(weight.shape[1]))).t() + bias * lr
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2) if activate else x


def mapping(weights: Weights, z: Tensor, depth: int) -> Tensor:
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(depth):
        x = dense(weights, f"mapping.fc{i}", x, lr=0.01, activate=True)
    return x


def modulated(x: Tensor, weight: Tensor, style: Tensor, up: bool, demodulate: bool) -> Tensor:
    n, outputs = x.shape[0], weight.shape[0]
    kernels = weight[None] * style[:, None, :, None, None]
    if demodulate:
        kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    if up:  # a transposed convolution: zeros between the samples, and the kernel turned round
        h, w = x.shape[2:]
        spread = x.new_zeros(n, x.shape[1], 2 * h - 1, 2 * w - 1)
        spread[:, :, ::2, ::2] = x
        x, kernels, padding = spread, kernels.flip(3, 4), 2
    else:
        padding = weight.shape[-1] // 2
    x = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), padding=padding, groups=n)
    x = x.reshape(n, outputs, *x.shape[2:])
    return resample(x, pad=(1, 1), gain=4.0) if up else x


def synthesis(weights: Weights, w: Tensor, resolution: int, clamp: float | None = None) -> Tensor:
    def activated(x: Tensor, name: str) -> Tensor:
        x = x + weights[f"{name}.noise_const"] * weights[f"{name}.noise_strength"]
        x = x + weights[f"{name}.bias"][:, None, None]
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
        return x if clamp is None else x.clamp(-clamp, clamp)

    x = weights["synthesis.b4.const"][None].repeat(len(w), 1, 1, 1)
    picture, code, size = None, 0, 4
    while size <= resolution:
        block = f"synthesis.b{size}"
        for conv in ("conv0", "conv1") if size > 4 else ("conv1",):
            style = dense(weights, f"{block}.{conv}.affine", w[:, code])
            code += 1
            x = modulated(x, weights[f"{block}.{conv}.weight"], style, up=conv == "conv0", demodulate=True)
            x = activated(x, f"{block}.{conv}")
        weight = weights[f"{block}.torgb.weight"]
        style = dense(weights, f"{block}.torgb.affine", w[:, code]) / math.sqrt(weight[0].numel())
        rgb = modulated(x, weight, style, up=False, demodulate=False) + weights[f"{block}.torgb.bias"][:, None, None]
        rgb = rgb if clamp is None else rgb.clamp(-clamp, clamp)
        picture = rgb if picture is None else resample(picture, up=2, pad=(2, 1), gain=4.0) + rgb
        size *= 2
    assert picture is not None
    return picture


def discriminator(weights: Weights, x: Tensor, resolution: int, group: int = 4, clamp: float | None = None) -> Tensor:
    def conv(x: Tensor, name: str, down: bool = False, gain: float = 1.0) -> Tensor:
        weight = weights[f"{name}.weight"]
        weight = weight / math.sqrt(weight[0].numel())
        pad = weight.shape[-1] // 2
        if down and pad:
            x = F.conv2d(resample(x, pad=(2, 2)), weight)[:, :, ::2, ::2]
        elif down:
            x = F.conv2d(resample(x, down=2, pad=(1, 1)), weight)
        else:
            x = F.conv2d(x, weight, padding=pad)
        if f"{name}.bias" not in weights:
            return x * gain
        x = x + weights[f"{name}.bias"][:, None, None]
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2) * gain
        return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)

    x = conv(x, f"b{resolution}.fromrgb")
    size = resolution
    while size > 4:
        half = math.sqrt(0.5)
        skip = conv(x, f"b{size}.skip", down=True, gain=half)
        x = skip + conv(conv(x, f"b{size}.conv0"), f"b{size}.conv1", down=True, gain=half)
        size //= 2
    n = len(x)
    group = min(group, n)
    deviation = torch.empty(n, 1, 4, 4, dtype=x.dtype)
    for first in range(n // group):  # samples first, first + n / group, ... make a group
        members = x[first :: n // group]
        spread = ((members - members.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean()
        deviation[first :: n // group] = spread
    x = conv(torch.cat([x, deviation], dim=1), "b4.conv")
    return dense(weights, "b4.out", dense(weights, "b4.fc", x.flatten(1), activate=True))
