"""Drawing of many pictures, some at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..tokens.batch import TokenBatch
from ..tokens.token_set import TokenSet
from .base import Generator


__all__ = ["Rows", "draw"]

Rows: TypeAlias = Sequence[list[tuple[TokenSet, float]] | None]  # each picture's own sets with their strengths
BATCH = 8  # pictures at once


@torch.no_grad()
def draw(
    generator: Generator,
    w_plus: Tensor,
    rows: Rows,
    shared: Sequence[tuple[TokenSet, Tensor]],
    resolution: int | None = None,
) -> Tensor:
    """Draw w+ [N, L, D] as pictures [N, 3, R, R], clamped to [-1, 1].

    Args:
        generator: What draws.
        w_plus: The codes.
        rows: For each picture the token sets of its own with their strengths, or None.
        shared: Token sets of all pictures with a strength for each, [N].
        resolution: R, see ``Generator.forward``.
    """
    pictures = []
    for first in range(0, len(w_plus), BATCH):
        part = slice(first, first + BATCH)
        tokens = TokenBatch.collate(rows[part], [(tokens, strength[part]) for tokens, strength in shared])
        pictures.append(generator(w_plus[part], tokens, resolution=resolution))
    return torch.cat(pictures).clamp(-1, 1)
