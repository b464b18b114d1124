"""The terms of an objective, each a small class with its source. ``discriminator_term.Adversarial`` also learns.

The sliced Wasserstein distances, the layout and the redrawn references bring the style. The two correspondences keep
the source. The lattice keeps weaves off, and the norm keeps all within bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.gan import feature_matching, pyramid
from ..losses.pixel import shrink
from ..losses.sliced import sliced_features, sliced_pictures
from .context import Context
from .references import WHOLE_SIDE


__all__ = [
    "Correspondence",
    "Lattice",
    "Layout",
    "Norm",
    "Reconstruction",
    "SlicedFeatures",
    "SlicedPictures",
]

CELL = 16  # pixels: a pattern that recurs after 2, 4, 8 or 16 is the same in all such cells
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
        return sliced_pictures(shrink(context.adapted, WHOLE_SIDE), context.references.small, context.rng)


@dataclass
class SlicedFeatures:
    """Features of the samples are distributed as the references' (Heitz et al. 2021)."""

    weight: float
    name: str = "sliced_features"

    def __call__(self, context: Context) -> Tensor:
        """See ``losses.sliced.sliced_features``."""
        return sliced_features(context.adapted_features, context.reference_features, context.rng)


@dataclass
class Layout:
    """The samples move as the mean of the style does, place by place: the shape of heads, the size of eyes.

    Each sample follows the direction between two domains, as in CLIP's space (Gal et al. 2022, StyleGAN-NADA, section
    4.1), but here between the means of coarse discriminator features. The same move for all takes nothing from their
    diversity. The part of the mean that few pictures owe to chance is subtracted (James and Stein 1961).
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
class Correspondence:
    """Relations within the source pictures stay as they were, by the distance that is given.

    "between" compares samples: they do not collapse onto the references (Ojha et al. 2021, CDC). "within" compares the
    places of a sample: pose and expression stay (Xiao et al. 2022, RSSA).
    """

    weight: float
    name: str
    distance: Callable[[Tensor, Tensor], Tensor]  # feature maps before and after -> scalar

    def __call__(self, context: Context) -> Tensor:
        """Mean over the coarse feature maps."""
        before, after = context.source_features, context.adapted_features
        return torch.stack([self.distance(before[i], after[i]) for i in _coarse(before)]).mean()


@dataclass
class Reconstruction:
    """References are redrawn from their own w+ (Chong and Forsyth 2022, JoJoGAN, section 3).

    As there, only the coarse codes are theirs and the fine ones are the samples': w+ of an inversion draws as much of
    the colours as it can, and tokens would not learn these. The distance is that of features, as there, and of
    Laplacian pyramids.
    """

    weight: float
    mixing: float = 1.0  # how often the fine codes are those of the samples
    name: str = "reconstruction"

    def __call__(self, context: Context) -> Tensor:
        """Mean over the references that are redrawn at this step: as many as there are samples, and at most two."""
        assert context.inversions is not None
        count = len(context.references)
        drawn = min(REDRAWN, count, len(context.w_plus))
        some = [(i - context.turn * drawn) % count for i in range(drawn)]
        codes, others = context.inversions[some], context.w_plus[: len(some)]
        own = self.mixing < 1 and float(torch.rand([], generator=context.rng)) >= self.mixing
        kept = codes.shape[1] if own else round(KEPT * codes.shape[1])
        redrawn = context.draw(torch.cat([codes[:, :kept], others[:, kept:]], dim=1))
        loss = pyramid(shrink(redrawn, WHOLE_SIDE), context.references.small[some])
        if context.features is not None:
            theirs = [maps[some] for maps in context.reference_features]
            loss = loss + feature_matching(context.features(redrawn), theirs)
        return loss


@dataclass
class Lattice:
    """No weave over the whole picture: what all cells of 16 x 16 pixels have in common stays as it was.

    A generator that draws wavelet bands makes one where tokens move the mean of a fine band: faint at full
    size, and coloured checks where a browser shrinks the picture. Features and patches hardly see it.
    """

    weight: float
    name: str = "lattice"

    def __call__(self, context: Context) -> Tensor:
        """Mean square of what the mean cell gained, apart from its mean colour."""
        gained = (_cell(context.adapted) - _cell(context.source)).mean(dim=0)  # [3, CELL^2]
        return (gained - gained.mean(dim=1, keepdim=True)).square().mean()


@dataclass
class Norm:
    """Squared norm of the residuals relative to the kernels', mean over the layers."""

    weight: float
    name: str = "norm"

    def __call__(self, context: Context) -> Tensor:
        """See ``TokenParameters.residual_norm``."""
        return context.parameters.residual_norm().square().mean()


def _cell(pictures: Tensor) -> Tensor:
    """The mean over the cells of each picture: [N, 3, r, r] -> [N, 3, CELL^2]."""
    side = pictures.shape[-1] // CELL * CELL
    mean: Tensor = F.pixel_unshuffle(pictures[..., :side, :side], CELL).mean(dim=(2, 3))
    return mean.view(-1, 3, CELL**2)


def _coarse(maps: Sequence[Tensor]) -> list[int]:
    """Indices of the maps that show the layout of a picture."""
    return [i for i, x in enumerate(maps) if x.shape[-1] in COARSE] or [len(maps) - 1]
