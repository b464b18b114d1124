"""Few shapes for many calls: how compiled generators draw any batch with any tokens by a bounded number of graphs.

A batch is drawn in parts of 8, 4, 2 and 1. All tokens of a layer become one set, padded with zeros to 8, 16, 32, ...;
a token whose P is zero adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.compiled import Compiled
from ..tokens.modulated_conv import Residual, bias_offset, join


if TYPE_CHECKING:
    from .base import Generator, NoiseMaps, Residuals


__all__ = ["synthesise_compiled"]

MOST, FEWEST_TOKENS = 8, 8  # pictures at once, and tokens of a layer that has any


def _synthesise(
    generator: Generator, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, resolution: int
) -> Tensor:
    return generator.synthesise(w_plus, noise, residuals, resolution)


SYNTHESIS = Compiled(_synthesise)


def synthesise_compiled(
    generator: Generator, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, resolution: int
) -> Tensor:
    """``generator.synthesise`` by compiled graphs, the same to rounding."""
    n, first, pictures = len(w_plus), 0, []
    whole = {name: _one(several) for name, several in residuals.items() if several}
    for size in _parts(n):
        part = slice(first, first + size)
        maps = [x if x is None or x.ndim == 2 else _of(x, part, n) for x in noise]
        tokens = {name: [Residual(*(_of(x, part, n) for x in one))] for name, one in whole.items()}
        pictures.append(SYNTHESIS(generator, w_plus[part].contiguous(), maps, tokens, resolution))
        first += size
    return pictures[0] if len(pictures) == 1 else torch.cat(pictures)


def _parts(n: int) -> Iterator[int]:
    size = MOST
    while n:
        while size > n:
            size //= 2
        yield size
        n -= size


def _of(x: Tensor | None, part: slice, n: int) -> Any:
    """Of a tensor with a row for each of n samples the rows of a part; one row that all share as it is."""
    return None if x is None else (x[part] if len(x) == n else x).contiguous()


def _one(residuals: Sequence[Residual]) -> Residual:
    """All that tokens add to a layer, with as many tokens as their bucket has."""
    tokens, bias = join(residuals), bias_offset(residuals)
    rank = tokens.p.shape[1]
    extra = max(FEWEST_TOKENS, 1 << (rank - 1).bit_length()) - rank

    def padded(x: Tensor) -> Tensor:  # [B, T, ...]
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, extra))

    a = None if tokens.a is None else padded(tokens.a)
    return Residual(padded(tokens.p), padded(tokens.q), a, padded(tokens.pre), bias)
