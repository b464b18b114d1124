"""Token sets for the samples of a batch: which set, and how strongly, may differ from sample to sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Fingerprint
from ..errors import ConfigError, ShapeError, counted, printable
from ..storage.fingerprint import youngest
from .layer_tokens import LayerTokens, checked
from .modulated_conv import Residual, promote
from .token_set import TokenSet


__all__ = ["Strength", "TokenBatch", "TokensLike", "residuals_of", "strengths"]


class Shared(NamedTuple):
    """A set that all samples of a batch use."""

    tokens: TokenSet
    strength: Tensor  # [N]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token sets for the samples of a batch: each sample's own, zero-padded to a common T, and sets that all share."""

    size: int  # number of samples N
    own: Mapping[str, LayerTokens]  # by layer; every tensor with a leading N
    shared: tuple[Shared, ...] = ()
    active: bool = True  # False: every strength was 0 when it was collated

    def __len__(self) -> int:
        return self.size

    @staticmethod
    def collate(
        rows: Sequence[TokenSet | Iterable[tuple[TokenSet, float | Tensor]] | None],
        shared: Iterable[tuple[TokenSet, Strength]] = (),
    ) -> TokenBatch:
        """Join the sets of N samples.

        Args:
            rows: For each sample a set, (set, strength) pairs, or None.
            shared: Sets for all samples, each with a strength or N of them.

        Raises:
            ShapeError: A list of strengths is not N long.
            BaseMismatchError: The sets were made for different generators.
            ConfigError: A strength is not finite.
        """
        size = len(rows)
        mixes, active = [], False
        for row in rows:
            pairs = [] if row is None else [(row, 1.0)] if isinstance(row, TokenSet) else list(row)
            active = active or any(_is_active(strength) for _, strength in pairs)
            mixes.append(TokenSet.mix(pairs, keep_zeros=True))  # so that the batch keeps its shape
        everyone = []
        for tokens, strength in shared:
            factor = strengths(strength, size).expand(size).contiguous()
            active = active or _is_active(strength)
            everyone.append(Shared(tokens, factor))
        youngest(tokens.base for tokens in [*mixes, *(s.tokens for s in everyone)])  # of one base?
        names = dict.fromkeys(name for mix in mixes for name in mix.layers)
        own = {name: _stack([mix.layers.get(name) for mix in mixes]) for name in names}
        return TokenBatch(size, own, tuple(everyone), active)

    def residuals(self, strength: Tensor | None = None) -> dict[str, list[Residual]]:
        """What each layer adds to its kernels, all scaled by ``strength`` [N] or [1]."""
        found: dict[str, list[Residual]] = {}
        for name, x in self.own.items():
            found[name] = [Residual(x.p, x.q, x.a, x.pre, x.bias, strength)]
        for item in self.shared:
            factor = item.strength if strength is None else item.strength.to(strength.device) * strength
            for name, x in item.tokens.layers.items():
                found.setdefault(name, []).append(x.shared(factor))
        return found

    def unbind(self, base: Fingerprint | None = None) -> list[TokenSet]:
        """Each sample's own set, padding included; what samples share is left out."""
        return [TokenSet({name: x.map(itemgetter(n)) for name, x in self.own.items()}, base) for n in range(self.size)]


Strength: TypeAlias = float | Sequence[float] | Tensor
TokensLike: TypeAlias = TokenSet | Sequence[TokenSet | None] | TokenBatch


def strengths(strength: Strength, n: int) -> Tensor:
    """A strength, or one for each sample, as a tensor [1] or [N].

    Raises:
        ShapeError: Neither 1 nor N numbers.
        ConfigError: One is not a finite number.
    """
    try:
        values = strength if isinstance(strength, Tensor) else torch.as_tensor(strength, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"Strengths are finite numbers, not {printable(repr(strength))}.") from error
    checked(values)
    values = values.reshape(-1)
    if values.shape[0] not in (1, n):
        raise ShapeError(f"{values.shape[0]} strengths for a batch of {n}: give one number, or one for each sample.")
    return values


def _is_active(strength: Strength) -> bool:
    if isinstance(strength, Tensor):
        return strength.requires_grad or bool(strength.any())
    return bool(np.any(strength))


def _pad(x: LayerTokens, rank: int) -> LayerTokens:
    """Pad with zero tokens up to ``rank``."""
    extra = rank - x.rank
    if extra == 0:
        return x
    return LayerTokens(
        F.pad(x.p, (0, 0, 0, extra)),
        F.pad(x.q, (0, 0) * (x.q.ndim - 1) + (0, extra)),
        None if x.a is None else F.pad(x.a, (0, 0, 0, 0, 0, extra)),
        F.pad(x.pre, (0, extra)),
        x.bias,
    )


def _stack(rows: Sequence[LayerTokens | None]) -> LayerTokens:
    """Tokens of one layer for N samples, of any ranks and kinds, as one [N, ...]."""
    some = next(row for row in rows if row is not None)
    empty = LayerTokens(some.p[:0], some.q[:0], None if some.a is None else some.a[:0], some.pre[:0])
    present = [empty if row is None else row for row in rows]
    queries, taps = promote([x.q[None] for x in present], [None if x.a is None else x.a[None] for x in present])
    rank = max(x.rank for x in present)
    padded = [
        _pad(LayerTokens(x.p, q[0], None if a is None else a[0], x.pre, x.bias), rank)
        for x, q, a in zip(present, queries, taps, strict=True)
    ]
    biased = any(x.bias is not None for x in padded)
    return LayerTokens(
        torch.stack([x.p for x in padded]),
        torch.stack([x.q for x in padded]),
        None if padded[0].a is None else torch.stack([x.a for x in padded if x.a is not None]),
        torch.stack([x.pre for x in padded]),
        torch.stack([x.p.new_zeros(x.outputs) if x.bias is None else x.bias for x in padded]) if biased else None,
    )


def residuals_of(
    tokens: TokensLike | None, strength: Strength, n: int, device: torch.device
) -> dict[str, list[Residual]]:
    """What each layer of a generator adds to its kernels for a batch of ``n``; empty where nothing is to be added.

    Raises:
        ShapeError: A batch of sets or strengths is not ``n`` long.
        ConfigError: A strength is not finite.
    """
    if tokens is None or (isinstance(strength, (int, float)) and strength == 0):
        return {}
    # to look at values or sizes would tie a compiled graph to them
    eager = not torch.compiler.is_compiling()
    factor = None if isinstance(strength, (int, float)) and strength == 1 else strengths(strength, n).to(device)
    if eager and not _is_active(strength):
        return {}
    if isinstance(tokens, TokenSet):
        return {name: [x.shared(factor)] for name, x in tokens.layers.items()}
    batch = tokens if isinstance(tokens, TokenBatch) else TokenBatch.collate(tokens)
    if eager and len(batch) != n:
        raise ShapeError(
            f"{counted(len(batch), 'token set')} for a batch of {n}: give one for each sample (None for none)."
        )
    return {} if eager and not batch.active else batch.residuals(factor)
