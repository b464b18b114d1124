"""Pointwise kernel, noise, bias, leaky ReLU and (before an up-sampling) style and inverse Haar, strip by strip.

In eager mode on a CPU the large maps of a high-resolution network cost more to read and write than to compute.
Everything between two depthwise convolutions looks at one pixel at a time, so it runs on strips of rows that stay in
the cache, and each map is written once. Compiled code fuses these steps by itself: it takes the plain definition,
which this equals. Maps of 16 bits are multiplied as they are, and the rest of a strip is in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["activate", "depthwise", "pointwise", "pointwise_plain"]

SLOPE = 0.2  # of the leaky ReLU
STRIP = 1 << 20  # numbers of one strip: 4 MiB in fp32. Smaller ones are no faster, and threads meet more often


def inverse_haar(x: Tensor) -> Tensor:
    """[N, 4 C, H, W] -> [N, C, 2 H, 2 W]: sums and differences without the wavelet's factor of 1/2.

    The bands come one after the other: LL, HL (differences of columns), LH (differences of rows), HH. The mean of each
    2 x 2 square of the answer is LL.
    """
    n, channels, height, width = x.shape
    bands = x.permute(0, 2, 3, 1).unflatten(3, (2, 2, channels // 4))  # [N, H, W, row band, column band, C]
    low, high = bands.unbind(3)
    rows = torch.stack((low + high, low - high), dim=2)  # [N, H, 2, W, column band, C]
    low, high = rows.unbind(4)
    y = torch.stack((low + high, low - high), dim=4)  # [N, H, 2, W, 2, C]
    return y.reshape(n, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


class _SignLeakyReLU(torch.autograd.Function):
    """Leaky ReLU whose slope is a float of the answer's sign: code compiled for a CPU stores boolean masks slowly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, SLOPE)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope: Tensor = (1 + SLOPE) / 2 + (1 - SLOPE) / 2 * y.sign()
        return grad * slope


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2."""
    if x.device.type == "cpu" and torch.compiler.is_compiling() and x.requires_grad:
        y: Tensor = _SignLeakyReLU.apply(x)
        return y
    return F.leaky_relu(x, SLOPE)


def activate(y: Tensor, bias: Tensor, noise: Tensor | None = None, up: Tensor | None = None) -> Tensor:
    """leaky ReLU(y + bias + noise) and what follows, see ``pointwise``: y [N, O, H, W]."""
    y = y + bias.to(y.dtype).reshape(-1, bias.shape[-1], 1, 1)
    if noise is not None:
        y = y + noise.to(y.dtype)
    y = leaky_relu(y)
    return y if up is None else inverse_haar(y * up.to(y.dtype)[:, :, None, None])


class _Depthwise(torch.autograd.Function):
    """Depthwise 3x3 convolution with a frozen kernel. It keeps no map for the backward pass, as torch's own would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(x, weight, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        (weight,) = ctx.saved_tensors
        return depthwise(grad, weight.flip((2, 3))), None


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, C, H, W], weight [C, 1, 3, 3] -> [N, C, H, W]."""
    weight = weight.to(x.dtype)
    if weight.requires_grad or not torch.is_grad_enabled():
        return F.conv2d(x, weight, padding=1, groups=x.shape[1])
    y: Tensor = _Depthwise.apply(x, weight)
    return y


def matrix_product(x: Tensor, kernel: Tensor) -> Tensor:
    """x [N, I, H, W], kernel [N, O, I] -> [N, O, H, W] in channels_last."""
    y = x.permute(0, 2, 3, 1).flatten(1, 2) @ kernel.to(x.dtype).mT
    maps: Tensor = y.unflatten(1, x.shape[2:])
    return maps.permute(0, 3, 1, 2)


def pointwise_plain(
    x: Tensor, kernel: Tensor, bias: Tensor, noise: Tensor | None = None, up: Tensor | None = None
) -> Tensor:
    """The definition of ``pointwise``."""
    return activate(matrix_product(x, kernel), bias, noise, up)


def pointwise(
    x: Tensor, kernel: Tensor, bias: Tensor, noise: Tensor | None = None, up: Tensor | None = None
) -> Tensor:
    """leaky ReLU(kernel x + bias + noise), and its inverse Haar after a product with ``up``.

    Args:
        x: [N, I, H, W] in channels_last.
        kernel: [N, O, I], a matrix for each sample.
        bias: [O], or [N, O].
        noise: [H, W] or [N, 1, H, W]; gets no gradient.
        up: [N, O], style of the up-sampling; None leaves the map as it is.

    Returns:
        [N, O, H, W], or [N, O / 4, 2 H, 2 W] with ``up``; in channels_last.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or (noise is not None and noise.requires_grad):
        return pointwise_plain(x, kernel, bias, noise, up)
    with torch.autocast("cpu", enabled=False):
        y: Tensor = _Strips.apply(x, kernel, bias, noise, up)
    return y


