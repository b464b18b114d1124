"""Modulated convolution (Karras et al. 2020, section 2.2) with RefineStyle's low-rank residual (arXiv 2410.06104).

For an image with style s, the kernel of a layer is

    W'[o,i,u,v] = s[i] W[o,i,u,v] + sum_t P[t,o] Q~[t,i] A[t,u,v]

with Q~ = Q for a token that enters after the modulation ("post") and s Q for one that enters before it ("pre").
W' is then divided by its norm per output channel. A convolution is linear in its kernel, so no image needs one built:

    y = d * ( conv(x * s, W) + P^T . depthwise(Q~ . x, A) )
    |W'_o|^2 = sum_i s_i^2 |W_oi|^2  +  2 <s W_o, dW_o>  +  P_o^T [ (Q~ Q~^T) * (A A^T) ] P_o

``modulated_conv`` is this fast form; ``modulated_conv_dense`` is the definition that it is tested against.
In shapes: N samples, T tokens, O and I output and input channels, k kernel size; B is N, or 1 where all samples share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .resample import blur


__all__ = [
    "Demodulation",
    "Joined",
    "Residual",
    "bias_offset",
    "join",
    "modulated_conv",
    "modulated_conv_dense",
    "modulated_queries",
    "promote",
    "residual_kernel",
    "squared_residual_norm",
    "static_norm",
]


Demodulation: TypeAlias = Literal["norm", "none"] | Tensor


class Residual(NamedTuple):
    """Tokens of one source (an image, a domain) in one layer, as they enter a batch; B = 1: all samples share them."""

    p: Tensor  # [B, T, O]
    q: Tensor  # [B, T, I], or [B, T, I, k, k] where every token has its own taps ("full")
    a: Tensor | None  # [B, T, k, k]; None: all ones, or "full"
    pre: Tensor  # [B, T] bool: the token enters before the modulation
    bias: Tensor | None = None  # [B, O], added to the layer's bias
    strength: Tensor | None = None  # [B], scales P and the bias; None is 1


class Joined(NamedTuple):
    """All residuals of a layer as one; strengths are folded into P."""

    p: Tensor  # [B, T, O]
    q: Tensor  # [B, T, I] or [B, T, I, k, k]
    a: Tensor | None  # [B, T, k, k]
    pre: Tensor  # [B, T]


def _scaled(x: Tensor, strength: Tensor | None) -> Tensor:
    """x [B, ...] times a strength for each sample."""
    return x if strength is None else x * strength.to(x).reshape(-1, *[1] * (x.ndim - 1))


def _concatenate(parts: list[Tensor]) -> Tensor:
    """Concatenate along the tokens; a leading 1 gives way to N."""
    if len(parts) == 1:
        return parts[0]
    n = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(n, *part.shape[1:]) for part in parts], dim=1)


def promote(queries: Sequence[Tensor], taps: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Bring Q [B, T, I(, k, k)] and A [B, T, k, k] of several sources to one kind: broadcast -> scaled -> full."""
    kernel = next((t.shape[-1] for t in [*queries, *taps] if t is not None and t.ndim > 3), None)
    full = any(q.ndim == 5 for q in queries)
    new_queries, new_taps = [], []
    for q, a in zip(queries, taps, strict=True):
        if kernel is not None and q.ndim == 3:
            a = q.new_ones(1, q.shape[1], kernel, kernel) if a is None else a
            if full:
                q, a = q[..., None, None] * a[:, :, None], None
        new_queries.append(q)
        new_taps.append(a)
    return new_queries, new_taps


def join(residuals: Sequence[Residual]) -> Joined:
    """Exact sum of the residuals: concatenation along T."""
    queries, taps = promote([r.q for r in residuals], [r.a for r in residuals])
    return Joined(
        p=_concatenate([_scaled(r.p, r.strength) for r in residuals]),
        q=_concatenate(queries),
        a=None if taps[0] is None else _concatenate([a for a in taps if a is not None]),
        pre=_concatenate([r.pre for r in residuals]),
    )


def bias_offset(residuals: Sequence[Residual]) -> Tensor | None:
    """Sum of the bias offsets, [B, O]."""
    offsets = [_scaled(r.bias, r.strength) for r in residuals if r.bias is not None]
    return sum(offsets[1:], offsets[0]) if offsets else None


