"""A style of ``domains.py``: the pictures that its runs see, and those that they are measured against."""

from __future__ import annotations

import argparse
from functools import cached_property

import torch
import torch.nn.functional as F
from domain_filters import FILTERS
from torch import Tensor

from refinestyle_hub.adapt import References
from refinestyle_hub.images import from_uint8
from refinestyle_hub.train.dataset import Pictures


__all__ = ["Style"]


class Style:
    """A filter, the pictures that runs see, and those they are measured against."""

    def __init__(self, name: str, people: Pictures, args: argparse.Namespace, resolution: int) -> None:
        order = torch.randperm(len(people), generator=torch.Generator().manual_seed(args.seed))
        self.name, self.people, self.resolution, self.seed = name, people, resolution, args.seed
        self.chosen, self.seen = order[: args.pictures + args.true].tolist(), args.pictures

    @cached_property
    def pictures(self) -> Tensor:
        """The same for every row, [M, 3, S, S]; references and true pictures have no person in common."""
        rng = torch.Generator().manual_seed(self.seed)
        found = [FILTERS[self.name](from_uint8(self.people.take([i])), rng) for i in self.chosen]
        return torch.cat(found).clamp(-1, 1)

    @property
    def true(self) -> Tensor:
        """[M, 3, S, S]."""
        return self.pictures[self.seen :]

    def references(self, count: int | None = None) -> References:
        """What runs see, or the first of it."""
        pictures = self.pictures[: self.seen if count is None else count]
        if pictures.shape[-1] != self.resolution:
            pictures = F.interpolate(pictures, (self.resolution, self.resolution), mode="bilinear")
        names = tuple(self.people.names[i] for i in self.chosen[: len(pictures)])
        return References(pictures, names, (True,) * len(names))
