"""How an encoder does on held-out pictures: metrics, and an image grid to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..encoder.encoder import Encoder
from ..encoder.gradients import FeedbackDistance
from ..generators.base import Generator
from ..images import contact_sheet, from_uint8, save_png, to_images
from .augment import distort
from .dataset import Pictures
from .encoder_objective import Objective
from .tasks import pair_rngs


__all__ = ["measure_encoder", "save_encoder_grid", "validation_pictures"]

CHUNK = 16  # pictures drawn at once


def validation_pictures(pictures: Pictures, count: int) -> Tensor:
    """At most ``count`` pictures, evenly from the whole set, then the same distorted: [2 count, 3, R, R]."""
    count = min(count, len(pictures))
    some = from_uint8(pictures.take(torch.arange(count) * (len(pictures) // count)))
    return torch.cat([some, distort(some, pair_rngs(0, range(-count, 0)))])


@torch.no_grad()
def reconstruct(
    encoder: Encoder, generator: Generator, distance: FeedbackDistance | None, pictures: Tensor
) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, R, R] as w+ alone draws them, and with tokens; ``distance`` as in ``Encoder.forward``."""
    plain, full = [], []
    for some in pictures.split(CHUNK):
        w_plus, tokens = encoder(some, generator, distance)
        plain.append(generator(w_plus).clamp(-1, 1))
        full.append(generator(w_plus, tokens).clamp(-1, 1))
    return torch.cat(plain), torch.cat(full)


@torch.no_grad()
def measure_encoder(
    encoder: Encoder, generator: Generator, distance: FeedbackDistance | None, pictures: Tensor, objective: Objective
) -> dict[str, float]:
    """Distances of ``validation_pictures`` from their reconstructions: ``val_w_plus_l2``, ``ood_tokens_l2``, ..."""
    found = {}
    for what, drawn in zip(("w_plus", "tokens"), reconstruct(encoder, generator, distance, pictures), strict=True):
        parts = [
            objective.image_metrics(*both) for both in zip(drawn.split(CHUNK), pictures.split(CHUNK), strict=True)
        ]
        for name in parts[0]:
            halves = torch.cat([part[name] for part in parts]).chunk(2)
            for half, values in zip(("val", "ood"), halves, strict=True):
                found[f"{half}_{what}_{name}"] = round(float(values.mean()), 5)
    return found


def save_encoder_grid(
    encoder: Encoder, generator: Generator, distance: FeedbackDistance | None, pictures: Tensor, path: Path
) -> None:
    """Draw ``validation_pictures``: rows of pictures, of w+ alone, and with tokens if the encoder has some.

    The same rows of the pictures out of the domain follow.
    """
    drawn = reconstruct(encoder, generator, distance, pictures)[: 2 if encoder.config.network.layers else 1]
    kinds = [x.chunk(2) for x in (pictures, *drawn)]
    rows = [image for half in zip(*kinds, strict=True) for row in half for image in to_images(row)]
    save_png(contact_sheet(rows, columns=len(pictures) // 2), path)
