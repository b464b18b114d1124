"""Where the w+ codes of a training step come from: the prior with style mixing, or anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..generators.stylegan2 import Generator


__all__ = ["of_anchors", "prior"]


def prior(generator: Generator, n: int, mixing: float, rng: torch.Generator) -> Tensor:
    """w+ [n, L, w_dim]; with probability ``mixing`` the layers after a random one take a second code.

    Source: Karras et al. 2019 (arXiv 1812.04948), section 3.1.
    """
    layers, device = generator.config.num_layers, generator.mapping.w_avg.device
    z = torch.randn(2 * n, generator.config.z_dim, generator=rng).to(device)
    first, second = generator.mapping(z)[:, None].chunk(2)
    cut = torch.randint(1, layers, (n,), generator=rng)
    cut[torch.rand(n, generator=rng) >= mixing] = layers
    late = (torch.arange(layers)[None] >= cut[:, None]).to(device)
    mixed: Tensor = torch.where(late[:, :, None], second, first)
    return mixed


def of_anchors(generator: Generator, codes: Tensor, rng: torch.Generator) -> Tensor:
    """w+ [n, L, w_dim] of anchors [n, K]; what the scene leaves open is drawn from the prior."""
    free = torch.randn(len(codes), generator.config.z_dim - codes.shape[1], generator=rng)
    w: Tensor = generator.map(torch.cat([codes, free], dim=1).to(generator.mapping.w_avg.device))
    return w
