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

from .pointwise import SLOPE, activate, depthwise, pointwise


__all__ = ["MobileStyleGAN", "MobileStyleGANConfig"]

SQRT2 = 2**0.5

Factors = tuple[Tensor, Tensor]  # P [N or 1, T, O], Q~ [N or 1, T, I]
Tokens = Mapping[str, Factors]  # by layer


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

    def style(self, w: Tensor) -> Tensor:  # [N, D] -> [N, I]
        style: Tensor = self.affine(w)
        return style

    def matrices(self, w: Tensor, tokens: Factors | None) -> Tensor:
        """K of a pointwise kernel for each picture, [N, O, I] in fp32."""
        style = self.style(w)
        with torch.autocast(w.device.type, enabled=False):
            k = (self.weight.float()[:, :, 0, 0] * self.demod.float()[:, None]) * style[:, None]
            if tokens is not None:
                p, q = tokens[0].float(), tokens[1].float()
                k = k + (p * self.demod.float()).mT @ q
        return k


class StyledConv(ModulatedConv):
    """(Depthwise 3x3,) modulated convolution, noise, bias, leaky ReLU; and the next block's inverse Haar."""

    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, resolution: int, w_dim: int) -> None:
        super().__init__(inputs, outputs, 3 if resolution == 4 else 1, w_dim)
        if resolution > 4:
            self.depthwise = nn.Parameter(torch.randn(inputs, 1, 3, 3) / 3)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.resolution = resolution

    def forward(
        self, x: Tensor, w: Tensor, noise: Tensor | None, tokens: Factors | None = None, up: Tensor | None = None
    ) -> Tensor:
        if self.resolution == 4:
            return activate(self._full(x, w, tokens), self.bias, noise, up)
        h = depthwise(x, self.depthwise)
        return pointwise(h, self.matrices(w, tokens), self.bias, noise, up)

    def _full(self, x: Tensor, w: Tensor, tokens: Factors | None) -> Tensor:
        """The 3x3 at 4 px: the map is smaller than a kernel for each picture. Tokens have A = 1."""
        style = self.style(w).to(x.dtype)[:, :, None, None]
        y = F.conv2d(x * style, self.weight.to(x.dtype), padding=1)
        if tokens is not None:
            n, p, q = x.shape[0], *(factor.to(x.dtype) for factor in tokens)
            maps = (q @ x.flatten(2)).unflatten(2, x.shape[2:])
            maps = F.avg_pool2d(maps, 3, 1, 1) * 9
            y = y + (p.mT.expand(n, -1, -1) @ maps.flatten(2).to(p.dtype)).unflatten(2, x.shape[2:])
        return y * self.demod.to(y.dtype)[:, None, None]


class ToRGB(ModulatedConv):
    """Pointwise kernel to the four wavelet bands of the picture, and their inverse Haar."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__(inputs, 12, 1, w_dim)

    def forward(self, x: Tensor, w: Tensor, tokens: Factors | None = None, mean: bool = False) -> Tensor:
        """x [N, I, H, W] -> picture [N, 3, 2 H, 2 W], or with ``mean`` its 2 x 2 mean [N, 3, H, W]. In fp32."""
        kernel, bias = 0.5 * self.matrices(w, tokens), 0.5 * self.bias.float()
        if mean:
            kernel, bias = kernel[:, :3], bias[:3]
        else:  # the wavelet of the kernel, which is small, is the wavelet of the picture
            kernel = _cells(kernel)
            bias = _cells(bias[None, :, None])[0, :, 0]
        # row by row: few outputs over many pixels in one product make its backward pass very slow on a CPU
        y = x.permute(0, 2, 3, 1) @ kernel.to(x.dtype).mT[:, None]
        y = (y.float() + bias).permute(0, 3, 1, 2).contiguous()
        return y if mean else F.pixel_shuffle(y, 2)


def _cells(bands: Tensor) -> Tensor:
    """[N, 12, I], the rows of a kernel to LL, HL, LH, HH of three colours -> those to the 2 x 2 cell of each colour."""
    low, high = bands.unflatten(1, (2, 2, 3)).unbind(1)  # row bands
    low, high = torch.stack((low + high, low - high), dim=1).unbind(2)  # [N, 2 rows, 3, I], column bands
    return torch.stack((low + high, low - high), dim=2).permute(0, 3, 1, 2, 4).flatten(1, 3)


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
            self.torgb = ToRGB(outputs, config.w_dim)


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
        n, blocks = w_plus.shape[0], [getattr(self, f"b{r}") for r in self.config.channels]
        codes = list(w_plus.unbind(1))
        given = {}
        for (name, conv), w in zip(self.layers(), codes, strict=True):
            if tokens is not None and name in tokens:
                p, q = tokens[name]
                given[conv] = (p, q * conv.style(w)[:, None]) if pre else (p, q)
        x = blocks[0].const.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        code = 0
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            if code > 0:
                conv = block.conv0
                x = conv(x, codes[code], self._noise(conv, n, noise), given.get(conv))
                code += 1
            up = None if after is None else 0.5 * after.up(codes[code + 1])
            conv = block.conv1
            x = conv(x, codes[code], self._noise(conv, n, noise), given.get(conv), up)
            code += 1
        conv = blocks[-1].torgb
        picture: Tensor = conv(x, codes[-1], given.get(conv), mean=resolution < full)
        return F.avg_pool2d(picture, full // 2 // resolution) if 2 * resolution < full else picture


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
