"""The terms of the objective, each a small class with its source. ``discriminator_term.Adversarial`` also learns.

What brings the style: the sliced Wasserstein distances, the layout, the redrawn references. What keeps the source: the
two correspondences. What keeps both within bounds: the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..generators.discriminator import Discriminator
from ..losses.correspondence import between_samples, within_samples
from ..losses.gan import feature_matching, pyramid
from ..losses.sliced import sliced_features, sliced_pictures
from .context import Context, Term
from .discriminator_term import Adversarial
from .settings import FEATURE_TERMS, AdaptSettings


__all__ = [
    "Between",
    "Layout",
    "Norm",
    "Reconstruction",
    "SlicedFeatures",
    "SlicedPictures",
    "Within",
    "domain_terms",
    "left_out",
]

COARSE = (8, 16)  # pixels, sides of the feature maps that are compared with the source's
REDRAWN = 2  # references per step
KEPT = 7 / 18  # share of an inversion's codes, the coarse ones, as published


@dataclass
class SlicedPictures:
    """Colours and details of the samples are distributed as the references' (Karras et al. 2018, section 5)."""

    weight: float
    name: str = "sliced_pictures"

    def __call__(self, context: Context) -> Tensor:
        """See ``losses.sliced.sliced_pictures``."""
        return sliced_pictures(context.adapted, context.references.pictures, context.rng)


@dataclass
class SlicedFeatures:
    """The same of feature maps (Heitz et al. 2021)."""

    weight: float
    name: str = "sliced_features"

    def __call__(self, context: Context) -> Tensor:
        """See ``losses.sliced.sliced_features``."""
        return sliced_features(context.adapted_features, context.reference_features, context.rng)


@dataclass
class Layout:
    """What the style moves on average, and where, the samples are moved by: the shape of heads, the size of eyes.

    As a direction between two domains in CLIP's space is followed by each sample (Gal et al. 2022, StyleGAN-NADA,
    section 4.1), but between the means of coarse discriminator features, place by place. A sample's own move is known
    without sampling noise, and the same move for all takes nothing from their diversity. What the mean of so few
    pictures owes to chance is taken off (James and Stein 1961).
    """

    weight: float
    name: str = "layout"

    def __call__(self, context: Context) -> Tensor:
        """Mean squared difference of the moves, in deviations of the features over samples."""
        losses = []
        for i in _coarse(context.source_features):
            source, adapted = context.source_features[i], context.adapted_features[i]
            typical, wanted = context.typical_features[i], context.reference_features[i]
            scale = typical.var(dim=0).mean(dim=(1, 2), keepdim=True).clamp_min(1e-8).sqrt()  # [C, 1, 1]
            move = (wanted.mean(dim=0) - typical.mean(dim=0)) / scale  # [C, h, w]
            chance = (typical / scale).var(dim=0).mean() * (1 / len(wanted) + 1 / len(typical))
            move = move * (1 - chance / move.square().mean().clamp_min(1e-8)).clamp_min(0)
            losses.append(((adapted - source).mean(dim=0) / scale - move).square().mean())
        return torch.stack(losses).mean()


@dataclass
class Between:
    """Samples differ from each other as before: no collapse onto the references (Ojha et al. 2021, CDC)."""

    weight: float
    name: str = "between"

    def __call__(self, context: Context) -> Tensor:
        """See ``losses.correspondence.between_samples``."""
        before, after = context.source_features, context.adapted_features
        return torch.stack([between_samples(before[i], after[i]) for i in _coarse(before)]).mean()


@dataclass
class Within:
    """The places of a sample differ from each other as before: pose and expression stay (Xiao et al. 2022, RSSA)."""

    weight: float
    name: str = "within"

    def __call__(self, context: Context) -> Tensor:
        """See ``losses.correspondence.within_samples``."""
        before, after = context.source_features, context.adapted_features
        return torch.stack([within_samples(before[i], after[i]) for i in _coarse(before)]).mean()


@dataclass
class Reconstruction:
    """References are redrawn from their own w+: what became of what (Chong and Forsyth 2022, JoJoGAN, section 3).

    As there, only the coarse codes are theirs and the fine ones are the samples': an inversion takes as much of the
    colours as w+ can draw, and what it draws no token would learn. The distance is that of discriminator features, as
    there, and of Laplacian pyramids.
    """

    weight: float
    name: str = "reconstruction"

    def __call__(self, context: Context) -> Tensor:
        """Mean over two of the references at a time."""
        assert context.inversions is not None
        count = len(context.references)
        some = [(context.step * REDRAWN + i) % count for i in range(min(REDRAWN, count))]
        wanted = context.references.pictures[some]
        codes, others = context.inversions[some], context.w_plus[: len(some)]
        kept = round(KEPT * codes.shape[1])
        redrawn = context.draw(torch.cat([codes[:, :kept], others[:, kept:]], dim=1))
        loss = pyramid(redrawn, wanted)
        if context.features is not None:
            with torch.no_grad():
                theirs = context.features(wanted)
            loss = loss + feature_matching(context.features(redrawn), theirs)
        return loss


@dataclass
class Norm:
    """Squared norm of the residuals relative to the kernels', mean over the layers."""

    weight: float
    name: str = "norm"

    def __call__(self, context: Context) -> Tensor:
        """See ``TokenParameters.residual_norm``."""
        return context.parameters.residual_norm().square().mean()


def _coarse(maps: Sequence[Tensor]) -> list[int]:
    """Which of the maps show what is where."""
    return [i for i, x in enumerate(maps) if x.shape[-1] in COARSE] or [len(maps) - 1]


def domain_terms(
    settings: AdaptSettings, steps: int, seed: int, discriminator: Discriminator | None, with_features: bool
) -> list[Term]:
    """The terms that the settings give a weight, as far as the model has what they need.

    Args:
        steps: Length of the run.
        seed: Of the discriminator's new head.
        discriminator: Copied; without it there is no adversarial term.
        with_features: Whether there is a network for the terms that compare features.
    """
    s = settings
    terms: list[Term] = [SlicedPictures(s.sliced_pictures)]
    if with_features:
        terms += [SlicedFeatures(s.sliced_features), Layout(s.layout), Between(s.between), Within(s.within)]
    terms += [Reconstruction(s.reconstruction), Norm(s.norm)]
    terms = [term for term in terms if term.weight]
    starts = s.critic_starts(steps)
    if discriminator is not None and (s.adversarial or s.patches) and starts < 1:
        adversarial = Adversarial(
            discriminator,
            s.adversarial,
            s.patches,
            rate=s.critic_rate,
            starts=starts,
            frozen_above=s.frozen_above,
            penalty=s.penalty,
            seed=seed,
        )
        terms.append(adversarial)
    return terms


def left_out(settings: AdaptSettings, terms: Sequence[Term], discriminator: Discriminator | None) -> list[str]:
    """Names of the terms that the settings ask for, and that the model lacks a discriminator for."""
    there = {term.name for term in terms}
    if discriminator is not None:
        there.add("adversarial")  # a run may be too short for it: that is not for want of a model
    wanted = {name: getattr(settings, name) for name in FEATURE_TERMS}
    wanted["adversarial"] = settings.adversarial or settings.patches
    return [name for name, weight in wanted.items() if weight and name not in there]
