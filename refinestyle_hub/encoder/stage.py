"""One stage of the encoder: three groups of queries, each with a stack of blocks of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderConfig, EncoderNetwork, GeneratorShape, LayerSpec
from ..tokens.layer_tokens import LayerTokens, match_layers
from .backbone import open_backbone
from .gradients import TokenGradients
from .heads import CodeHead, TokenHead
from .transformer import Block, positions


__all__ = ["EncoderStage", "layer_groups"]

GROUPS = 3  # coarse, middle, fine


def layer_groups(shape: GeneratorShape) -> list[list[LayerSpec]]:
    """The layers of a generator in three groups of resolutions, coarse, middle, fine; a group may be empty."""
    resolutions = sorted({spec.resolution for spec in shape.layers})
    groups: list[list[LayerSpec]] = [[] for _ in range(GROUPS)]
    for spec in shape.layers:
        groups[GROUPS * resolutions.index(spec.resolution) // len(resolutions)].append(spec)
    return groups


def code_counts(shape: GeneratorShape) -> list[int]:
    """How many w+ codes each of the three groups has: a code that several layers share is the finest one's."""
    level = {spec.code: i for i, group in enumerate(layer_groups(shape)) for spec in group}
    return [sum(i == group for i in level.values()) for group in range(GROUPS)]


# --- Groups ---------------------------------------------------------------------------------------------------------


class Group(nn.Module):
    """Some layers: their queries, blocks and heads."""

    def __init__(
        self, network: EncoderNetwork, level: int, codes: int, w_dim: int, specs: Sequence[LayerSpec]
    ) -> None:
        super().__init__()
        self.level = level  # of its map, 0 the coarsest
        self.code_heads = nn.ModuleList(CodeHead(network.width, w_dim) for _ in range(codes))
        self.token_heads = nn.ModuleList(heads := [TokenHead(network, spec) for spec in specs])
        self.counts = [1] * codes + [2 * head.rank for head in heads]  # of queries
        self.queries = nn.Parameter(torch.randn(sum(self.counts), network.width))
        self.memory_norm = nn.LayerNorm(network.width)
        self.blocks = nn.ModuleList(Block(network.width, network.heads) for _ in range(network.depth))
        self.norm = nn.LayerNorm(network.width)

    def forward(
        self, x: Tensor, tokens: Mapping[str, LayerTokens], gradients: Mapping[str, TokenGradients]
    ) -> tuple[list[Tensor], dict[str, LayerTokens]]:
        """Map [N, d, h, w], tokens so far and gradients by layer -> codes [N, D], corrected tokens by layer."""
        channels, height, width = x.shape[1:]
        places = positions(height, width, channels).to(x.device)
        memory = self.memory_norm(x.flatten(2).mT) + places.flatten(1).T  # [N, h w, d]
        x = self.queries.expand(len(memory), -1, -1)
        heads: Sequence[Any] = list(self.token_heads)
        if gradients:  # to the queries of P alone
            added = [
                F.pad(head.grad_proj(gradients[head.spec.name].p.flatten(2)), (0, 0, 0, head.rank)) for head in heads
            ]
            x = x + F.pad(torch.cat(added, dim=1), (0, 0, len(self.code_heads), 0))
        for block in self.blocks:
            x = block(x, memory)
        parts = self.norm(x).split(self.counts, dim=1)
        codes = [head(part[:, 0]) for head, part in zip(self.code_heads, parts, strict=False)]
        corrected = {
            head.spec.name: head(part, tokens[head.spec.name], gradients.get(head.spec.name))
            for head, part in zip(heads, parts[len(codes) :], strict=True)
        }
        return codes, corrected


