"""MobileStyleGAN generator (Belousov 2021, arXiv 2104.04767): StyleGAN2 distilled into depthwise-separable
convolutions that draw wavelet coefficients.

A convolution is a depthwise 3x3 and a pointwise kernel W. Modulation commutes with the depthwise part, so with
h = depthwise(x), style s and RefineStyle's tokens (arXiv 2410.06104)

    y = K h        K = d / |W_o + dW_o| ( W diag(s) + P^T Q~ )        dW: P^T Q of the tokens that enter before s

K is one small matrix for each picture: modulation, tokens and demodulation cost nothing per pixel. The demodulation is
static: d is given for each output channel, and the norm, which is that of the rows as they are refined, depends on no
picture. So a refined row can turn but not grow, layer after layer, and merged weights draw exactly what tokens draw.
toRGB keeps d alone: there, size is colour.

Maps are [N, C, H, W] in channels_last. Those that enter an inverse Haar hold its four bands one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LayerSpec, MobileStyleGANConfig
from ..tokens.modulated_conv import Residual, bias_offset, join, modulated_conv, modulated_queries, static_norm
from .base import Generator, NoiseMaps, Residuals, Window
from .layers import FullyConnected
from .pointwise import activate, depthwise, pointwise


__all__ = ["MobileStyleGANGenerator"]

CELL = 16  # pixels of the picture in one of the map from which on a window is drawn alone
MARGIN = 4  # such cells around it: at 4 resolutions two 3x3 reach 2 (1 + 1/2 + 1/4 + 1/8) cells far


class ModulatedConv(nn.Module):
    """Kernel [O, I, k, k] with style, tokens and static demodulation."""

    demod: Tensor

    def __init__(self, spec: LayerSpec, w_dim: int) -> None:
        super().__init__()
        self.spec = spec
        weight = torch.randn(spec.outputs, spec.inputs, spec.kernel, spec.kernel)
        self.weight = nn.Parameter(weight / (spec.inputs * spec.kernel**2) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(spec.outputs))
        self.affine = FullyConnected(w_dim, spec.inputs, bias=1.0)
        self.register_buffer("demod", torch.ones(spec.outputs))

    @property
    def demodulation(self) -> Tensor:
        """Factors of the outputs, [O], without tokens."""
        return self._demodulation(())[0]

    def style(self, w: Tensor) -> Tensor:  # [N, w_dim] -> [N, I]
        style: Tensor = self.affine(w)
        return style

    def _demodulation(self, residuals: Sequence[Residual]) -> Tensor:  # [1 or N, O]
        demod = self.demod.float()[None]
        return demod / static_norm(self.weight, residuals) if self.spec.role == "conv" else demod

    def kernel(self, w: Tensor, residuals: Sequence[Residual]) -> Tensor:
        """K of a pointwise kernel for each picture, [N, O, I] in fp32."""
        style = self.style(w)
        residuals = [r for r in residuals if r.p.shape[1] > 0]
        with torch.autocast(w.device.type, enabled=False):
            k = self.weight.float()[:, :, 0, 0] * style[:, None]
            if residuals:
                tokens = join(residuals)
                q = modulated_queries(tokens, style).flatten(2)
                p = tokens.p.float() if tokens.a is None else tokens.p.float() * tokens.a.float().flatten(2)
                k = k + p.mT @ q
            return k * self._demodulation(residuals)[:, :, None]

    def offset(self, residuals: Sequence[Residual]) -> Tensor:
        """The bias with what tokens add, [O] or [N, O]."""
        extra = bias_offset(residuals)
        return self.bias if extra is None else self.bias + extra


class StyledConv(ModulatedConv):
    """(Depthwise 3x3,) modulated convolution, noise, bias, leaky ReLU; then up-sampling for the next block."""

    noise_const: Tensor

    def __init__(self, spec: LayerSpec, w_dim: int) -> None:
        super().__init__(spec, w_dim)
        if spec.kernel == 1:
            self.depthwise = nn.Parameter(torch.randn(spec.inputs, 1, 3, 3) / 3)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(spec.resolution, spec.resolution))

    def forward(
        self, x: Tensor, w: Tensor, noise: Tensor | None, residuals: Sequence[Residual], up: Tensor | None
    ) -> Tensor:
        """x [N, I, R, R] -> [N, O, R, R], or with ``up``, a style [N, O], -> [N, O / 4, 2 R, 2 R]."""
        noise = None if noise is None else noise * self.noise_strength
        bias = self.offset(residuals)
        if self.spec.kernel == 1:
            return pointwise(depthwise(x, self.depthwise), self.kernel(w, residuals), bias, noise, up)
        y = modulated_conv(x, self.weight, self.style(w), residuals, demodulation="none")
        return activate(y * self._demodulation(residuals).to(y.dtype)[:, :, None, None], bias, noise, up)


class ToRGB(ModulatedConv):
    """Pointwise kernel to the four wavelet bands of the picture, and their inverse Haar."""

    def forward(self, x: Tensor, w: Tensor, residuals: Sequence[Residual], mean: bool) -> Tensor:
        """x [N, I, R, R] -> picture [N, 3, 2 R, 2 R], or with ``mean`` its 2 x 2 mean [N, 3, R, R]. In fp32."""
        kernel = 0.5 * self.kernel(w, residuals)
        bias = 0.5 * self.offset(residuals).float().reshape(-1, self.spec.outputs, 1)  # [1 or N, 12, 1]
        if mean:
            kernel, bias = kernel[:, :3], bias[:, :3]
        else:  # the wavelet of the kernel, which is small, is the wavelet of the picture
            kernel, bias = _cells(kernel), _cells(bias)
        # row by row: few outputs over many pixels in one product make its backward pass very slow on a CPU
        y = x.permute(0, 2, 3, 1) @ kernel.to(x.dtype).mT[:, None]
        y = y.permute(0, 3, 1, 2).float().contiguous() + bias[..., None]
        return y if mean else F.pixel_shuffle(y, 2)


def _cells(bands: Tensor) -> Tensor:
    """[N, 12, I], the rows of a kernel to LL, HL, LH, HH of three colours -> those to the 2 x 2 cells of each."""
    low, high = bands.unflatten(1, (2, 2, 3)).unbind(1)  # row bands
    low, high = torch.stack((low + high, low - high), dim=1).unbind(2)  # [N, 2 rows, 3, I], column bands
    return torch.stack((low + high, low - high), dim=2).permute(0, 3, 1, 2, 4).flatten(1, 3)


class Block(nn.Module):
    """One resolution: style and inverse Haar, conv0, conv1 and, at the last, toRGB. At 4 px a constant and conv1."""

    const: nn.Parameter  # [C, 4, 4], at 4 px only
    up: FullyConnected  # style of the maps that the inverse Haar makes this block's, from 8 px
    conv0: StyledConv
    conv1: StyledConv
    torgb: ToRGB

    def __init__(self, config: MobileStyleGANConfig, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(config.channels[4], 4, 4))
        else:
            self.up = FullyConnected(config.w_dim, config.channels[resolution // 2], bias=1.0)
        for spec in config.layers:
            if spec.resolution == resolution:
                module = StyledConv if spec.role == "conv" else ToRGB
                setattr(self, spec.name.partition(".")[2], module(spec, config.w_dim))

    def convs(self) -> Iterator[ModulatedConv]:
        """Its refinable convolutions, as they run."""
        yield from (module for module in self.children() if isinstance(module, ModulatedConv))


class Synthesis(nn.Module):
    """w+ [N, L, w_dim] -> picture [N, 3, H, W], about [-1, 1]."""

    def __init__(self, config: MobileStyleGANConfig) -> None:
        super().__init__()
        for resolution in config.channels:
            setattr(self, f"b{resolution}", Block(config, resolution))
        self.resolutions = tuple(config.channels)

    def blocks(self) -> list[Block]:
        return [getattr(self, f"b{resolution}") for resolution in self.resolutions]

    def forward(
        self, w: Tensor, noise: NoiseMaps, residuals: Residuals, mean: bool, window: Window | None = None
    ) -> Tensor:
        """With ``mean`` the 2 x 2 mean of the picture; with ``window`` that square of it."""
        blocks, codes, maps = self.blocks(), w.unbind(dim=1), iter(noise)
        x = blocks[0].const.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        size = 2 * blocks[-1].resolution
        rows = columns = slice(0, size)  # what the maps show, in pixels of the picture
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            if window is not None and block.resolution * CELL == size:
                rows, columns = (_around(first, window[2], size) for first in window[:2])
                cells = [slice(part.start // CELL, part.stop // CELL) for part in (rows, columns)]
                x = x[..., cells[0], cells[1]].contiguous(memory_format=torch.channels_last)
                maps = iter([_part(each, rows, columns, size) for each in maps])
            if block.resolution > 4:
                conv = block.conv0
                x = conv(x, codes[conv.spec.code], next(maps), residuals.get(conv.spec.name, ()), None)
            conv = block.conv1
            # half of the style: the wavelet's own factor
            up = None if after is None else 0.5 * after.up(codes[after.conv0.spec.code])
            x = conv(x, codes[conv.spec.code], next(maps), residuals.get(conv.spec.name, ()), up)
        torgb = blocks[-1].torgb
        picture: Tensor = torgb(x, codes[torgb.spec.code], residuals.get(torgb.spec.name, ()), mean)
        if window is None:
            return picture
        top, left, side = window[0] - rows.start, window[1] - columns.start, window[2]
        return picture[..., top : top + side, left : left + side]


def _around(first: int, side: int, size: int) -> slice:
    """The pixels whose whole cells reach far enough around a window."""
    start, stop = first // CELL - MARGIN, -(-(first + side) // CELL) + MARGIN
    return slice(max(0, start * CELL), min(size, stop * CELL))


def _part(noise: Tensor | None, rows: slice, columns: slice, size: int) -> Tensor | None:
    """Of a noise map of a whole picture of ``size``."""
    if noise is None:
        return None
    step = size // noise.shape[-1]  # pixels
    return noise[..., rows.start // step : rows.stop // step, columns.start // step : columns.stop // step]


class MobileStyleGANGenerator(Generator):
    """The generator of MobileStyleGAN."""

    config_class = MobileStyleGANConfig

    config: MobileStyleGANConfig

    def __init__(self, config: MobileStyleGANConfig) -> None:
        super().__init__(config)
        self.synthesis = Synthesis(config)
        self._set_layers(conv for block in self.synthesis.blocks() for conv in block.convs())

    def synthesise(self, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, resolution: int) -> Tensor:
        """Draw codes [N, L, w_dim] as full pictures or, where less is asked, as their 2 x 2 mean, which costs less."""
        picture: Tensor = self.synthesis(w_plus, noise, residuals, resolution < self.config.resolution)
        return picture

    def synthesise_window(self, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, window: Window) -> Tensor:
        """Draw a square of the full picture; the larger maps are those around it alone."""
        picture: Tensor = self.synthesis(w_plus, noise, residuals, False, window)
        return picture

    def recoloured(self, matrix: Tensor, offset: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """See ``Generator.recoloured``. The finest details stay as they are, so that few tokens hold the change."""
        torgb: ToRGB = self.synthesis.blocks()[-1].torgb
        change, demod = matrix - torch.eye(3).to(matrix), torgb.demod[:3, None].float()
        weight = torch.zeros_like(torgb.weight[:, :, 0, 0], dtype=torch.float32)
        weight[:3] = change @ (demod * torgb.weight[:3, :, 0, 0].float()) / demod
        bias = torch.zeros_like(torgb.bias, dtype=torch.float32)
        bias[:3] = change @ torgb.bias[:3].float() + 2 * offset  # the wavelet halves it
        return {torgb.spec.name: (weight, bias)}
