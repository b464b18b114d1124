"""Terms of adversarial training, as functions of pictures, feature maps and logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["discriminator_loss", "feature_matching", "generator_loss", "path_lengths", "pyramid", "r1"]


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss of the generator, from the logits [N, 1] of its pictures (Goodfellow et al. 2014)."""
    return F.softplus(-fake).mean()


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Logistic loss of the discriminator, from logits [N, 1]."""
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def r1(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Squared gradient norm on real pictures [N, 3, H, W], mean over them (Mescheder et al. 2018, section 4.1)."""
    x = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(picture: Tensor, w_plus: Tensor, rng: torch.Generator) -> Tensor:
    """How far pictures [N, 3, H, W] move per unit of w+ [N, L, D], [N] (Karras et al. 2020, section 3.2)."""
    y = torch.randn(picture.shape, generator=rng).to(picture.device) / math.sqrt(picture[0, 0].numel())
    (gradient,) = torch.autograd.grad((picture * y).sum(), w_plus, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def pyramid(x: Tensor, y: Tensor) -> Tensor:
    """L1 distance of Laplacian pyramids, a scalar (Bojanowski et al. 2018, arXiv 1707.05776, eq. 3).

    Pictures [N, 3, H, W]; every octave counts the same, so edges weigh more than in plain L1.
    """
    d = x - y  # the pyramid is linear: that of the difference is the difference of both
    loss = d.new_zeros([])
    while d.shape[-1] > 8:
        low = F.avg_pool2d(d, 2)
        loss = loss + (d - F.interpolate(low, scale_factor=2.0, mode="bilinear")).abs().mean()
        d = low
    return loss + d.abs().mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """L1 distance of a discriminator's features of a redrawn picture and of the picture, relative to their size.

    Lists of maps [N, C, H, W]; Wang et al. 2018 (pix2pixHD, arXiv 1711.11585), section 3.2. A map that a flat picture
    leaves empty counts by a tenth of what the other has in it.
    """
    terms = []
    for f, r in zip(fake, real, strict=True):
        size = torch.maximum(r.detach().abs().mean(), 0.1 * f.detach().abs().mean()).clamp_min(1e-8)
        terms.append((f - r.detach()).abs().mean() / size)
    return torch.stack(terms).mean()