class EncoderStage(nn.Module):
    """Images [N, C, S, S] -> w+ codes, tokens, or both: a backbone, and a group of layers at each of its maps.

    Args:
        inputs: C, channels of what it sees.
        codes: Whether it gives w+.
        tokens: Whether it gives tokens of the layers that the config names.

    Raises:
        LayerError: No layer of such a name.
    """

    def __init__(self, config: EncoderConfig, inputs: int, codes: bool, tokens: bool) -> None:
        super().__init__()
        network, layers = config.network, config.generator.layers
        self.size, self.gradient_feedback = network.size, network.gradient_feedback
        names = [spec.name for spec in layers]
        refined = {name for found in match_layers(network.layers, names).values() for name in found} if tokens else ()
        groups = []
        counts = code_counts(config.generator)
        for level, (specs, count) in enumerate(zip(layer_groups(config.generator), counts, strict=True)):
            chosen = [spec for spec in specs if spec.name in refined]
            if codes and count or chosen:
                groups.append(Group(network, level, count if codes else 0, config.generator.w_dim, chosen))
        self.groups = nn.ModuleList(groups)
        self.backbone = open_backbone(network, inputs)
        used = self.backbone.channels[::-1][: groups[-1].level + 1]  # coarse to fine
        self.laterals = nn.ModuleList(nn.Linear(channels, network.width) for channels in used)

    def forward(
        self,
        x: Tensor,
        tokens: Mapping[str, LayerTokens] | None = None,
        gradients: Mapping[str, TokenGradients] | None = None,
    ) -> tuple[Tensor | None, dict[str, LayerTokens]]:
        """Codes [N, L, D] in standard coordinates, or None; corrected tokens by layer, those there are.

        Args:
            x: [N, C, S, S].
            tokens: Those so far, by layer; None begins with no residual.
            gradients: By them, for a stage that takes gradients.
        """
        tokens = self.initial_tokens(len(x)) if tokens is None else tokens
        maps: list[Tensor] = []  # [N, d, h, w], coarse to fine; each also sees the coarser (Lin et al. 2017, FPN)
        for y, lateral in zip(reversed(self.backbone(x)), self.laterals, strict=False):
            y = lateral(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            maps.append(y + F.interpolate(maps[-1], size=y.shape[2:]) if maps else y)
        codes: list[Tensor] = []
        corrected: dict[str, LayerTokens] = {}
        groups: Iterable[Any] = self.groups
        for group in groups:
            some, more = group(maps[group.level], tokens, gradients or {})
            codes, corrected = codes + some, corrected | more
        return torch.stack(codes, dim=1).float() if codes else None, corrected

    def initial_tokens(self, n: int) -> dict[str, LayerTokens]:
        """Tokens of n images before any is seen, by layer."""
        groups: Iterable[Any] = self.groups
        return {head.spec.name: head.initial(n) for group in groups for head in group.token_heads}

    @torch.no_grad()
    def init_from(self, first: EncoderStage) -> None:
        """Begin with the weights of a stage that gives codes.

        Its backbone takes the first three channels. Its blocks serve the groups of the same maps, and where this stage
        gives codes too, its queries and heads of codes do.
        """
        mine, theirs = cast(Sequence[Any], self.groups), cast(Sequence[Any], first.groups)
        levels = {group.level: k for k, group in enumerate(theirs)}  # a stage of few layers lacks some
        pairs = {levels[group.level]: i for i, group in enumerate(mine) if group.level in levels}
        source, target = {}, self.state_dict()
        for name, tensor in first.state_dict().items():
            top, _, rest = name.partition(".")
            if top == "groups":
                their, _, rest = rest.partition(".")
                name = f"groups.{pairs.get(int(their))}.{rest}"
            source[name] = tensor
        for name in target.keys() & source.keys():
            if target[name].shape == source[name].shape and not name.endswith("queries"):
                target[name].copy_(source[name])
            elif name.startswith("backbone") and target[name][:, :3].shape == source[name].shape:
                target[name][:, :3].copy_(source[name])
        for k, i in pairs.items():
            codes = min(len(mine[i].code_heads), len(theirs[k].code_heads))  # their queries come first
            mine[i].queries[:codes].copy_(theirs[k].queries[:codes])