def _kernels(q: Tensor, a: Tensor | None, kernel: int) -> Tensor:
    """Q and A multiplied out to [B, T, I, k, k]."""
    if q.ndim == 5:
        return q
    q = q[..., None, None]
    return q * a[:, :, None] if a is not None else q.expand(*q.shape[:3], kernel, kernel)


def residual_kernel(tokens: Joined | Residual, kernel: int) -> Tensor:
    """dW = P^T (Q A), [B, O, I, k, k], at strength 1 and without regard to the style."""
    return torch.einsum("bto,btiuv->boiuv", tokens.p, _kernels(tokens.q, tokens.a, kernel))


def _cross_terms(weight: Tensor, tokens: Joined | Residual) -> Tensor:
    """M[o,i] = sum_uv W[o,i,uv] dW[o,i,uv] of one shared set: [2, O, I], post tokens first, then pre tokens."""
    with torch.autocast(weight.device.type, enabled=False):
        p, pre = tokens.p.float(), tokens.pre[..., None]
        kernels = _kernels(tokens.q, tokens.a, weight.shape[-1])[0].float()
        dw = torch.einsum("kto,tiuv->koiuv", torch.cat([p * ~pre, p * pre]), kernels)
        return (dw * weight.float()).sum(dim=(3, 4))


def squared_residual_norm(tokens: Joined | Residual, kernel: int, style: Tensor) -> Tensor:
    """|dW|^2 over a whole layer, [B], at strength 1, by Gram matrices in fp32; ``style`` [I] multiplies pre tokens.

    The product alone counts: P and Q may trade factors (a gauge freedom), so their own norms mean nothing.
    """
    with torch.autocast(tokens.p.device.type, enabled=False):
        p, one = tokens.p.float(), torch.ones(1, 1, 1, device=tokens.p.device)
        q = _modulate(tokens.q.float(), tokens.pre, style.float()[None, None], one)
        return (_gram(q, tokens.a, kernel) * (p @ p.mT)).sum(dim=(1, 2)).clamp_min(0)


def _gram(q: Tensor, a: Tensor | None, kernel: int) -> Tensor:
    """(Q~ Q~^T) * (A A^T): inner products of the tokens' kernels, [B, T, T]."""
    gram = q.flatten(2) @ q.flatten(2).mT
    if a is not None:
        a = a.float().flatten(2)
        return gram * (a @ a.mT)
    return gram if q.ndim == 5 else gram * kernel**2


def _modulate(q: Tensor, pre: Tensor, factor: Tensor, post: Tensor) -> Tensor:
    """Q~ [B, T, I(, k, k)]: pre tokens times ``factor`` [B, 1, I], the others times ``post`` [B, 1, I or 1]."""
    gate = torch.where(pre[..., None], factor, post)  # [B, T, I]
    return q * (gate if q.ndim == 3 else gate[..., None, None])


def _squared_norm(weight: Tensor, style: Tensor, residuals: Sequence[Residual], joined: Joined | None) -> Tensor:
    """|W'_o|^2 for each sample, [N, O], in fp32."""
    with torch.autocast(weight.device.type, enabled=False):
        w, s = weight.float(), style.float()
        power = s.square() @ w.square().sum(dim=(2, 3)).t()
        if joined is None:
            return power
        n, kernel = s.shape[0], weight.shape[-1]
        for r in residuals:
            p, q, taps = r.p.float(), r.q.float(), None if r.a is None else r.a.float()
            if p.shape[0] == 1 and n > 1:
                m = _cross_terms(w, Joined(p, q, taps, r.pre))
                cross = s @ m[0].t() + s.square() @ m[1].t()
            else:  # T rows of a matrix product for each image
                q = _modulate(q, r.pre, s.square()[:, None], s[:, None])
                cross = (p * (_kernels(q, taps, kernel).flatten(2) @ w.flatten(1).t())).sum(dim=1)
            power = power + 2 * _scaled(cross, r.strength)
        p, q = joined.p.float(), _modulate(joined.q.float(), joined.pre, s[:, None], s.new_ones(1, 1, 1))
        gram = _gram(q, joined.a, kernel)
        return (power + (p * (gram @ p)).sum(dim=1)).clamp_min(0)


