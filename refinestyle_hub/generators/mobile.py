"""MobileStyleGAN generator (Belousov 2021, arXiv 2104.04767): StyleGAN2 distilled into depthwise-separable convolutions
that draw wavelet coefficients.

A convolution is a depthwise 3x3 and a pointwise kernel. Modulation commutes with the depthwise part, so with
h = depthwise(x), style s and RefineStyle's tokens (arXiv 2410.06104)

    y = d * ( W (s h) + P^T (Q~ h) ) = K h        K = d (W diag(s) + P^T Q~)

The demodulation d is given, not computed: a buffer with one factor per output channel. So K is one small matrix for
each picture, and modulation, tokens and demodulation cost nothing per pixel.

Maps are [N, C, H, W] in channels_last. Maps that enter an inverse Haar hold its four bands one after the other, C each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


__all__ = ["MobileStyleGAN", "MobileStyleGANConfig", "inverse_haar"]

SQRT2 = 2**0.5
SLOPE = 0.2  # of the leaky ReLU

Tokens = Mapping[str, tuple[Tensor, Tensor]]  # by layer: P [N or 1, T, O], Q [N or 1, T, I]


@dataclass(frozen=True)
class MobileStyleGANConfig:
    """Widths of the feature maps by resolution; the picture has twice the last one."""

    channels: Mapping[int, int]
    w_dim: int = 512
    mapping_layers: int = 8

    @property
    def resolution(self) -> int:
        """Height and width of the picture, pixels."""
        return 2 * max(self.channels)

    @property
    def num_ws(self) -> int:
        """Number L of w+ codes: one per convolution and one for toRGB."""
        return 2 * len(self.channels)


FFHQ = MobileStyleGANConfig({4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64})


def inverse_haar(x: Tensor) -> Tensor:
    """[N, 4 C, H, W] -> [N, C, 2 H, 2 W], in units where the wavelet is orthogonal after a factor of 1/2.

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


class Dense(nn.Module):
    """Fully connected layer, always in fp32: styles set the size of everything that follows."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:  # [N, I] -> [N, O]
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float(), self.bias.float())


class MappingNetwork(nn.Module):
    """z [N, D] -> w [N, D]: that of StyleGAN2."""

    w_avg: Tensor

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        for i in range(depth):
            setattr(self, f"fc{i}", Dense(dim, dim))
        self.depth = depth
        self.register_buffer("w_avg", torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        z = z.float()
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), SLOPE) * SQRT2
        return x


class ModulatedConv(nn.Module):
    """Pointwise or full kernel [O, I, k, k] with rows of norm 1, style, given demodulation, tokens."""

    demod: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, w_dim: int) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs, kernel, kernel)
        self.weight = nn.Parameter(weight / weight.flatten(1).norm(dim=1)[:, None, None, None])
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.register_buffer("demod", torch.ones(outputs))
        self.kernel = kernel

    def style(self, w: Tensor) -> Tensor:  # [N, D] -> [N, I]
        style: Tensor = self.affine(w)
        return style

    def modulated(self, x: Tensor, w: Tensor, tokens: tuple[Tensor, Tensor] | None, pre: bool) -> Tensor:
        """x [N, I, H, W] -> [N, O, H, W], with the bias added."""
        style = self.style(w)
        n, inputs, height, width = x.shape
        p, q = (None, None) if tokens is None else (tokens[0].float(), tokens[1].float())
        if q is not None and pre:
            q = q * style[:, None]
        if self.kernel > 1:
            return self._full(x, style, p, q)
        weight, demod = self.weight.float()[:, :, 0, 0], self.demod.float()
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, inputs)
        if height * width > weight.shape[0]:  # one kernel for each picture
            with torch.autocast(x.device.type, enabled=False):
                k = (weight * demod[:, None]) * style[:, None]
                if p is not None and q is not None:
                    k = k + (p * demod).mT @ q
            y = torch.baddbmm(self.bias.to(x.dtype), pixels, k.to(x.dtype).mT)
        else:
            y = (pixels * style.to(x.dtype)[:, None]) @ weight.to(x.dtype).t()
            if p is not None and q is not None:
                y = y + (pixels @ q.to(x.dtype).mT) @ p.to(x.dtype)
            y = y * demod.to(y.dtype) + self.bias.to(y.dtype)
        return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)

    def _full(self, x: Tensor, style: Tensor, p: Tensor | None, q: Tensor | None) -> Tensor:
        weight = self.weight.to(x.dtype)
        y = F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight, padding=self.kernel // 2)
        if p is not None and q is not None:
            maps = torch.einsum("nihw,bti->nthw" if q.shape[0] == 1 else "nihw,nti->nthw", x, q.to(x.dtype))
            maps = F.avg_pool2d(maps, self.kernel, 1, self.kernel // 2) * self.kernel**2  # A = 1
            y = y + torch.einsum("nthw,bto->nohw" if p.shape[0] == 1 else "nthw,nto->nohw", maps, p.to(maps.dtype))
        y = y * self.demod.to(y.dtype)[:, None, None]
        return y + self.bias.to(y.dtype)[:, None, None]


class StyledConv(ModulatedConv):
    """(Depthwise 3x3,) modulated convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, resolution: int, w_dim: int) -> None:
        super().__init__(inputs, outputs, 3 if resolution == 4 else 1, w_dim)
        if resolution > 4:
            self.depthwise = nn.Parameter(torch.randn(inputs, 1, 3, 3) / 3)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.resolution = resolution

    def forward(
        self, x: Tensor, w: Tensor, noise: Tensor | None, tokens: tuple[Tensor, Tensor] | None = None, pre: bool = False
    ) -> Tensor:
        if self.kernel == 1:
            x = F.conv2d(x, self.depthwise.to(x.dtype), padding=1, groups=x.shape[1])
        y = self.modulated(x, w, tokens, pre)
        if noise is not None:
            y = y.add_(noise.to(y.dtype))
        return F.leaky_relu_(y, SLOPE)


