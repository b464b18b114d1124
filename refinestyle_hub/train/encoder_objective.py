"""The terms of an encoder's loss: distances of pictures, errors of codes, and the norm of the residuals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoder.encoder import standard_coordinates
from ..generators.base import Generator
from ..losses.code_spread import code_spread
from ..losses.perceptual import Perceptual
from ..losses.pixel import mse, shrink
from ..tokens.batch import TokenBatch
from ..tokens.modulated_conv import Residual, squared_residual_norm
from ..tokens.parameters import KernelStats
from .tasks import Task


__all__ = ["Features", "Objective", "residual_norm", "visibility"]

Features: TypeAlias = Callable[[Tensor], Tensor]  # pictures [N, 3, H, W] -> [N, F]
GRADED = 4  # pictures whose gradients are taken at once: those of 1024 px take a gigabyte each
VALIDATED = 256  # pixels; larger pictures are averaged down before held-out ones are measured
UNSEEN = 0.05  # share of what does not show in the error of a code, so that it stays near the mean


class Objective:
    """The terms of the loss; without a perceptual distance or features, theirs is left out."""

    def __init__(
        self, generator: Generator, perceptual: Perceptual | None, features: Features | None, largest: int
    ) -> None:
        """Pictures with a side above ``largest`` are averaged down before perceptual distance and features."""
        self.perceptual, self.features, self.largest = perceptual, features, largest
        self.generator, self.mean, self.stats = generator, generator.mean_latent, generator.kernel_stats()
        self.basis, self.inverse = standard_coordinates(generator, torch.Generator().manual_seed(0))

    @cached_property
    def metric(self) -> Tensor:
        """The metric of errors of codes, [L, D, D]; it is made on first use, since a second stage needs none."""
        visible = visibility(self.generator, torch.Generator().manual_seed(0))
        covariance = self.basis.T @ self.basis
        layers, width, _ = visible.shape
        plain = torch.eye(width, device=visible.device) / (layers * covariance.trace())
        return torch.lerp(visible / (visible * covariance).sum(), plain.expand_as(visible), UNSEEN)

    def image_losses(self, drawn: Tensor, target: Tensor, crop: torch.Generator | None = None) -> dict[str, Tensor]:
        """Distances [N] of pictures [N, 3, R, R].

        Args:
            crop: The source of a random crop, which the perceptual distance then takes in full detail. None takes
                whole pictures, averaged down.
        """
        found = {"l2": mse(drawn, target)}
        small = shrink(drawn, self.largest), shrink(target, self.largest)
        if self.perceptual is not None:
            found["perceptual"] = self.perceptual(*(small if crop is None else self._crop(drawn, target, crop)))
        if self.features is not None:
            found["features"] = 1 - F.cosine_similarity(self.features(small[0]), self.features(small[1]))
        return found

    def image_metrics(self, drawn: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The same with a perceptual distance in full detail of up to 256 px, because a smaller picture hides blur."""
        found = self.image_losses(drawn, target)
        if self.perceptual is not None:
            found["perceptual"] = self.perceptual(shrink(drawn, VALIDATED), shrink(target, VALIDATED))
        return found

    def _crop(self, drawn: Tensor, target: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        side = min(self.largest, drawn.shape[-1])
        top, left = torch.randint(drawn.shape[-1] - side + 1, (2,), generator=rng).tolist()
        part = (..., slice(top, top + side), slice(left, left + side))
        return drawn[part], target[part]

    def code_losses(self, w_plus: Tensor, task: Task) -> dict[str, Tensor]:
        """Spread of the codes [N, L, D] of a picture in deviations of w, and the error of those whose w+ is known.

        The error [n] is squared and weighted by how much of it shows; it is 1 on average for the mean latent.
        """
        found = {"delta": code_spread((w_plus - self.mean) @ self.inverse)}
        if task.w_plus is not None:
            wrong = w_plus[-len(task.w_plus) :] - task.w_plus
            found["latent"] = torch.einsum("nld,lde,nle->n", wrong, self.metric, wrong)
        return found

    def residual_loss(self, tokens: TokenBatch) -> dict[str, Tensor]:
        """Norm of the residuals, see ``residual_norm``."""
        return {"norm": residual_norm(tokens, self.stats)}


def visibility(generator: Generator, rng: torch.Generator, samples: int = 512) -> Tensor:
    """How far a step of each code shows in the pixels, on average over the prior: [L, D, D], symmetric.

    The root of the mean of J^T J, J being the Jacobian of a picture by one code, from gradients of random projections
    (as path length regularisation takes them: Karras et al. 2020, section 3.2). Most directions of w hardly show: an
    error there is none that a picture could tell, and would drown the others. The root, because the brightness of the
    background would drown glasses.
    """
    config, mean = generator.config, generator.mean_latent
    total = mean.new_zeros(config.num_ws, config.w_dim, config.w_dim)
    for _ in range(0, samples, GRADED):
        with torch.no_grad():
            w = generator.map(torch.randn(GRADED, config.z_dim, generator=rng).to(mean))
        with torch.enable_grad():
            w_plus = w.detach().requires_grad_()
            pictures = generator(w_plus)
        noise = torch.randn(pictures.shape, generator=rng).to(pictures) / math.sqrt(pictures[0].numel())
        (gradient,) = torch.autograd.grad(pictures, w_plus, noise)
        total += torch.einsum("nld,nle->lde", gradient, gradient)
    values, vectors = torch.linalg.eigh(total / samples)
    root: Tensor = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
    return root


def residual_norm(tokens: TokenBatch, stats: Mapping[str, KernelStats]) -> Tensor:
    """Squared norm of each sample's residuals relative to the kernels' at the mean style, mean over layers: [N]."""
    shares = []
    for name, x in tokens.own.items():
        spec, style, norm = stats[name]
        square = squared_residual_norm(Residual(x.p, x.q, x.a, x.pre), spec.kernel, style)
        shares.append(square / norm.square())
    return torch.stack(shares).mean(dim=0)