def modulated_queries(tokens: Joined, style: Tensor) -> Tensor:
    """Q~ [N, T, I(, k, k)] in fp32: tokens that enter before the modulation times the style [N, I]."""
    return _modulate(tokens.q.float(), tokens.pre, style[:, None], style.new_ones(1, 1, 1))


def static_norm(weight: Tensor, residuals: Sequence[Residual]) -> Tensor:
    """Norms of the rows of W + dW, [1 or N, O] in fp32; dW is of the tokens that enter before the modulation alone."""
    early = [r._replace(p=r.p * r.pre[..., None]) for r in residuals]
    one = weight.new_ones(1, weight.shape[1])
    return _squared_norm(weight, one, early, join(early) if early else None).clamp_min(1e-12).sqrt()


def _safe_range(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Factors [O] and [N, 1] that keep a demodulated convolution inside fp16: as in the published code, the largest
    style becomes 1 and the largest weight 1 / sqrt(I k k)."""
    by_output = 1 / (weight.float().abs().amax(dim=(1, 2, 3)).clamp_min(1e-12) * math.sqrt(weight[0].numel()))
    return by_output, 1 / style.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12)


def _shifted_sum(z: Tensor, a: Tensor | None, up: bool) -> Tensor:
    """3x3 (transposed) convolution for each sample and token as a sum over taps.

    z [N, T, 9 or 1, H, W], a [N, T, 3, 3]. Elementwise, so that a compiled graph does not depend on N,
    as a grouped convolution would.
    """
    height, width = z.shape[-2:]
    z = F.pad(z, (1, 1, 1, 1))

    def tap(u: int, v: int, top: int, left: int, h: int, w: int) -> Tensor:
        part = z[:, :, (3 * u + v) % z.shape[2], top : top + h, left : left + w]
        return part if a is None else part * a[:, :, u, v, None, None]

    if not up:
        taps = [tap(u, v, u, v, height, width) for u in range(3) for v in range(3)]
        return sum(taps[1:], taps[0])
    # Four phases: an even row of the doubled map has tap 0 of its own row and tap 2 of the one above, an odd row tap 1
    even, odd = [(0, 1), (2, 0)], [(1, 1)]
    rows = []
    for vertical in (even, odd):
        cells = []
        for horizontal in (even, odd):
            taps = [tap(u, v, i, j, height + 1, width + 1) for u, i in vertical for v, j in horizontal]
            cells.append(sum(taps[1:], taps[0]))
        rows.append(torch.stack(cells, dim=-1))
    y = torch.stack(rows, dim=3)  # [N, T, H + 1, 2, W + 1, 2]
    y = y.reshape(*y.shape[:2], 2 * height + 2, 2 * width + 2)
    return y[:, :, : 2 * height + 1, : 2 * width + 1]


def _token_maps(x: Tensor, q: Tensor, a: Tensor | None, kernel: int, up: bool) -> Tensor:
    """depthwise(Q~ . x, A): x [N, I, H, W], q [B, T, I(, k, k)] -> [N, T, H', W']."""
    n, inputs, height, width = x.shape
    tokens = q.shape[1]
    if kernel == 1:
        q = q.flatten(2)
    if q.ndim == 5 and q.shape[0] == 1:
        if up:
            return F.conv_transpose2d(x, q[0].transpose(0, 1), stride=2)
        return F.conv2d(x, q[0], padding=kernel // 2)
    pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, inputs)  # a view of channels_last
    if q.ndim == 5:
        q = q.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [N, T k k, I]
        return _shifted_sum((q @ pixels.mT).reshape(n, tokens, -1, height, width), None, up)
    y = (q @ pixels.mT).reshape(n, tokens, height, width)
    if kernel == 1:
        return y if a is None else y * a
    if a is None:
        a = y.new_ones(1, tokens, kernel, kernel)
    if a.shape[0] > 1:
        return _shifted_sum(y[:, :, None], a.to(y.dtype), up)
    if up:
        return F.conv_transpose2d(y, a[0, :, None], stride=2, groups=tokens)
    return F.conv2d(y, a[0, :, None], padding=kernel // 2, groups=tokens)


def _add_tokens(y: Tensor, maps: Tensor, p: Tensor) -> Tensor:
    """y + P^T maps: y [N, O, H, W], maps [N, T, H, W], p [B, T, O]."""
    n, outputs, height, width = y.shape
    pixels = y.permute(0, 2, 3, 1).reshape(n, height * width, outputs)
    pixels = torch.baddbmm(pixels, maps.flatten(2).mT, p.expand(n, *p.shape[1:]))
    return pixels.reshape(n, height, width, outputs).permute(0, 3, 1, 2)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    residuals: Sequence[Residual] = (),
    up: bool = False,
    demodulation: Demodulation = "norm",
    bias: Tensor | None = None,
    gain: float = 1.0,
) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k], style [N, I] -> [N, O, H, W], or twice the size with ``up``.

    The output is divided by the norm of its kernel, or multiplied by given factors [O], or left as it is ("none").
    ``gain`` multiplies it, too, and ``bias`` [1 or N, O] is added to it, in the same pass over the map.
    Norms are taken in fp32. In fp16, weights and styles are brought to a safe range first, as in the published code;
    the demodulation undoes it.
    """
    residuals = [r for r in residuals if r.p.shape[1] > 0]
    joined = join(residuals) if residuals else None
    kernel = weight.shape[-1]
    demod = demodulation[None] if isinstance(demodulation, Tensor) else None
    post = style.new_ones(1, 1)
    if demodulation == "norm":
        norm = _squared_norm(weight, style, residuals, joined)
        if x.dtype == torch.float16:
            by_output, by_sample = _safe_range(weight, style)  # [O], [N, 1]
            norm = norm * (by_output * by_sample).square()
            weight, style, post = weight * by_output[:, None, None, None], style * by_sample, by_sample
            joined = joined and joined._replace(p=joined.p * by_output)
        demod = (norm + 1e-8).rsqrt()  # [N, O]
    if gain != 1.0:
        demod = gain * (style.new_ones(1, 1) if demod is None else demod)

    y = x * style.to(x.dtype)[:, :, None, None]
    if up:
        y = F.conv_transpose2d(y, weight.to(x.dtype).transpose(0, 1), stride=2)
    else:
        y = F.conv2d(y, weight.to(x.dtype), padding=kernel // 2)
    if joined is not None:
        q = _modulate(joined.q, joined.pre, style[:, None], post[:, None]).to(x.dtype)
        maps = _token_maps(x, q, None if joined.a is None else joined.a.to(x.dtype), kernel, up)
        y = _add_tokens(y, maps.to(y.dtype), joined.p.to(y.dtype))
    if up:
        y = blur(y, padding=1, gain=4.0)
    factors, offsets = (None if v is None else v.to(y.dtype)[:, :, None, None] for v in (demod, bias))
    if factors is None:
        return y if offsets is None else y + offsets
    return y * factors if offsets is None else torch.addcmul(offsets, y, factors)


def modulated_conv_dense(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    residuals: Sequence[Residual] = (),
    up: bool = False,
    demodulation: Demodulation = "norm",
) -> Tensor:
    """The definition, with a kernel built for each image: what ``modulated_conv`` is tested against, and no more."""
    n, kernel = x.shape[0], weight.shape[-1]
    kernels = style[:, None, :, None, None] * weight  # [N, O, I, k, k]
    for r in residuals:
        q = _modulate(_kernels(r.q, r.a, kernel), r.pre, style[:, None], style.new_ones(1, 1, 1))
        p = _scaled(r.p, r.strength)
        kernels = kernels + torch.einsum("bto,btiuv->boiuv", p.expand(n, *p.shape[1:]), q)
    if isinstance(demodulation, Tensor):
        kernels = kernels * demodulation[:, None, None, None]
    elif demodulation == "norm":
        kernels = kernels * (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    pictures = []
    for sample, k in zip(x.split(1), kernels.unbind(), strict=True):
        if up:
            pictures.append(blur(F.conv_transpose2d(sample, k.transpose(0, 1), stride=2), padding=1, gain=4.0))
        else:
            pictures.append(F.conv2d(sample, k, padding=kernel // 2))
    return torch.cat(pictures)
