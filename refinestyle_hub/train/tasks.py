"""What an encoder learns from: pairs of a portrait and a sample of the generator.

All randomness of a pair comes from the seed and its place in the run, so neither an interruption nor the number of
processes changes what is learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..encoder.encoder import Encoded
from ..generators.base import Generator
from ..tokens.parameters import KernelStats
from .augment import distort, random_tokens
from .latents import mixed_latents


__all__ = ["Task", "Tasks", "sources"]

EDIT = 0.45  # of the way to another latent; StyleRes (Pehlivan et al. 2023) goes 0.4 to 0.5


@dataclass(frozen=True)
class Task:
    """Pictures to read, and what is to be drawn from what was read."""

    seen: Tensor  # [N, 3, R, R] in [-1, 1]
    wanted: Tensor  # [N, 3, R, R]
    known: Tensor | None  # [n, L, D]: w+ of the last n of N
    move: Tensor | None = None  # [N, L, D]: added to the w+ that was read, before drawing


def sources(seed: int, pairs: range) -> list[torch.Generator]:
    """A random source for each pair."""
    return [torch.Generator().manual_seed(seed * 1_000_000_007 + pair) for pair in pairs]


class Tasks:
    """Makes tasks of portraits [n, 3, R, R] and n samples, with a random source for each pair."""

    def __init__(self, generator: Generator, stats: Mapping[str, KernelStats], foreign: float, mixing: float) -> None:
        """``foreign``: share from outside the domain; ``mixing``: probability that a sample's w+ mixes two."""
        self.generator, self.stats, self.foreign_share, self.mixing = generator, stats, foreign, mixing

    @torch.no_grad()
    def latents(self, sources: Sequence[torch.Generator]) -> Tensor:
        """w+ [n, L, D] from the prior."""
        return mixed_latents(self.generator, sources, self.mixing)

    @torch.no_grad()
    def samples(self, sources: Sequence[torch.Generator]) -> Task:
        """Two samples of each source, and no portrait."""
        w_plus = torch.cat([self.latents(sources), self.latents(sources)])
        seen = self.generator(w_plus).clamp(-1, 1)
        return Task(seen, seen, w_plus)

    @torch.no_grad()
    def domain(self, portraits: Tensor, sources: Sequence[torch.Generator]) -> Task:
        """Portraits and samples as they are."""
        w_plus = self.latents(sources)
        seen = torch.cat([portraits, self.generator(w_plus).clamp(-1, 1)])
        return Task(seen, seen, w_plus)

    @torch.no_grad()
    def foreign(self, portraits: Tensor, sources: Sequence[torch.Generator]) -> Task:
        """A share of the portraits is distorted, and a share of the samples drawn with random tokens."""
        w_plus = self.latents(sources)
        portraits = portraits.clone()
        for row, rng in enumerate(sources):
            if _coin(rng, self.foreign_share):
                portraits[row] = distort(portraits[row : row + 1], [rng])[0]
        refined = torch.tensor([float(_coin(rng, self.foreign_share)) for rng in sources])
        samples = self.generator(w_plus, random_tokens(self.stats, sources), strength=refined).clamp(-1, 1)
        seen = torch.cat([portraits, samples])
        return Task(seen, seen, w_plus)

    @torch.no_grad()
    def cycle(self, task: Task, sources: Sequence[torch.Generator], encode: Callable[[Tensor], Encoded]) -> Task:
        """The same pictures after a random edit of what ``encode`` finds in them; to be drawn is the picture before.

        Tokens that draw one picture but break when its w+ moves have a price so (StyleRes, Pehlivan et al. 2023,
        section 3.3, does this with features in the place of tokens).
        """
        found = encode(task.seen)
        other = torch.cat([self.latents(sources), self.latents(sources)])
        move = EDIT * (other - found.w_plus)
        edited = self.generator(found.w_plus + move, found.tokens).clamp(-1, 1)
        return replace(task, seen=edited, known=None, move=-move)


def _coin(rng: torch.Generator, probability: float) -> bool:
    return float(torch.rand((), generator=rng)) < probability
