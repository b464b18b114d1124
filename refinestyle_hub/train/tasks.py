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


__all__ = ["Task", "Tasks", "pair_rngs"]

EDIT = 0.45  # of the way to another latent; StyleRes (Pehlivan et al. 2023) goes 0.4 to 0.5


@dataclass(frozen=True)
class Task:
    """Pictures to read, and what is to be drawn from what was read."""

    images: Tensor  # [N, 3, R, R] in [-1, 1]
    target: Tensor  # [N, 3, R, R]
    w_plus: Tensor | None  # [n, L, D]: w+ of the last n of N
    move: Tensor | None = None  # [N, L, D]: added to the w+ that was read, before drawing


def pair_rngs(seed: int, pairs: range) -> list[torch.Generator]:
    """A random generator for each pair."""
    return [torch.Generator().manual_seed(seed * 1_000_000_007 + pair) for pair in pairs]


class Tasks:
    """Make tasks of portraits [n, 3, R, R] and n samples, with a random source for each pair."""

    def __init__(
        self, generator: Generator, stats: Mapping[str, KernelStats], ood_fraction: float, mixing: float
    ) -> None:
        """A share ``ood_fraction`` is out-of-domain; a sample's w+ mixes two with probability ``mixing``."""
        self.generator, self.stats, self.ood_fraction, self.mixing = generator, stats, ood_fraction, mixing

    @torch.no_grad()
    def latents(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """w+ [n, L, D] from the prior."""
        return mixed_latents(self.generator, rngs, self.mixing)

    @torch.no_grad()
    def samples(self, rngs: Sequence[torch.Generator]) -> Task:
        """Two samples of each source, and no portrait."""
        w_plus = torch.cat([self.latents(rngs), self.latents(rngs)])
        seen = self.generator(w_plus).clamp(-1, 1)
        return Task(seen, seen, w_plus)

    @torch.no_grad()
    def in_domain(self, portraits: Tensor, rngs: Sequence[torch.Generator]) -> Task:
        """Portraits and samples as they are."""
        w_plus = self.latents(rngs)
        seen = torch.cat([portraits, self.generator(w_plus).clamp(-1, 1)])
        return Task(seen, seen, w_plus)

    @torch.no_grad()
    def out_of_domain(self, portraits: Tensor, rngs: Sequence[torch.Generator]) -> Task:
        """A share of the portraits is distorted, and a share of the samples drawn with random tokens."""
        w_plus = self.latents(rngs)
        portraits = portraits.clone()
        for row, rng in enumerate(rngs):
            if _coin(rng, self.ood_fraction):
                portraits[row] = distort(portraits[row : row + 1], [rng])[0]
        refined = torch.tensor([float(_coin(rng, self.ood_fraction)) for rng in rngs])
        samples = self.generator(w_plus, random_tokens(self.stats, rngs), strength=refined).clamp(-1, 1)
        seen = torch.cat([portraits, samples])
        return Task(seen, seen, w_plus)

    @torch.no_grad()
    def cycle(self, task: Task, rngs: Sequence[torch.Generator], encode: Callable[[Tensor], Encoded]) -> Task:
        """The same pictures after a random edit of what ``encode`` finds in them; to be drawn is the picture before.

        Tokens that draw one picture but break when its w+ moves have a price so (StyleRes, Pehlivan et al. 2023,
        section 3.3, does this with features in the place of tokens).
        """
        found = encode(task.images)
        other = torch.cat([self.latents(rngs), self.latents(rngs)])
        move = EDIT * (other - found.w_plus)
        edited = self.generator(found.w_plus + move, found.tokens).clamp(-1, 1)
        return replace(task, images=edited, w_plus=None, move=-move)


def _coin(rng: torch.Generator, probability: float) -> bool:
    return float(torch.rand((), generator=rng)) < probability
