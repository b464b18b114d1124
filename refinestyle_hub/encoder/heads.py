"""Heads of the encoder: small linear maps from queries to the numbers of a layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderConfig, LayerSpec
from ..tokens.parameters import KernelStats
from ..tokens.token_set import LayerTokens
from .gradients import DISTANCES, Told


__all__ = ["CodeHead", "TokenHead"]

Q_VARIES = 0.1  # of its deviation: how much Q differs from picture to picture at first


class CodeHead(nn.Linear):
    """Query [N, d] -> offset of a w+ code from the mean latent, in standard coordinates [N, D]; 0 at first."""

    def __init__(self, width: int, w_dim: int) -> None:
        super().__init__(width, w_dim)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Head(nn.Linear):
    """A linear map divided by its width, but for the bias.

    Adam moves each weight by its rate, and what ``width`` of them add up to by ``width`` times as much: undivided, a
    rate that suits the blocks breaks the face (Yang et al. 2021, arXiv 2203.03466, table 3: the output's multiplier).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x / self.in_features, self.weight, self.bias)


class Follow(nn.Module):
    """How far some tokens go along what was told about them: as their queries say, at first nowhere."""

    def __init__(self, rank: int, width: int, channels: int) -> None:
        super().__init__()
        self.far = Head(width, DISTANCES)
        self.gain = nn.Parameter(torch.ones(rank, DISTANCES, channels))
        nn.init.zeros_(self.far.weight)
        nn.init.zeros_(self.far.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:  # [N, T, d], [N, T, 2, C] -> [N, T, C]
        step: Tensor = (self.far(x).float()[..., None] * self.gain * told).sum(dim=2)
        return step


class TokenHead(nn.Module):
    """Queries of a layer [N, 2 T, d], first those of P, then those of Q -> its tokens for each picture.

    As everywhere P = 0, Q ~ N(0, 1 / C_in), A = 1 at first. P is in units of the norm of the base kernel. With
    feedback the queries of P hear of the gradients by P, and P and Q go along theirs as far as their queries say.
    """

    unit: Tensor

    def __init__(self, config: EncoderConfig, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.rank = spec.useful(config.rank)
        self.pre = config.residual != "post"
        self.multiply = config.residual == "multiply"
        self.full = config.spatial == "full" and spec.kernel > 1
        taps, width = spec.kernel**2, config.width
        inputs = spec.inputs * (taps if self.full else 1)
        scaled = config.spatial == "scaled" and spec.kernel > 1
        self.mean_q = nn.Parameter(torch.randn(self.rank, inputs) / math.sqrt(spec.inputs))
        self.mean_a = nn.Parameter(torch.ones(self.rank, taps)) if scaled else None
        self.p = Head(width, spec.outputs)
        self.q = Head(width, inputs, bias=False)
        self.a = Head(width, taps, bias=False) if scaled else None
        nn.init.zeros_(self.p.weight)
        nn.init.zeros_(self.p.bias)
        nn.init.normal_(self.q.weight, std=Q_VARIES * math.sqrt(width / spec.inputs))
        if self.a is not None:
            nn.init.zeros_(self.a.weight)
        if config.feedback:
            self.hear = nn.Linear(DISTANCES * spec.outputs, width)
            self.follow_p = Follow(self.rank, width, spec.outputs)
            self.follow_q = Follow(self.rank, width, inputs)
        self.register_buffer("unit", torch.ones([]))

    def scale(self, stats: KernelStats) -> None:
        """Take the unit from the kernel that is refined. A factor on a kernel has it built in."""
        pre = torch.tensor(self.pre, device=stats.norm.device)
        self.unit.copy_(torch.tensor(math.sqrt(self.spec.inputs)) if self.multiply else stats.unit(pre))

    def start(self, n: int) -> LayerTokens:
        """Tokens of n pictures before any is seen: no residual."""
        side = self.spec.kernel
        p = self.mean_q.new_zeros(n, self.rank, self.spec.outputs)
        q = self.mean_q.unflatten(1, (self.spec.inputs, side, side)) if self.full else self.mean_q
        a = None if self.mean_a is None else self.mean_a.unflatten(1, (side, side)).expand(n, -1, -1, -1)
        return LayerTokens(p, q.expand(n, *q.shape), a, torch.full(p.shape[:2], self.pre, device=p.device))

    def forward(self, x: Tensor, before: LayerTokens, told: Told | None) -> LayerTokens:
        """Queries [N, 2 T, d], tokens before this look and feedback on them -> tokens."""
        of_p, of_q = x.split(self.rank, dim=1)
        p, q = self.p(of_p).float(), self.q(of_q).float()
        if told is not None:
            p, q = p + self.follow_p(of_p, told.p), q + self.follow_q(of_q, told.q)
        q = before.q + q.view_as(before.q)
        a = None if self.a is None or before.a is None else before.a + self.a(of_q).float().view_as(before.a)
        return LayerTokens(before.p + p * self.unit, q, a, before.pre)
