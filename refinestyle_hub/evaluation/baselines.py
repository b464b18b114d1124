"""Two published ways to invert a picture by optimisation alone, to compare with: W+ projection and pivotal tuning.

Both run all of their steps, and always the same ones; neither stops early.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..generators.base import Generator
from ..inversion.inversion_loss import FINE
from ..inversion.inversion_settings import InversionSettings
from ..inversion.optimise import invert
from ..losses.perceptual import Perceptual
from ..losses.pixel import mse, shrink


__all__ = ["pivotal_tuning", "project_w_plus"]

PIVOT_RATE, PIVOT_NOISE = 5e-3, 0.05  # Adam's, in w; of w's deviation at first
TUNING_RATE = 3e-4


def project_w_plus(
    generator: Generator, crop: Tensor, *, perceptual: Perceptual, steps: int = 500, seed: int = 0
) -> Tensor:
    """w+ [1, L, D] of a picture [1, 3, R, R], from the mean latent.

    The projection of Karras et al. 2020 (appendix D) in W+ as Abdal et al. 2019 (Image2StyleGAN, arXiv 1904.03189)
    do it, with their objective: squared error and perceptual distance of weight 1, and nothing that keeps w+ likely.
    """
    plain = InversionSettings(w_perceptual=1.0, prior=0.0, spread=0.0, patience=steps + 1)
    found = invert(generator, crop, w_steps=steps, token_steps=0, seed=seed, perceptual=perceptual, settings=plain)
    return found[0].w_plus[None]


def pivotal_tuning(
    generator: Generator,
    crop: Tensor,
    *,
    perceptual: Perceptual,
    pivot_steps: int = 450,
    tuning_steps: int = 350,
    seed: int = 0,
) -> tuple[Tensor, Generator]:
    """A w of a picture [1, 3, R, R] as w+ [1, L, D], and a generator of its own that draws the picture from it.

    PTI (Roich et al. 2022, arXiv 2106.05744): a pivot in W by the projection of Karras et al. 2020, then Adam on the
    whole generator with squared error and perceptual distance of weight 1. Steps and rates are the published ones; the
    locality regularisation is off, as published.
    """
    state = copy.deepcopy(generator.state_dict())
    tuned = type(generator).from_state(generator.config.full_precision(), state).float()
    reference = perceptual.reference(shrink(crop, FINE))

    def distance(picture: Tensor) -> Tensor:
        return reference(shrink(picture, FINE)).sum()

    tuned.requires_grad_(False)
    pivot = _project_w(tuned, distance, pivot_steps, torch.Generator().manual_seed(seed))
    tuned.requires_grad_(True)
    w_plus = pivot.expand(1, generator.num_ws, -1)
    adam = torch.optim.Adam(tuned.synthesis_parameters(), lr=TUNING_RATE)
    for _ in range(tuning_steps):
        picture = tuned(w_plus)
        loss = mse(picture, crop).sum() + distance(picture)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return w_plus, tuned.requires_grad_(False)


def _project_w(generator: Generator, distance: Callable[[Tensor], Tensor], steps: int, rng: torch.Generator) -> Tensor:
    """w [1, 1, D] by perceptual distance alone: Adam with a ramped rate, under noise that fades (appendix D)."""
    mean = generator.mean_latent
    with torch.no_grad():
        z = torch.randn(10_000, generator.config.z_dim, generator=rng).to(mean)
        deviation = (generator.map(z)[:, 0] - mean).square().mean().sqrt()  # of one number
    w = mean[None, None].clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.0, betas=(0.9, 0.999))
    for step in range(steps):
        progress = step / steps
        ramp = min(1.0, (1.0 - progress) / 0.25)
        adam.param_groups[0]["lr"] = PIVOT_RATE * (0.5 - 0.5 * math.cos(ramp * math.pi)) * min(1.0, progress / 0.05)
        noise = torch.randn(w.shape, generator=rng).to(w) * (
            deviation * PIVOT_NOISE * max(0.0, 1.0 - progress / 0.75) ** 2
        )
        loss = distance(generator((w + noise).expand(1, generator.num_ws, -1)))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return w.detach()
