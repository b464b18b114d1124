"""StyleGAN2 residual discriminator (Karras et al. 2020, section 4): used in training and to start few-shot adaptation.

The parameter names are those of the published PyTorch networks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DiscriminatorConfig
from ..errors import ShapeError
from ..hub.pretrained import Pretrained
from ..tokens.resample import blur, downsample
from .layers import SQRT2, FullyConnected


__all__ = ["Conv", "Discriminator"]


class Conv(nn.Module):
    """Convolution with equalised learning rate, optionally halving the size."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        down: bool = False,
        linear: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(outputs))
        self.down = down
        self.clamp = clamp

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H or H / 2, ...]
        kernel = self.weight.shape[-1]
        weight = (self.weight / math.sqrt(self.weight[0].numel())).to(x.dtype)
        if not self.down:
            x = F.conv2d(x, weight, padding=kernel // 2)
        elif kernel == 1:
            x = F.conv2d(downsample(x), weight)
        else:
            x = F.conv2d(blur(x, padding=2), weight, stride=2)
        if self.bias is None:
            return x * gain
        # leaky ReLU is homogeneous, so its gain can go before it
        x = F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], 0.2) * (SQRT2 * gain)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


class Block(nn.Module):
    """Residual block that halves the size; the highest one begins with fromrgb."""

    def __init__(self, config: DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        inputs, outputs, clamp = config.channels[resolution], config.channels[resolution // 2], config.conv_clamp
        self.fromrgb = Conv(3, inputs, 1, clamp=clamp) if resolution == config.resolution else None
        self.conv0 = Conv(inputs, inputs, 3, clamp=clamp)
        self.conv1 = Conv(inputs, outputs, 3, down=True, clamp=clamp)
        self.skip = Conv(inputs, outputs, 1, down=True, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        gain = math.sqrt(0.5)
        y: Tensor = self.skip(x, gain) + self.conv1(self.conv0(x), gain)
        return y


def minibatch_deviation(x: Tensor, group: int, channels: int) -> Tensor:
    """Append the standard deviation over groups of samples as ``channels`` constant maps.

    Groups are as large as divides the batch, up to ``group``.
    """
    n, c, h, w = x.shape
    group = next(g for g in range(min(group, n), 0, -1) if n % g == 0)
    y = x.reshape(group, -1, channels, c // channels, h, w).float()
    y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [N / group, channels]
    y = y.to(x.dtype).reshape(-1, channels, 1, 1).repeat(group, 1, h, w)
    return torch.cat([x, y], dim=1)


class Epilogue(nn.Module):
    """4x4 features -> one logit per picture."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.channels[4]
        self.group, self.channels = config.mbstd_group, config.mbstd_channels
        self.conv = Conv(width + self.channels, width, 3, clamp=config.conv_clamp)
        self.fc = FullyConnected(width * 16, width, activate=True)
        self.out = FullyConnected(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.channels:
            x = minibatch_deviation(x, self.group, self.channels)
        logit: Tensor = self.out(self.fc(self.conv(x).flatten(1)))
        return logit


class Discriminator(Pretrained, nn.Module):
    """Picture [N, 3, H, W] in [-1, 1] -> realness logit [N, 1]."""

    part = "discriminator"
    config_class = DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.resolutions = tuple(r for r in reversed(config.channels) if r > 4)
        for resolution in self.resolutions:
            setattr(self, f"b{resolution}", Block(config, resolution))
        self.b4 = Epilogue(config)

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature maps after each block, fine to coarse: [N, C, H / 2, W / 2] ... [N, C, 4, 4].

        Raises:
            ShapeError: The pictures are of another size.
        """
        size = self.config.resolution
        if x.shape[1:] != (3, size, size):
            raise ShapeError(f"The discriminator takes pictures [N, 3, {size}, {size}], not {list(x.shape)}.")
        maps = []
        # fp16 blocks as published: on a GPU only, unless autocast decides
        mixed = self.config.num_fp16_res and x.device.type == "cuda" and not torch.is_autocast_enabled("cuda")
        for resolution in self.resolutions:
            if mixed:
                x = x.to(torch.float16 if resolution >= self.config.fp16_from else torch.float32)
            x = getattr(self, f"b{resolution}")(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.b4(self.features(x)[-1].float())
        return logit
