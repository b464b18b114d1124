"""What the tests of the encoder share: small encoders, as made and as if taught, and pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.generators.base import Generator


SMALL = {"widths": (8, 8, 16, 16), "width": 16, "heads": 2, "depth": 1, "rank": 2}


def encoder_for(generator: Generator, **options: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder.for_generator(generator, **(SMALL | options))


def taught(encoder: Encoder) -> Encoder:
    """As if it had learnt something: no head is zero any more."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.1)
    return encoder.eval()


def pictures(n: int = 2, side: int = 32) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
