"""Pictures from outside the domain, without end: what the second stage of an encoder learns from.

Portraits and samples are changed by filters, cut-outs and hats of noise (``distort``), or samples are drawn with
random token sets (``random_tokens``). Each picture has a random source of its own: what becomes of it depends neither
on its neighbours nor on how many processes share the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.batch import TokenBatch
from ..tokens.layer_tokens import LayerTokens
from ..tokens.parameters import KernelStats


__all__ = ["DISTORTIONS", "distort", "random_tokens"]


def distort(pictures: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """Each of [N, 3, H, W] in [-1, 1] with one or two of ``DISTORTIONS``, in [-1, 1]."""
    changed = []
    for picture, rng in zip(pictures, sources, strict=True):
        count = 1 + int(_uniform(rng) < 0.3)
        for kind in torch.randperm(len(DISTORTIONS), generator=rng)[:count].tolist():
            picture = DISTORTIONS[kind](picture, rng)
        changed.append(picture.clamp(-1, 1))
    return torch.stack(changed)


def random_tokens(
    stats: Mapping[str, KernelStats], sources: Sequence[torch.Generator], rank: int = 4, strongest: float = 0.6
) -> TokenBatch:
    """A random set for each source: in all convolutions, or from one on, or up to one.

    Each set changes every kernel by the same share of its norm, up to ``strongest``, in three of four before the
    modulation, as domains do.
    """
    specs = [s.spec for s in stats.values() if s.spec.role == "conv"]
    rows: list[list[LayerTokens]] = []
    for rng in sources:
        # a share of 0.1 shows as little as 0.6 looks wild: small ones are as frequent as large ones
        share = strongest * 6 ** -_uniform(rng)
        pre = torch.full((rank,), _uniform(rng) < 0.75)
        first, last = sorted(torch.randint(len(specs), (2,), generator=rng).tolist())
        first, last = ((0, len(specs) - 1), (first, len(specs) - 1), (0, last))[int(3 * _uniform(rng))]
        row = []
        for place, spec in enumerate(specs):
            p = torch.randn(rank, spec.outputs, generator=rng) * stats[spec.name].unit(pre).cpu()[:, None]
            q = torch.randn(rank, spec.inputs, generator=rng) / math.sqrt(spec.inputs)
            a = 1 + 0.7 * torch.randn(rank, spec.kernel, spec.kernel, generator=rng)
            inside = first <= place <= last
            row.append(LayerTokens(p * (share * inside / math.sqrt(rank)), q, a, pre))
        rows.append(row)
    device = next(iter(stats.values())).style.device
    own = {}
    for spec, parts in zip(specs, zip(*rows, strict=True), strict=True):
        tensors = {name: torch.stack([part.tensors()[name] for part in parts]).to(device) for name in ("p", "q", "a")}
        own[spec.name] = LayerTokens(**tensors, pre=torch.stack([part.pre for part in parts]).to(device))
    return TokenBatch(len(rows), own)


# --- Distortions: [3, H, W] in [-1, 1] -> about [-1, 1] -------------------------------------------------------------


def colour(x: Tensor, rng: torch.Generator) -> Tensor:
    """Channels mixed at random, and shifted."""
    mix = torch.eye(3) + 0.4 * torch.randn(3, 3, generator=rng)
    shift = 0.25 * torch.randn(3, 1, 1, generator=rng)
    return torch.einsum("ij,jhw->ihw", mix.to(x), x) + shift.to(x)


def posterise(x: Tensor, rng: torch.Generator) -> Tensor:
    """Two to five levels a channel."""
    steps = 1 + int(4 * _uniform(rng))
    return ((x + 1) / 2 * steps).round() / steps * 2 - 1


def edges(x: Tensor, rng: torch.Generator) -> Tensor:
    """A drawing of the outlines, dark on light or light on dark, over what remains of the colours."""
    grey = F.pad(x.mean(dim=0)[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]  # [H + 2, W + 2]
    across, down = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    lines = (across.square() + down.square() + 1e-12).sqrt() * (2 + 4 * _uniform(rng))
    drawing = 1 - 2 * lines.clamp(0, 1)
    drawing = drawing if _uniform(rng) < 0.7 else -drawing
    return torch.lerp(x, drawing.expand_as(x), 0.5 + 0.5 * _uniform(rng))


def cut_out(x: Tensor, rng: torch.Generator) -> Tensor:
    """One to three rectangles of a plain colour, each up to a third of a side."""
    x = x.clone()
    height, width = x.shape[1:]
    for _ in range(1 + int(3 * _uniform(rng))):
        h, w = (max(1, int(side * (0.1 + 0.23 * _uniform(rng)))) for side in (height, width))
        top, left = int((height - h) * _uniform(rng)), int((width - w) * _uniform(rng))
        fill = 2 * torch.rand(3, 1, 1, generator=rng) - 1
        x[:, top : top + h, left : left + w] = fill.to(x)
    return x


def hat(x: Tensor, rng: torch.Generator) -> Tensor:
    """A hat of smooth coloured noise over the upper part, with a round lower rim."""
    height, width = x.shape[1:]
    cells = 2 + int(7 * _uniform(rng))
    noise = torch.randn(1, 3, cells, cells, generator=rng).to(x)
    texture = F.interpolate(noise, size=(height, width), mode="bilinear")[0].tanh()
    rim, bend = 0.15 + 0.25 * _uniform(rng), 0.3 * (_uniform(rng) - 0.5)
    across = torch.linspace(-1, 1, width, device=x.device)
    down = (torch.arange(height, device=x.device) + 0.5) / height
    inside = down[:, None] < rim + bend * (1 - across.square())  # [H, W]
    return torch.where(inside, texture, x)


DISTORTIONS: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (colour, posterise, edges, cut_out, hat)


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))
