"""The bare chain: the convolutions of StyleGAN2 with nothing between them, the least that any implementation must do.

Kernels are given, so there is neither modulation nor demodulation nor noise; the low-pass after an up-sampling and the
running picture are there, as is the leaky ReLU, in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refinestyle_hub.tokens.resample import blur, upsample


class Chain(nn.Module):
    """x [N, C, 4, 4] -> picture [N, 3, R, R]; ``channels`` by resolution."""

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.sizes = sorted(channels)
        inputs = channels[self.sizes[0]]
        for size in self.sizes:
            outputs = channels[size]
            if size > 4:
                self.register_buffer(f"up{size}", self._kernel(inputs, outputs, 3))  # as a transposed convolution
            self.register_buffer(f"conv{size}", self._kernel(outputs, outputs, 3))
            self.register_buffer(f"rgb{size}", self._kernel(3, outputs, 1))
            inputs = outputs
        self.register_buffer("start", torch.randn(1, channels[4], 4, 4))

    @staticmethod
    def _kernel(a: int, b: int, size: int) -> Tensor:
        kernel = torch.randn(a, b, size, size) / math.sqrt(b * size**2)
        return kernel.contiguous(memory_format=torch.channels_last)

    def forward(self, n: int, start: Tensor | None = None) -> Tensor:
        x = self.start if start is None else start
        x = x.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        picture = None
        for size in self.sizes:
            if size > 4:
                x = F.conv_transpose2d(x, getattr(self, f"up{size}").to(x.dtype), stride=2)
                x = F.leaky_relu_(blur(x, padding=1, gain=4.0), 0.2)
            x = F.leaky_relu_(F.conv2d(x, getattr(self, f"conv{size}"), padding=1), 0.2)
            rgb = F.conv2d(x, getattr(self, f"rgb{size}")).float()
            picture = rgb if picture is None else upsample(picture) + rgb
        assert picture is not None
        return picture
