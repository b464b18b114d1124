"""Heads of the encoder: small linear maps from queries to the numbers of a layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderNetwork, LayerSpec
from ..tokens.layer_tokens import LayerTokens
from ..tokens.parameters import KernelStats
from .gradients import DISTANCES, TokenGradients


__all__ = ["CodeHead", "TokenHead"]

Q_VARIES = 0.1  # of its deviation: how much Q differs from image to image at first


class CodeHead(nn.Linear):
    """Query [N, d] -> offset of a w+ code from the mean latent, in standard coordinates [N, D]; 0 at first."""

    def __init__(self, width: int, w_dim: int) -> None:
        super().__init__(width, w_dim)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ScaledLinear(nn.Linear):
    """A linear map of inputs divided by their number; the bias is not divided.

    Adam moves each weight by its rate, and what ``width`` of them add up to by ``width`` times as much: undivided, a
    rate that suits the blocks breaks the face (Yang et al. 2021, arXiv 2203.03466, table 3: the output's multiplier).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x / self.in_features, self.weight, self.bias)


class GradientStep(nn.Module):
    """A step along the gradients: a rate for each token and distance from its query, a gain for each channel."""

    def __init__(self, rank: int, width: int, channels: int) -> None:
        super().__init__()
        self.rate = ScaledLinear(width, DISTANCES)
        self.gain = nn.Parameter(torch.ones(rank, DISTANCES, channels))
        nn.init.zeros_(self.rate.weight)
        nn.init.zeros_(self.rate.bias)

    def forward(self, x: Tensor, gradient: Tensor) -> Tensor:  # [N, T, d], [N, T, 2, C] -> [N, T, C]
        step: Tensor = (self.rate(x).float()[..., None] * self.gain * gradient).sum(dim=2)
        return step


class TokenHead(nn.Module):
    """Queries of a layer [N, 2 T, d], first those of P, then those of Q -> its tokens for each image.

    As everywhere P = 0, Q ~ N(0, 1 / C_in), A = 1 at first. P is in units of the norm of the base kernel. With
    gradient feedback the gradients by P are added to the queries of P (``grad_proj``), and P and Q step along theirs.
    """

    unit: Tensor

    def __init__(self, network: EncoderNetwork, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.rank = spec.useful(network.rank)
        self.pre = network.residual == "pre"
        self.full = network.spatial == "full" and spec.kernel > 1
        taps, width = spec.kernel**2, network.width
        inputs = spec.inputs * (taps if self.full else 1)
        scaled = network.spatial == "scaled" and spec.kernel > 1
        self.mean_q = nn.Parameter(torch.randn(self.rank, inputs) / math.sqrt(spec.inputs))
        self.mean_a = nn.Parameter(torch.ones(self.rank, taps)) if scaled else None
        self.p = ScaledLinear(width, spec.outputs)
        self.q = ScaledLinear(width, inputs, bias=False)
        self.a = ScaledLinear(width, taps, bias=False) if scaled else None
        nn.init.zeros_(self.p.weight)
        nn.init.zeros_(self.p.bias)
        nn.init.normal_(self.q.weight, std=Q_VARIES * math.sqrt(width / spec.inputs))
        if self.a is not None:
            nn.init.zeros_(self.a.weight)
        if network.gradient_feedback:
            self.grad_proj = nn.Linear(DISTANCES * spec.outputs, width)
            self.step_p = GradientStep(self.rank, width, spec.outputs)
            self.step_q = GradientStep(self.rank, width, inputs)
        self.register_buffer("unit", torch.ones([]))

    def set_unit(self, stats: KernelStats) -> None:
        """Take the unit of P from the kernel that is refined."""
        self.unit.copy_(stats.unit(torch.tensor(self.pre, device=stats.norm.device)))

    def initial(self, n: int) -> LayerTokens:
        """Tokens of n images before any is seen: no residual."""
        side = self.spec.kernel
        p = self.mean_q.new_zeros(n, self.rank, self.spec.outputs)
        q = self.mean_q.unflatten(1, (self.spec.inputs, side, side)) if self.full else self.mean_q
        a = None if self.mean_a is None else self.mean_a.unflatten(1, (side, side)).expand(n, -1, -1, -1)
        return LayerTokens(p, q.expand(n, *q.shape), a, torch.full(p.shape[:2], self.pre, device=p.device))

    def forward(self, x: Tensor, tokens: LayerTokens, gradients: TokenGradients | None) -> LayerTokens:
        """Queries [N, 2 T, d], tokens so far and gradients by them, if there are -> corrected tokens."""
        of_p, of_q = x.split(self.rank, dim=1)
        p, q = self.p(of_p).float(), self.q(of_q).float()
        if gradients is not None:
            p, q = p + self.step_p(of_p, gradients.p), q + self.step_q(of_q, gradients.q)
        q = tokens.q + q.view_as(tokens.q)
        a = None if self.a is None or tokens.a is None else tokens.a + self.a(of_q).float().view_as(tokens.a)
        return LayerTokens(tokens.p + p * self.unit, q, a, tokens.pre)
