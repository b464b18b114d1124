"""w+ codes from the generator's prior, with style mixing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..generators.base import Generator


__all__ = ["mixed_latents"]


def mixed_latents(generator: Generator, rngs: Sequence[torch.Generator], mixing: float) -> Tensor:
    """Random w+ [N, L, D]; with probability ``mixing`` the layers from a random one on take a second code.

    Source: Karras et al. 2019 (arXiv 1812.04948), section 3.1.

    Args:
        rngs: The random generator of each sample; one may stand for several.
    """
    config, device = generator.config, generator.device
    z, cuts = [], []
    for rng in rngs:
        z.append(torch.randn(2, config.z_dim, generator=rng))
        mixes = float(torch.rand((), generator=rng)) < mixing
        cuts.append(int(torch.randint(1, config.num_ws, (), generator=rng)) if mixes else config.num_ws)
    first, second = generator.mapping(torch.cat(z).to(device)).unflatten(0, (-1, 2))[:, :, None].unbind(dim=1)
    late = torch.arange(config.num_ws) >= torch.tensor(cuts)[:, None]  # [N, L]
    mixed: Tensor = torch.where(late[:, :, None].to(device), second, first)
    return mixed
