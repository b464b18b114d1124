"""Transformer blocks: queries that attend to each other and to a feature map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


__all__ = ["Block", "positions"]


class Attention(nn.Module):
    """Queries [N, K, d] attend to a memory [N, M, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        n, _, width = x.shape
        query = self.query(x).view(n, -1, self.heads, width // self.heads).transpose(1, 2)  # [N, heads, K, d / heads]
        key, value = self.key_value(memory).view(n, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Self-attention among the queries, cross-attention to the memory, feed-forward; normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.self_attn, self.cross_attn = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:  # [N, K, d], [N, M, d] -> [N, K, d]
        y: Tensor = self.norms[0](x)
        x = x + self.self_attn(y, y)
        x = x + self.cross_attn(self.norms[1](x), memory)
        y = self.mlp(self.norms[2](x))
        return x + y


def positions(height: int, width: int, channels: int) -> Tensor:
    """Sinusoidal positions of a map, [channels, height, width] (Vaswani et al. 2017, section 3.5).

    A quarter of the channels each is sine and cosine, down and across; the longest wave spans twice the map.
    """
    waves = torch.arange(channels // 4).float()
    turns = math.pi * max(height, width) ** (waves / max(len(waves) - 1, 1))  # radians over the map
    places = []
    for axis, size in ((0, height), (1, width)):
        at = (torch.arange(size).float() + 0.5) / size
        angles = (turns[:, None] * at)[:, :, None] if axis == 0 else (turns[:, None] * at)[:, None]
        places += [angles.sin().expand(-1, height, width), angles.cos().expand(-1, height, width)]
    return torch.cat(places)