def _strips(height: int, width: int, channels: int) -> Iterator[slice]:
    step = max(1, STRIP // (width * channels))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor, noise: Tensor | None, up: Tensor | None) -> Tensor:
        n, inputs, height, width = x.shape
        outputs = kernel.shape[1]
        pixels = x.permute(0, 2, 3, 1).contiguous()
        keep = any(ctx.needs_input_grad)
        work = torch.promote_types(x.dtype, torch.float32)
        offsets, matrices = bias.to(work).expand(n, outputs), kernel.to(x.dtype).mT
        up = None if up is None else up.to(work)
        maps = None if noise is None else noise.reshape(-1, height, width).expand(n, height, width)
        shape = (n, height, width, outputs)
        y = x.new_empty(shape) if keep or up is None else None
        z = None if up is None else x.new_empty(n, height, 2, width, 2, outputs // 4)
        for i in range(n):
            for rows in _strips(height, width, outputs):
                taken = pixels[i, rows].view(-1, inputs)
                if x.dtype == work:
                    part = x.new_empty(rows.stop - rows.start, width, outputs) if y is None else y[i, rows]
                    torch.addmm(offsets[i], taken, matrices[i], out=part.view(-1, outputs))
                else:
                    part = (taken @ matrices[i]).to(work).add_(offsets[i]).view(-1, width, outputs)
                if maps is not None:
                    part.add_(maps[i, rows, :, None])
                F.leaky_relu_(part, SLOPE)
                if y is not None and x.dtype != work:
                    y[i, rows] = part
                if up is not None and z is not None:
                    bands = (part * up[i]).unflatten(2, (2, 2, outputs // 4))
                    halves = bands.new_empty(2, *bands.shape[:2], 2, outputs // 4)  # [2 rows, h, W, column band, C]
                    torch.add(bands[:, :, 0], bands[:, :, 1], out=halves[0])
                    torch.sub(bands[:, :, 0], bands[:, :, 1], out=halves[1])
                    for v in range(2):
                        torch.add(halves[v, :, :, 0], halves[v, :, :, 1], out=z[i, rows, v, :, 0])
                        torch.sub(halves[v, :, :, 0], halves[v, :, :, 1], out=z[i, rows, v, :, 1])
        if keep:
            ctx.save_for_backward(pixels, matrices.mT, up, y)
            ctx.dtypes = kernel.dtype, bias.dtype
            ctx.shared_bias = bias.ndim == 1
        out = y if z is None else z.view(n, 2 * height, 2 * width, outputs // 4)
        assert out is not None
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pixels, kernel, up, y = ctx.saved_tensors
        dtype, work = pixels.dtype, torch.promote_types(pixels.dtype, torch.float32)
        n, height, width, inputs = pixels.shape
        outputs = kernel.shape[1]
        wants_x, wants_kernel, wants_bias, _, wants_up = ctx.needs_input_grad
        grad = grad.permute(0, 2, 3, 1).contiguous()
        to_x = torch.empty_like(pixels) if wants_x else None
        to_kernel = torch.zeros_like(kernel, dtype=work) if wants_kernel else None
        to_bias = pixels.new_zeros(n, outputs, dtype=work) if wants_bias else None
        to_up = torch.zeros_like(up) if wants_up else None
        for i in range(n):
            for rows in _strips(height, width, outputs):
                part = y[i, rows].to(work)
                if up is None:
                    g = grad[i, rows].to(work)
                else:
                    cells = grad.view(n, height, 2, width, 2, outputs // 4)[i, rows]  # [h, 2, W, 2, C]
                    halves = part.new_empty(2, *part.shape[:2], 2, outputs // 4)  # [column band, h, W, 2 rows, C]
                    across = cells.permute(0, 2, 1, 3, 4)  # [h, W, 2 rows, 2 columns, C]
                    torch.add(across[..., 0, :], across[..., 1, :], out=halves[0])
                    torch.sub(across[..., 0, :], across[..., 1, :], out=halves[1])
                    bands = part.new_empty(*part.shape[:2], 2, 2, outputs // 4)
                    for v in range(2):
                        torch.add(halves[v][:, :, 0], halves[v][:, :, 1], out=bands[:, :, 0, v])
                        torch.sub(halves[v][:, :, 0], halves[v][:, :, 1], out=bands[:, :, 1, v])
                    g = bands.view(part.shape)
                    if to_up is not None:
                        to_up[i] += (g * part).sum(dim=(0, 1))
                    g = g.mul_(up[i])
                g = torch.ops.aten.leaky_relu_backward(g, part, SLOPE, True).view(-1, outputs)
                if to_bias is not None:
                    to_bias[i] += g.sum(dim=0)
                g = g.to(dtype)
                if to_x is not None:
                    torch.mm(g, kernel[i], out=to_x[i, rows].view(-1, inputs))
                if to_kernel is not None:
                    if dtype == work:
                        to_kernel[i].addmm_(g.t(), pixels[i, rows].view(-1, inputs))
                    else:
                        to_kernel[i] += g.t() @ pixels[i, rows].view(-1, inputs)
        if to_bias is not None:
            to_bias = (to_bias.sum(dim=0) if ctx.shared_bias else to_bias).to(ctx.dtypes[1])
        if to_kernel is not None:
            to_kernel = to_kernel.to(ctx.dtypes[0])
        return None if to_x is None else to_x.permute(0, 3, 1, 2), to_kernel, to_bias, None, to_up
