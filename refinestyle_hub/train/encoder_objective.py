"""What an encoder's answers look like: the terms of its loss, figures on held-out pictures, and sheets to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoder.encoder import Encoder, standard_coordinates
from ..generators.base import Generator
from ..images import contact_sheet, save_png, to_images
from ..losses.code_spread import code_spread
from ..losses.perceptual import Perceptual
from ..losses.pixel import mse, shrink
from ..tokens.batch import TokenBatch
from ..tokens.modulated_conv import Residual, squared_residual_norm
from ..tokens.parameters import KernelStats
from .augment import distort
from .data import Pictures, to_float
from .tasks import Task, sources


__all__ = ["Features", "Objective", "figures", "residual_norm", "save_sheet", "sheet", "visibility"]

Features: TypeAlias = Callable[[Tensor], Tensor]  # pictures [N, 3, H, W] -> [N, F]
CHUNK = 16  # pictures drawn at once
GRADED = 4  # pictures whose gradients are taken at once: those of 1024 px take a gigabyte each
JUDGED = 256  # pixels; larger pictures are averaged down before held-out ones are judged
UNSEEN = 0.05  # share of what does not show in the error of a code, so that it stays near the mean


class Objective:
    """The terms of the loss; without a perceptual distance or features, theirs is left out."""

    def __init__(
        self, generator: Generator, perceptual: Perceptual | None, features: Features | None, largest: int
    ) -> None:
        """``largest``: side in pixels; larger pictures are averaged down before perceptual distance and features."""
        self.perceptual, self.features, self.largest = perceptual, features, largest
        self.generator, self.mean, self.stats = generator, generator.mean_latent, generator.kernel_stats()
        self.basis, self.inverse = standard_coordinates(generator, torch.Generator().manual_seed(0))

    @cached_property
    def metric(self) -> Tensor:
        """Of errors of codes, [L, D, D]: made where w+ is learnt, which a second stage does not."""
        visible = visibility(self.generator, torch.Generator().manual_seed(0))
        covariance = self.basis.T @ self.basis
        layers, width, _ = visible.shape
        plain = torch.eye(width, device=visible.device) / (layers * covariance.trace())
        return torch.lerp(visible / (visible * covariance).sum(), plain.expand_as(visible), UNSEEN)

    def pictures(self, drawn: Tensor, wanted: Tensor, window: torch.Generator | None = None) -> dict[str, Tensor]:
        """Distances [N] of pictures [N, 3, R, R]; the perceptual one of a random window of them if it has a source."""
        found = {"l2": mse(drawn, wanted)}
        small = shrink(drawn, self.largest), shrink(wanted, self.largest)
        if self.perceptual is not None:
            both = small if window is None else self._window(drawn, wanted, window)
            found["perceptual"] = self.perceptual(*both)
        if self.features is not None:
            found["features"] = 1 - F.cosine_similarity(self.features(small[0]), self.features(small[1]))
        return found

    def judged(self, drawn: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """The same as ``pictures`` in full detail, of up to 256 px: half a size does not see blur."""
        found = self.pictures(drawn, wanted)
        if self.perceptual is not None:
            found["perceptual"] = self.perceptual(shrink(drawn, JUDGED), shrink(wanted, JUDGED))
        return found

    def _window(self, drawn: Tensor, wanted: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        side = min(self.largest, drawn.shape[-1])
        top, left = torch.randint(drawn.shape[-1] - side + 1, (2,), generator=rng).tolist()
        part = (..., slice(top, top + side), slice(left, left + side))
        return drawn[part], wanted[part]

    def codes(self, w_plus: Tensor, task: Task) -> dict[str, Tensor]:
        """Spread of the codes [N, L, D] of a picture, in deviations of w; and where w+ is known, its squared error by
        how much of it shows, [n]: 1 on average for the mean latent."""
        found = {"delta": code_spread((w_plus - self.mean) @ self.inverse)}
        if task.known is not None:
            wrong = w_plus[-len(task.known) :] - task.known
            found["latent"] = torch.einsum("nld,lde,nle->n", wrong, self.metric, wrong)
        return found

    def residual(self, tokens: TokenBatch) -> dict[str, Tensor]:
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


def sheet(pictures: Pictures, count: int) -> Tensor:
    """At most ``count`` pictures, evenly from the whole set, then the same distorted: [2 count, 3, R, R]."""
    count = min(count, len(pictures))
    some = to_float(pictures.take(torch.arange(count) * (len(pictures) // count)))
    return torch.cat([some, distort(some, sources(0, range(-count, 0)))])


@torch.no_grad()
def redraw(
    encoder: Encoder, generator: Generator, distance: Perceptual | None, pictures: Tensor
) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, R, R] as w+ alone draws them, and with tokens."""
    plain, full = [], []
    for some in pictures.split(CHUNK):
        w_plus, tokens = encoder(some, generator, distance)
        plain.append(generator(w_plus).clamp(-1, 1))
        full.append(generator(w_plus, tokens).clamp(-1, 1))
    return torch.cat(plain), torch.cat(full)


@torch.no_grad()
def figures(
    encoder: Encoder, generator: Generator, distance: Perceptual | None, pictures: Tensor, objective: Objective
) -> dict[str, float]:
    """Distances of a ``sheet`` from what is drawn of it: "val" pictures and "foreign" ones, "w_plus" and "tokens"."""
    found = {}
    for what, drawn in zip(("w_plus", "tokens"), redraw(encoder, generator, distance, pictures), strict=True):
        parts = [objective.judged(*both) for both in zip(drawn.split(CHUNK), pictures.split(CHUNK), strict=True)]
        for name in parts[0]:
            halves = torch.cat([part[name] for part in parts]).chunk(2)
            for half, values in zip(("val", "foreign"), halves, strict=True):
                found[f"{half}_{what}_{name}"] = round(float(values.mean()), 5)
    return found


def save_sheet(
    encoder: Encoder, generator: Generator, distance: Perceptual | None, pictures: Tensor, path: Path
) -> None:
    """Rows of a ``sheet``: pictures, what w+ alone draws, and what tokens add if the encoder knows of them; then the
    same of its foreign pictures."""
    drawn = redraw(encoder, generator, distance, pictures)[: 2 if encoder.config.network.layers else 1]
    kinds = [x.chunk(2) for x in (pictures, *drawn)]
    rows = [image for half in zip(*kinds, strict=True) for row in half for image in to_images(row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(contact_sheet(rows, columns=len(pictures) // 2), path)
