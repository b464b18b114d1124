"""Layers that generators and the discriminator share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


__all__ = ["SQRT2", "FullyConnected", "MappingNetwork"]

SQRT2 = math.sqrt(2.0)


class FullyConnected(nn.Module):
    """Fully connected layer with equalised learning rate: the stored weights have unit variance over ``lr``.

    Always in fp32, as in the published networks: it costs nothing, and styles set the size of everything that follows.
    """

    def __init__(self, inputs: int, outputs: int, lr: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr))
        self.lr = lr
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs] -> [N, outputs]
        gain = self.lr / math.sqrt(self.weight.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            x = F.linear(x.float(), self.weight.float() * gain, self.bias.float() * self.lr)
            return F.leaky_relu(x, 0.2) * SQRT2 if self.activate else x


class MappingNetwork(nn.Module):
    """z [N, z_dim] -> w [N, w_dim], as in StyleGAN2; and the mean of w."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        for i in range(depth):
            inputs = z_dim if i == 0 else w_dim
            setattr(self, f"fc{i}", FullyConnected(inputs, w_dim, lr=0.01, activate=True))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        z = z.float()
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x
