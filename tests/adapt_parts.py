"""What the tests of adaptation share: networks of 32 px, pictures, and a short run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import TINY, tiny_generator

from refinestyle_hub.adapt import Adaptation, AdaptSettings, References
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator


QUICK = AdaptSettings(batch=2, check_every=2, discriminator_start=0.25, discriminator_min_steps=0)


def quiet_generator() -> Generator:
    generator = tiny_generator()
    with torch.no_grad():
        for name in TINY.layers:
            if name.name.endswith("torgb"):  # a fresh toRGB draws far outside [-1, 1]
                generator.layer(name.name).weight.mul_(0.1)
                generator.layer(name.name).bias.mul_(0.1)
    return generator


def small_discriminator() -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Discriminator(DiscriminatorConfig(32, channels={4: 8, 8: 8, 16: 8, 32: 8})).eval()


def references(count: int = 5, seed: int = 0) -> References:
    """Bright and orange, with some noise."""
    noise = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    pictures = (torch.tensor([0.8, 0.2, -0.6])[:, None, None] + 0.1 * noise).clamp(-1, 1)
    return References(pictures, tuple(f"{i}.png" for i in range(count)), (False,) * count)


def drawings() -> list[Image.Image]:
    """Five pictures of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in noise]


def begin(generator: Generator, discriminator: Discriminator | None, steps: int = 6, **how: Any) -> Adaptation:
    how = {"settings": QUICK, **how}
    return Adaptation(generator, references(), steps=steps, discriminator=discriminator, **how)
