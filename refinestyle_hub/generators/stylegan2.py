"""StyleGAN2 generator (Karras et al. 2020, arXiv 1912.04958): synthesis w+ -> picture.

The parameter names are those of the published PyTorch networks, so conversion is a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LayerSpec, StyleGAN2Config
from ..tokens.modulated_conv import Residual, bias_offset, modulated_conv
from ..tokens.resample import upsample
from .base import Generator, NoiseMaps, Residuals
from .layers import SQRT2, FullyConnected


__all__ = ["StyleGAN2Generator"]


class StyledConv(nn.Module):
    """3x3 modulated convolution, noise, bias, leaky ReLU."""

    demodulation: Literal["norm"] = "norm"
    noise_const: Tensor

    def __init__(self, spec: LayerSpec, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.randn(spec.outputs, spec.inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(spec.outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.affine = FullyConnected(w_dim, spec.inputs, bias=1.0)
        self.register_buffer("noise_const", torch.randn(spec.resolution, spec.resolution))
        self.clamp = clamp

    def style(self, w: Tensor) -> Tensor:  # [N, w_dim] -> [N, I]
        style: Tensor = self.affine(w)
        return style

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, residuals: Sequence[Residual] = ()) -> Tensor:
        bias = SQRT2 * total_bias(self.bias, residuals)  # sqrt(2) commutes with the leaky ReLU
        y = modulated_conv(x, self.weight, self.style(w), residuals, up=self.spec.up, bias=bias, gain=SQRT2)
        if noise is not None:
            y.add_((noise * (SQRT2 * self.noise_strength)).to(y.dtype))
        F.leaky_relu_(y, 0.2)  # in place, as the noise: large maps cost more to get than to compute
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """1x1 modulated convolution without demodulation."""

    demodulation: Literal["none"] = "none"

    def __init__(self, spec: LayerSpec, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.randn(3, spec.inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = FullyConnected(w_dim, spec.inputs, bias=1.0)
        self.clamp = clamp

    def style(self, w: Tensor) -> Tensor:  # [N, w_dim] -> [N, I]
        style: Tensor = self.affine(w) / math.sqrt(self.weight.shape[1])
        return style

    def forward(self, x: Tensor, w: Tensor, residuals: Sequence[Residual] = ()) -> Tensor:
        bias = total_bias(self.bias, residuals)
        y = modulated_conv(x, self.weight, self.style(w), residuals, demodulation="none", bias=bias)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def total_bias(bias: Tensor, residuals: Sequence[Residual]) -> Tensor:  # [O] -> [1 or N, O]
    offset = bias_offset(residuals)
    return bias[None] if offset is None else bias + offset


class Block(nn.Module):
    """One resolution: conv0 (up-sampling; absent at 4 px), conv1, and a toRGB into the running picture."""

    const: nn.Parameter  # [C, 4, 4], at 4 px only
    conv0: StyledConv
    conv1: StyledConv
    torgb: ToRGB

    def __init__(self, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(config.channels[4], 4, 4))
        for spec in config.layers:
            if spec.resolution == resolution:
                module = StyledConv if spec.role == "conv" else ToRGB
                setattr(self, spec.name.partition(".")[2], module(spec, config.w_dim, config.conv_clamp))

    def convs(self) -> Iterator[StyledConv | ToRGB]:
        """Its refinable convolutions, as they run."""
        if self.resolution > 4:
            yield self.conv0
        yield self.conv1
        yield self.torgb


class Synthesis(nn.Module):
    """w+ [N, L, w_dim] -> picture [N, 3, H, W], about [-1, 1]."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        for resolution in config.channels:
            setattr(self, f"b{resolution}", Block(config, resolution))
        self.resolutions = tuple(config.channels)
        self.fp16_from = config.fp16_from

    def blocks(self) -> Iterator[Block]:
        for resolution in self.resolutions:
            yield getattr(self, f"b{resolution}")

    def forward(self, w: Tensor, noise: NoiseMaps, residuals: Residuals | None = None) -> Tensor:
        n, extra = w.shape[0], residuals or {}
        # fp16 blocks as published: on a GPU only, unless autocast decides
        half = w.device.type == "cuda" and not torch.is_autocast_enabled("cuda")
        maps, codes = iter(noise), iter(w.unbind(dim=1))
        x, picture = None, None
        code = next(codes)
        for block in self.blocks():
            name = f"b{block.resolution}"
            if x is None:
                x = block.const.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
            else:
                x = x.half() if half and block.resolution >= self.fp16_from else x
                x = block.conv0(x, code, next(maps), extra.get(f"{name}.conv0", ()))
                code = next(codes)
            x = block.conv1(x, code, next(maps), extra.get(f"{name}.conv1", ()))
            code = next(codes)  # toRGB shares its code with the next block's first convolution
            rgb: Tensor = block.torgb(x, code, extra.get(f"{name}.torgb", ())).float()
            with torch.autocast(w.device.type, enabled=False):
                picture = rgb if picture is None else upsample(picture) + rgb
        assert picture is not None
        return picture


class StyleGAN2Generator(Generator):
    """The generator of StyleGAN2 and StyleGAN2-ADA."""

    config_class = StyleGAN2Config

    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__(config)
        self.synthesis = Synthesis(config)
        self._set_layers(conv for block in self.synthesis.blocks() for conv in block.convs())

    def synthesise(self, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, resolution: int) -> Tensor:
        """Draw codes [N, L, w_dim] as full pictures, see ``Generator.synthesise``."""
        picture: Tensor = self.synthesis(w_plus, noise, residuals)
        return picture

    def recoloured(self, matrix: Tensor, offset: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """See ``Generator.recoloured``."""
        found, change = {}, matrix - torch.eye(3).to(matrix)
        torgbs = [block.torgb for block in self.synthesis.blocks()]
        for torgb in torgbs:
            found[torgb.spec.name] = change @ torgb.weight[:, :, 0, 0].float(), change @ torgb.bias.float()
        weight, bias = found[torgbs[-1].spec.name]  # it alone adds the offset: what is up-sampled fades at the border
        return {**found, torgbs[-1].spec.name: (weight, bias + offset)}
