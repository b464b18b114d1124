"""What the pictures of a style lack for a good domain, told before the run: what is certain, and cheap to find."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import counted
from ..losses.sliced import bands, opponent
from .references import References


__all__ = ["lacks"]

FEW = 5  # pictures
LEVEL = 2 / 255  # of colours in [-1, 1]
# What was seen in thirteen sets of one style, painted, drawn, printed and rendered, most of ten pictures:
ODD = 1.0  # the oddest was at 0.08 to 0.94; a picture of another style at 0.75 to 2.7
FLAT = 4 * LEVEL  # shapes had 6.6 levels or more; gradients, vignettes and plain paper with its grain 3.4 or less
COPY = 0.2  # two, seen at COPY_SIDE, differed by 0.25 of their contrast or more; copies that were made smaller,
COPY_SIDE = 32  # compressed, and then cropped anew by the face that was found, by 0.18 or less
GREY, COLOURED = LEVEL, 8 * LEVEL  # hues of pencil on paper had 1.8 levels or more, those of paintings 11 or more


def lacks(references: References) -> list[str]:
    """Sentences on what the pictures lack for a better domain; empty where nothing is missing."""
    if not len(references):
        return []  # a text takes their place
    names, pictures, size = references.names, references.small, references.pictures.shape[-1]
    copies, flat = _copies(pictures), _flat(pictures)
    small = [i for i, side in enumerate(references.sides) if 4 * side < size]
    grey = [i for i in _grey(pictures) if i not in flat]
    odd = [i for i in _odd(pictures) if i not in (*flat, *grey)]
    unaligned = [i for i, aligned in enumerate(references.aligned) if not aligned]
    found = []
    if (different := len(names) - len(copies)) < FEW:
        had = counted(different, "different picture" if copies else "picture")
        found.append(f"Only {had}. It takes {FEW} or more to tell a style from what they happen to show.")
    if len(unaligned) == len(names):
        found.append("No face was aligned. Unless all lie as in the generator's pictures, eyes and mouths may move.")
        unaligned = []
    named = (
        (unaligned, "Not aligned, since no face was found, so that eyes and mouths may move"),
        (copies, "Copies of others, which teach nothing more"),
        (small, f"Smaller than {size // 4} px, so that fine strokes are missing"),
        (flat, "Nearly without detail, so that the domain may blur people away"),
        (grey, "Grey beside coloured ones, so that the domain may be neither"),
        (odd, "Unlike all others, so that the domain may be neither"),
    )
    return found + [f"{words}: {', '.join(names[i] for i in which)}." for which, words in named if which]


def _copies(pictures: Tensor) -> list[int]:
    """Pictures that are, but for size, compression and a slightly other crop, the same as one before them."""
    rows = F.adaptive_avg_pool2d(pictures, COPY_SIDE).flatten(1)
    apart = torch.cdist(rows, rows) / rows.shape[1] ** 0.5  # [M, M], root mean square
    return torch.nonzero((apart <= COPY * rows.std(dim=1)).tril(-1).any(dim=1)).flatten().tolist()


def _flat(pictures: Tensor) -> list[int]:
    """Pictures in which shapes of 1/64 to 1/16 of the side, as of a face, are hardly lighter or darker than the rest.

    Grain is finer than these, a gradient coarser, and with neither is there a person to draw.
    """
    fine, coarse = (F.adaptive_avg_pool2d(pictures.mean(dim=1, keepdim=True), side) for side in (64, 16))
    shapes = fine - F.interpolate(coarse, size=64, mode="bilinear")
    return torch.nonzero(shapes.square().mean(dim=(1, 2, 3)).sqrt() < FLAT).flatten().tolist()


def _grey(pictures: Tensor) -> list[int]:
    """Pictures without any hue, where others have colours."""
    hues = (pictures - pictures.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2, 3)).sqrt()
    return torch.nonzero((hues < GREY) & (hues > COLOURED).any()).flatten().tolist()


def _odd(pictures: Tensor) -> list[int]:
    """Pictures whose colours and amounts of detail are far from those of the three nearest others."""
    *details, colours = bands(opponent(pictures))
    amounts = torch.stack([x.square().mean(dim=(1, 2, 3)).clamp_min(1e-8).log() for x in details], dim=1) / 4
    facts = torch.cat([colours.mean(dim=(2, 3)), colours.std(dim=(2, 3)), amounts], dim=1)
    far = torch.cdist(facts, facts).sort(dim=1).values[:, 1:4].mean(dim=1)
    return torch.nonzero(far > ODD).flatten().tolist() if len(pictures) >= FEW else []
