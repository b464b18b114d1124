"""One stage of the encoder: three groups of queries, each with a stack of blocks of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderConfig, GeneratorShape, LayerSpec
from ..tokens.token_set import LayerTokens, match_layers
from .backbone import open_backbone
from .gradients import Told
from .heads import CodeHead, TokenHead
from .transformer import Block, positions


__all__ = ["Reader", "layer_groups"]


def layer_groups(shape: GeneratorShape) -> list[list[LayerSpec]]:
    """The layers of a generator in three groups of resolutions, coarse, middle, fine; a group may be empty."""
    resolutions = sorted({spec.resolution for spec in shape.layers})
    groups: list[list[LayerSpec]] = [[], [], []]
    for spec in shape.layers:
        groups[3 * resolutions.index(spec.resolution) // len(resolutions)].append(spec)
    return groups


def code_counts(shape: GeneratorShape) -> list[int]:
    """How many w+ codes each of the three groups reads: a code that several layers share is the finest one's."""
    place = {spec.code: i for i, group in enumerate(layer_groups(shape)) for spec in group}
    return [sum(i == group for i in place.values()) for group in range(3)]


# --- Groups ---------------------------------------------------------------------------------------------------------


class Group(nn.Module):
    """Some layers: their queries, blocks and heads."""

    def __init__(self, config: EncoderConfig, place: int, codes: int, specs: Sequence[LayerSpec]) -> None:
        super().__init__()
        self.place = place  # of its map, 0 the coarsest
        self.codes = nn.ModuleList(CodeHead(config.width, config.generator.w_dim) for _ in range(codes))
        self.tokens = nn.ModuleList(heads := [TokenHead(config, spec) for spec in specs])
        self.counts = [1] * codes + [2 * head.rank for head in heads]  # of queries
        self.queries = nn.Parameter(torch.randn(sum(self.counts), config.width))
        self.memory = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, x: Tensor, before: Mapping[str, LayerTokens], told: Mapping[str, Told]
    ) -> tuple[list[Tensor], dict[str, LayerTokens]]:
        """Map [N, d, h, w], and by layer tokens before and feedback on them -> codes [N, D], tokens by layer."""
        channels, height, width = x.shape[1:]
        place = positions(height, width, channels).to(x.device)
        memory = self.memory(x.flatten(2).mT) + place.flatten(1).T  # [N, h w, d]
        x = self.queries.expand(len(memory), -1, -1)
        heads: Sequence[Any] = list(self.tokens)
        if told:
            heard = [F.pad(head.hear(told[head.spec.name].p.flatten(2)), (0, 0, 0, head.rank)) for head in heads]
            x = x + F.pad(torch.cat(heard, dim=1), (0, 0, len(self.codes), 0))
        for block in self.blocks:
            x = block(x, memory)
        parts = self.norm(x).split(self.counts, dim=1)
        codes = [head(part[:, 0]) for head, part in zip(self.codes, parts, strict=False)]
        tokens = {
            head.spec.name: head(part, before[head.spec.name], told.get(head.spec.name))
            for head, part in zip(heads, parts[len(codes) :], strict=True)
        }
        return codes, tokens


class Reader(nn.Module):
    """Pictures [N, C, S, S] -> w+ codes, tokens, or both: a backbone, and a group of layers at each of its maps."""

    def __init__(self, config: EncoderConfig, inputs: int, codes: bool, tokens: bool) -> None:
        super().__init__()
        names = [spec.name for spec in config.generator.layers]
        refined = {name for found in match_layers(config.layers, names).values() for name in found} if tokens else ()
        groups = []
        counts = code_counts(config.generator)
        for place, (specs, count) in enumerate(zip(layer_groups(config.generator), counts, strict=True)):
            chosen = [spec for spec in specs if spec.name in refined]
            if codes and count or chosen:
                groups.append(Group(config, place, count if codes else 0, chosen))
        self.groups = nn.ModuleList(groups)
        self.backbone = open_backbone(config.backbone, inputs, config.widths, config.size)
        used = self.backbone.channels[::-1][: groups[-1].place + 1]  # coarse to fine
        self.laterals = nn.ModuleList(nn.Linear(channels, config.width) for channels in used)

    def forward(
        self, x: Tensor, before: Mapping[str, LayerTokens] | None = None, told: Mapping[str, Told] | None = None
    ) -> tuple[Tensor | None, dict[str, LayerTokens]]:
        """Codes [N, L, D] in standard coordinates, or None; tokens by layer, those there are.

        Args:
            x: [N, C, S, S]. before: tokens before this look. told: feedback on them, if this reader is made for it.
        """
        before = self.start(len(x)) if before is None else before
        maps: list[Tensor] = []  # [N, d, h, w], coarse to fine; each also sees the coarser (Lin et al. 2017, FPN)
        for y, lateral in zip(reversed(self.backbone(x)), self.laterals, strict=False):
            y = lateral(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            maps.append(y + F.interpolate(maps[-1], size=y.shape[2:]) if maps else y)
        codes: list[Tensor] = []
        tokens: dict[str, LayerTokens] = {}
        groups: Iterable[Any] = self.groups
        for group in groups:
            some, more = group(maps[group.place], before, told or {})
            codes, tokens = codes + some, tokens | more
        return torch.stack(codes, dim=1).float() if codes else None, tokens

    def start(self, n: int) -> dict[str, LayerTokens]:
        """Tokens of n pictures before any is seen, by layer."""
        groups: Iterable[Any] = self.groups
        return {head.spec.name: head.start(n) for group in groups for head in group.tokens}

    @torch.no_grad()
    def learn_from(self, first: Reader) -> None:
        """Begin with what a reader of codes knows of pictures: its backbone, which takes the first three channels, its
        blocks, and where this one reads codes too, how it reads them."""
        mine, theirs = cast(Sequence[Any], self.groups), cast(Sequence[Any], first.groups)
        places = {group.place: k for k, group in enumerate(theirs)}  # a reader of few layers lacks some
        pairs = {places[group.place]: i for i, group in enumerate(mine) if group.place in places}
        source, target = {}, self.state_dict()
        for name, tensor in first.state_dict().items():
            top, _, rest = name.partition(".")
            if top == "groups":
                their, _, rest = rest.partition(".")
                name = f"groups.{pairs.get(int(their))}.{rest}"  # noqa: PLW2901
            source[name] = tensor
        for name in target.keys() & source.keys():
            if target[name].shape == source[name].shape and not name.endswith("queries"):
                target[name].copy_(source[name])
            elif name.startswith("backbone") and target[name][:, :3].shape == source[name].shape:
                target[name][:, :3].copy_(source[name])
        for k, i in pairs.items():
            codes = min(len(mine[i].codes), len(theirs[k].codes))  # their queries come first
            mine[i].queries[:codes].copy_(theirs[k].queries[:codes])
