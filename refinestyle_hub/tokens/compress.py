"""Fewer tokens for the same kernel residual: what ``TokenSet.compress`` does to one layer.

``broadcast`` and ``full`` tokens make a matrix, [O, I] or [O, I k k], so the truncated SVD is the best that there is.
``scaled`` tokens make a three-way tensor, [O, I, k k], whose best approximation is found by alternating least squares
(Carroll & Chang 1970; Harshman 1970), started from the SVD and from the largest tokens: the better one counts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


__all__ = ["compress_layer"]

SWEEPS = 50


def compress_layer(
    p: Tensor, q: Tensor, a: Tensor | None, pre: Tensor, rank: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, float]:
    """P [T, O], Q [T, I(, k, k)], A [T, k, k], pre [T] -> the same with T at most ``rank``, and |dW' - dW| / |dW|.

    Pre and post tokens cannot replace each other; the rank goes to the largest singular values of either.
    """
    if p.shape[0] <= rank:
        return p, q, a, pre, 0.0
    # fp64, which not every device has
    factors = [f.detach().cpu().double() for f in (p, q.flatten(1), *(() if a is None else (a.flatten(1),)))]
    flags = pre.cpu()
    found = []  # (singular value, is pre, left [O], right [I k k])
    for flag in (False, True):
        left, *right = [f[flags == flag] for f in factors]
        for value, u, v in zip(*_svd(left, _khatri_rao(right)), strict=True):
            found.append((float(value), flag, u, v))
    found.sort(key=lambda item: -item[0])
    kept = found[:rank]
    energy = sum(value**2 for value, *_ in found)
    if a is None:
        new = [torch.stack([value * u for value, _, u, _ in kept]), torch.stack([v for *_, v in kept])]
        error = sum(value**2 for value, *_ in found[rank:])
        new_flags = torch.tensor([flag for _, flag, _, _ in kept])
    else:
        pieces, new_flags, error = [], torch.tensor(sorted(flag for _, flag, _, _ in kept)), 0.0
        for flag in (False, True):
            target = [f[flags == flag] for f in factors]
            start = [(value, u, v) for value, is_pre, u, v in kept if is_pre == flag]
            if start:
                starts = (_from_svd(start, a[0].numel()), _largest(target, len(start)))
                piece, squared = min((_alternate(target, s) for s in starts), key=lambda found: found[1])
                pieces.append(piece)
            else:
                squared = float(_inner(target, target))
            error += squared
        new = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    shapes = [(-1, *f.shape[1:]) for f in (p, q, *(() if a is None else (a,)))]
    out = [f.reshape(shape).to(p) for f, shape in zip(new, shapes, strict=True)]
    relative = math.sqrt(max(error, 0.0) / energy) if energy else 0.0
    return out[0], out[1], None if a is None else out[2], new_flags.to(pre.device), relative


def _khatri_rao(factors: list[Tensor]) -> Tensor:
    """[T, I] (and [T, k k]) -> [T, I (k k)]."""
    if len(factors) == 1:
        return factors[0]
    return (factors[0][:, :, None] * factors[1][:, None]).flatten(1)


def _svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of left^T right, [O, M], from factors [T, O] and [T, M]: values [R], left and right vectors as rows."""
    left_q, left_r = torch.linalg.qr(left.t())
    right_q, right_r = torch.linalg.qr(right.t())
    u, values, vh = torch.linalg.svd(left_r @ right_r.t(), full_matrices=False)
    return values, (left_q @ u).t(), (right_q @ vh.t()).t()


def _largest(factors: list[Tensor], rank: int) -> list[Tensor]:
    """The ``rank`` largest tokens."""
    sizes = torch.stack([f.norm(dim=1) for f in factors]).prod(dim=0)
    kept = sizes.argsort(descending=True)[:rank]
    return [f[kept] for f in factors]


def _from_svd(start: list[tuple[float, Tensor, Tensor]], taps: int) -> list[Tensor]:
    """Each right singular vector [I k k] as its nearest product [I] x [k k]."""
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for value, u, v in start:
        q, sigma, a = torch.linalg.svd(v.reshape(-1, taps), full_matrices=False)
        rows.append((u * value * sigma[0], q[:, 0], a[0]))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _inner(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Inner product of two tensors given by their factors."""
    gram = torch.ones(one[0].shape[0], other[0].shape[0], dtype=one[0].dtype)
    for a, b in zip(one, other, strict=True):
        gram = gram * (a @ b.t())
    return gram.sum()


def _alternate(target: list[Tensor], factors: list[Tensor]) -> tuple[list[Tensor], float]:
    """Alternating least squares of ``factors`` towards ``target``; also the squared error."""
    for _ in range(SWEEPS):
        for mode in range(3):
            others = [m for m in range(3) if m != mode]
            gram = torch.stack([factors[m] @ factors[m].t() for m in others]).prod(dim=0)
            cross = torch.stack([factors[m] @ target[m].t() for m in others]).prod(dim=0)
            factors[mode] = torch.linalg.pinv(gram, hermitian=True) @ (cross @ target[mode])
            if mode > 0:  # keep Q and A at unit length, the size in P
                length = factors[mode].norm(dim=1, keepdim=True).clamp_min(1e-30)
                factors[mode] = factors[mode] / length
                factors[0] = factors[0] * length
    error = _inner(target, target) - 2 * _inner(target, factors) + _inner(factors, factors)
    return factors, float(error)