class Block(nn.Module):
    """One resolution. From 8 px: style, inverse Haar, conv0, conv1. At 4 px: a constant and conv1."""

    def __init__(self, config: MobileStyleGANConfig, resolution: int) -> None:
        super().__init__()
        outputs = config.channels[resolution]
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            inputs = config.channels[resolution // 2]
            self.up = Dense(config.w_dim, inputs, bias=1.0)
            self.conv0 = StyledConv(inputs // 4, outputs, resolution, config.w_dim)
        self.conv1 = StyledConv(outputs, outputs, resolution, config.w_dim)
        if resolution == max(config.channels):
            self.torgb = ModulatedConv(outputs, 12, 1, config.w_dim)


class MobileStyleGAN(nn.Module):
    """Mapping z -> w and synthesis w+ -> picture.

    Args:
        config: Widths; FFHQ at 1024 px unless given.
    """

    def __init__(self, config: MobileStyleGANConfig = FFHQ) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config.w_dim, config.mapping_layers)
        for resolution in config.channels:
            setattr(self, f"b{resolution}", Block(config, resolution))

    @property
    def mean_latent(self) -> Tensor:
        """Mean of w, [D]."""
        return self.mapping.w_avg

    def layers(self) -> Iterator[tuple[str, ModulatedConv]]:
        """Convolutions that tokens refine, coarse to fine, by name."""
        for resolution in self.config.channels:
            for name in ("conv0", "conv1", "torgb"):
                module = getattr(getattr(self, f"b{resolution}"), name, None)
                if module is not None:
                    yield f"b{resolution}.{name}", module

    def _noise(self, conv: StyledConv, n: int, kind: str) -> Tensor | None:
        if kind == "none":
            return None
        shape = (n, 1, conv.resolution, conv.resolution)
        noise = conv.noise_const if kind == "const" else torch.randn(shape, device=conv.bias.device)
        return noise * conv.noise_strength

    def synthesise(
        self,
        w_plus: Tensor,
        tokens: Tokens | None = None,
        noise: str = "const",
        resolution: int | None = None,
        pre: bool = False,
    ) -> Tensor:
        """Draw w+ [N, L, D] as pictures [N, 3, r, r], about [-1, 1].

        Args:
            tokens: By layer name P [N, T, O] and Q [N, T, I]; a leading 1 is shared by all samples.
            noise: ``"const"`` (stored), ``"none"`` or ``"random"`` (fresh).
            resolution: Full, or smaller by a power of two: the exact mean of the full picture.
            pre: whether tokens enter before the modulation.
        """
        full = self.config.resolution
        resolution = full if resolution is None else resolution
        if resolution > full or full % resolution:
            raise ValueError(f"resolution must be {full} over a power of two, not {resolution}.")
        given = tokens or {}
        n = w_plus.shape[0]
        codes = iter(w_plus.unbind(1))
        x = None
        for r in self.config.channels:
            block = getattr(self, f"b{r}")
            if x is None:
                x = block.const.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
                if torch.is_autocast_enabled(x.device.type):
                    x = x.to(torch.get_autocast_dtype(x.device.type))
            else:
                w = next(codes)
                x = inverse_haar(x * (0.5 * block.up(w)).to(x.dtype)[:, :, None, None])
                noise0 = self._noise(block.conv0, n, noise)
                x = block.conv0(x, w, noise0, given.get(f"b{r}.conv0"), pre)
            x = block.conv1(x, next(codes), self._noise(block.conv1, n, noise), given.get(f"b{r}.conv1"), pre)
        bands: Tensor = block.torgb.modulated(x, next(codes), given.get(f"b{r}.torgb"), pre).float() * 0.5
        if resolution == full:
            return inverse_haar(bands).contiguous()
        picture = bands[:, :3].contiguous()
        return picture if 2 * resolution == full else F.avg_pool2d(picture, full // 2 // resolution)


def load_folder(folder: str, variant: str | None = None) -> MobileStyleGAN:
    """The converted generator in ``folder``, frozen, in fp32. ``variant="fp16"`` reads the half-size file."""
    import json
    from pathlib import Path

    from safetensors.torch import load_file

    path = Path(folder)
    config = json.loads((path / "config.json").read_text())
    channels = {int(key): value for key, value in config["channels"].items()}
    with torch.device("meta"):
        net = MobileStyleGAN(MobileStyleGANConfig(channels, config["w_dim"], config["mapping_layers"]))
    state = load_file(path / ("model.safetensors" if variant is None else f"model.{variant}.safetensors"))
    net.load_state_dict({key: x.float() for key, x in state.items()}, assign=True)
    return net.requires_grad_(False).eval()
