"""Checkpoints as rosinality's stylegan2-pytorch writes them, without that code: its names, its formulas, own lines."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kernel(gain: float = 1.0) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    taps = taps[None, :] * taps[:, None]
    return taps / taps.sum() * gain


def upfirdn(x: Tensor, taps: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, h * up, w * up)
    spread[:, :, ::up, ::up] = x
    spread = F.pad(spread, (*pad, *pad)).reshape(n * c, 1, h * up + sum(pad), w * up + sum(pad))
    y = F.conv2d(spread, taps.flip(0, 1)[None, None])
    return y.reshape(n, c, *y.shape[2:])[:, :, ::down, ::down]


class Blur(nn.Module):
    def __init__(self, gain: float, pad: tuple[int, int]):
        super().__init__()
        self.register_buffer("kernel", kernel(gain))
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn(x, self.kernel, pad=self.pad)  # type: ignore[arg-type]


class Upsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn(x, self.kernel, up=2, pad=(2, 1))  # type: ignore[arg-type]


class FusedLeakyReLU(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(0.3 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[None, :, None, None], 0.2) * math.sqrt(2)


class EqualLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_mul: float = 1.0, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(bias + 0.3 * torch.randn(outputs) / lr_mul)
        self.scale, self.lr_mul, self.activate = lr_mul / math.sqrt(inputs), lr_mul, activate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(x, 0.2) * math.sqrt(2) if self.activate else x


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)


class ModulatedConv2d(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, style: int, demodulate: bool = True, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, size, size))
        self.modulation = EqualLinear(style, inputs, bias=1.0)
        self.scale, self.demodulate, self.up = 1 / math.sqrt(inputs * size**2), demodulate, up
        if up:
            self.blur = Blur(4.0, (1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        pictures = []
        for sample, style in zip(x.split(1), self.modulation(w), strict=True):
            weight = self.scale * self.weight[0] * style[None, :, None, None]
            if self.demodulate:
                weight = weight * torch.rsqrt(weight.pow(2).sum((1, 2, 3), keepdim=True) + 1e-8)
            if self.up:
                pictures.append(self.blur(F.conv_transpose2d(sample, weight.transpose(0, 1), stride=2)))
            else:
                pictures.append(F.conv2d(sample, weight, padding=weight.shape[-1] // 2))
        return torch.cat(pictures)


class NoiseInjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class StyledConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, style: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style, up=up)
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        return self.activate(self.noise(self.conv(x, w), noise))


class ToRGB(nn.Module):
    def __init__(self, inputs: int, style: int, upsample: bool = True):
        super().__init__()
        if upsample:
            self.upsample = Upsample()
        self.conv = ModulatedConv2d(inputs, 3, 1, style, demodulate=False)
        self.bias = nn.Parameter(0.3 * torch.randn(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        out = self.conv(x, w) + self.bias
        return out if skip is None else out + self.upsample(skip)


class ConstantInput(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    def __init__(self, channels: dict[int, int], style: int, n_mlp: int):
        super().__init__()
        layers = [EqualLinear(style, style, lr_mul=0.01, activate=True) for _ in range(n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *layers)
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], style)
        self.to_rgb1 = ToRGB(channels[4], style, upsample=False)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        for i in range(2 * len(channels) - 1):
            size = 2 ** ((i + 5) // 2)
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, size, size))
        for r in sorted(channels)[1:]:
            self.convs.append(StyledConv(channels[r // 2], channels[r], style, up=True))
            self.convs.append(StyledConv(channels[r], channels[r], style))
            self.to_rgbs.append(ToRGB(channels[r], style))

    def forward(self, w: Tensor) -> Tensor:  # [N, L, style]
        noise = [getattr(self.noises, f"noise_{i}") for i in range(len(self.convs) + 1)]
        out = self.input.input.repeat(len(w), 1, 1, 1)
        out = self.conv1(out, w[:, 0], noise[0])
        skip = self.to_rgb1(out, w[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs):
            out = self.convs[2 * i](out, w[:, 2 * i + 1], noise[2 * i + 1])
            out = self.convs[2 * i + 1](out, w[:, 2 * i + 2], noise[2 * i + 2])
            skip = to_rgb(out, w[:, 2 * i + 3], skip)
        image: Tensor = skip
        return image


class EqualConv2d(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.scale, self.stride, self.padding = 1 / math.sqrt(inputs * size**2), stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


def conv_layer(inputs: int, outputs: int, size: int, down: bool = False, activate: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    if down:
        total = 2 + size - 1
        layers.append(Blur(1.0, ((total + 1) // 2, total // 2)))
    layers.append(EqualConv2d(inputs, outputs, size, 2 if down else 1, 0 if down else size // 2))
    if activate:
        layers.append(FusedLeakyReLU(outputs))
    return nn.Sequential(*layers)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = conv_layer(inputs, inputs, 3)
        self.conv2 = conv_layer(inputs, outputs, 3, down=True)
        self.skip = conv_layer(inputs, outputs, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    def __init__(self, channels: dict[int, int]):
        super().__init__()
        sizes = sorted(channels, reverse=True)
        blocks = [ResBlock(channels[r], channels[r // 2]) for r in sizes[:-1]]
        self.convs = nn.Sequential(conv_layer(3, channels[sizes[0]], 1), *blocks)
        self.final_conv = conv_layer(channels[4] + 1, channels[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(channels[4] * 16, channels[4], activate=True), EqualLinear(channels[4], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.convs(x)
        n, c, h, w = out.shape
        group = min(n, 4)
        deviation = out.view(group, -1, 1, c, h, w)
        deviation = torch.sqrt(deviation.var(0, unbiased=False) + 1e-8).mean([2, 3, 4], keepdim=True).squeeze(2)
        out = self.final_conv(torch.cat([out, deviation.repeat(group, 1, h, w)], 1))
        logit: Tensor = self.final_linear(out.view(n, -1))
        return logit


def checkpoint(generator: Generator, discriminator: Discriminator | None = None, **more: Any) -> dict[str, Any]:
    """What ``train.py`` saves; ``more`` adds entries."""
    saved = {"g_ema": generator.state_dict(), **more}
    return saved if discriminator is None else {"d": discriminator.state_dict(), **saved}
