"""StyleGAN2 generator (Karras et al. 2020, arXiv 1912.04958): mapping z -> w, synthesis w+ -> picture.

The parameter names are those of the published PyTorch networks, so conversion is a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import GeneratorConfig
from .hub import Pretrained
from .refine import modulated_conv
from .resample import upsample


__all__ = ["Generator"]

SQRT2 = math.sqrt(2.0)


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate: the stored weights have unit variance over ``lr``."""

    def __init__(self, inputs: int, outputs: int, lr: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr))
        self.lr = lr
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs] -> [N, outputs]
        gain = self.lr / math.sqrt(self.weight.shape[1])
        x = F.linear(x, self.weight.to(x.dtype) * gain, self.bias.to(x.dtype) * self.lr)
        return F.leaky_relu(x, 0.2) * SQRT2 if self.activate else x


class Mapping(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.depth = config.mapping_layers
        for i in range(self.depth):
            inputs = config.z_dim if i == 0 else config.w_dim
            setattr(self, f"fc{i}", Dense(inputs, config.w_dim, lr=0.01, activate=True))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x


class StyledConv(nn.Module):
    """3x3 modulated convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.resolution = resolution
        self.up = up
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        y = modulated_conv(x, self.weight, self.affine(w), up=self.up)
        if noise is not None:
            y = y + (noise * self.noise_strength).to(y.dtype)
        y = F.leaky_relu(y + self.bias.to(y.dtype)[:, None, None], 0.2) * SQRT2
        return y if self.clamp is None else y.clamp(-self.clamp * SQRT2, self.clamp * SQRT2)


class ToRGB(nn.Module):
    """1x1 modulated convolution without demodulation."""

    def __init__(self, inputs: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = modulated_conv(x, self.weight, style, demodulate=False) + self.bias.to(x.dtype)[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution: conv0 (up-sampling; absent at 4 px), conv1, and a toRGB into the running picture."""

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        outputs = config.channels[resolution]
        clamp = config.conv_clamp
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            inputs = config.channels[resolution // 2]
            self.conv0 = StyledConv(inputs, outputs, config.w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = StyledConv(outputs, outputs, config.w_dim, resolution, up=False, clamp=clamp)
        self.torgb = ToRGB(outputs, config.w_dim, clamp)


class Synthesis(nn.Module):
    """w+ [N, L, w_dim] -> picture [N, 3, H, W], about [-1, 1]."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        for resolution in config.channels:
            setattr(self, f"b{resolution}", Block(config, resolution))
        self.resolutions = tuple(config.channels)

    def blocks(self) -> Iterator[Block]:
        for resolution in self.resolutions:
            yield getattr(self, f"b{resolution}")

    def forward(self, w: Tensor, noise: list[Tensor | None]) -> Tensor:
        n = w.shape[0]
        maps, codes = iter(noise), iter(w.unbind(dim=1))
        x, picture = None, None
        code = next(codes)
        for block in self.blocks():
            if x is None:
                x = block.const.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
            else:
                x = block.conv0(x, code, next(maps))
                code = next(codes)
            x = block.conv1(x, code, next(maps))
            code = next(codes)  # toRGB shares its code with the next block's first convolution
            rgb = block.torgb(x, code).float()
            picture = rgb if picture is None else upsample(picture) + rgb
        assert picture is not None
        return picture


class Generator(Pretrained, nn.Module):
    """Mapping and synthesis. Drawing changes no state."""

    part = "generator"
    config_class = GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [N, z_dim] -> w+ [N, L, w_dim]; ``truncation`` pulls towards the mean latent (1: as drawn, 0: the mean)."""
        w = self.mapping(z)
        if truncation != 1.0:
            w = self.mapping.w_avg.lerp(w, truncation)
        return w[:, None].expand(-1, self.config.num_layers, -1)

    def noise(self, n: int, generator: torch.Generator | None = None) -> list[Tensor | None]:
        """Fresh noise maps for ``n`` pictures, one [N, 1, H, W] per convolution."""
        convs = [m for m in self.synthesis.modules() if isinstance(m, StyledConv)]
        return [
            torch.randn(n, 1, c.resolution, c.resolution, device=c.weight.device, generator=generator) for c in convs
        ]

    def forward(self, w: Tensor, noise: list[Tensor | None] | None = None) -> Tensor:
        """Draw w+ [N, L, w_dim]; ``noise`` None is the stored constant noise."""
        if noise is None:
            noise = [m.noise_const for m in self.synthesis.modules() if isinstance(m, StyledConv)]
        picture: Tensor = self.synthesis(w, noise)
        return picture
