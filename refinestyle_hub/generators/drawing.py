"""Drawing of many pictures, some at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import ConfigError
from ..tokens.batch import TokenBatch
from ..tokens.token_set import TokenSet
from .base import Generator


__all__ = ["Rows", "batch_size", "draw"]

Rows: TypeAlias = Sequence[list[tuple[TokenSet, float]] | None]  # each picture's own sets with their strengths
BATCH = 8  # pictures at once
CACHED = 1 << 22  # numbers of a map: larger ones are got from a CPU's system and cleared for each use
FINE = 128  # pixels: maps above this draw texture, which a style replaces


@torch.no_grad()
def draw(
    generator: Generator,
    w_plus: Tensor,
    rows: Rows,
    shared: Sequence[tuple[TokenSet, Tensor]],
    resolution: int | None = None,
) -> Tensor:
    """Draw w+ [N, L, D] as pictures [N, 3, R, R], clamped to [-1, 1].

    Tokens of a picture's own in the layers of more than 128 px hold the texture of a photo, for the plain generator.
    So they fade as shared sets, the styles, enter: nothing of them is left where strengths add up to 1.

    Args:
        generator: What draws.
        w_plus: The codes.
        rows: For each picture the token sets of its own with their strengths, or None.
        shared: Token sets of all pictures with a strength for each, [N].
        resolution: R, see ``Generator.forward``.

    Raises:
        ConfigError: The picture has values that are not finite, as strengths far beyond those of use make them.
    """
    pictures, rows = [], _faded(generator, rows, shared)
    count = batch_size(generator)
    for first in range(0, len(w_plus), count):
        part = slice(first, first + count)
        tokens = TokenBatch.collate(rows[part], [(tokens, strength[part]) for tokens, strength in shared])
        pictures.append(generator(w_plus[part], tokens, resolution=resolution))
    drawn = torch.cat(pictures)
    if not bool(drawn.isfinite().all()):
        raise ConfigError("The picture is not finite: a strength of an edit or a domain is far too large.")
    return drawn.clamp(-1, 1)


def batch_size(generator: Generator) -> int:
    """Pictures that are drawn or inverted at once: 8; on a CPU no more than have small maps.

    Large maps need as many times the memory, and save a CPU no time.
    """
    if generator.device.type != "cpu":
        return BATCH
    largest = max(conv.spec.outputs * conv.spec.resolution**2 for conv in generator.convs())
    return max(1, min(BATCH, CACHED // largest))


def _faded(generator: Generator, rows: Rows, shared: Sequence[tuple[TokenSet, Tensor]]) -> Rows:
    """The rows with what the styles leave of their tokens in fine layers."""
    left = [1 - min(1.0, sum(abs(float(strength[n])) for _, strength in shared)) for n in range(len(rows))]
    return [
        row and ([(_fade(generator, tokens, share), strength) for tokens, strength in row] if share < 1 else row)
        for row, share in zip(rows, left, strict=True)
    ]


def _fade(generator: Generator, tokens: TokenSet, share: float) -> TokenSet:
    fine = [name for name in tokens.layers if generator.layer(name).spec.resolution > FINE]
    return tokens.scale(dict.fromkeys(fine, share)) if fine else tokens
