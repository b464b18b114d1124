"""Encoder: one look at a picture gives w+ and tokens (RefineStyle, arXiv 2410.06104).

A backbone gives three feature maps, and the layers of the generator fall into three groups, coarse to fine. Each group
has learned queries (one for the w+ code of each layer, T for its P and T for its Q), which talk to each other and look
at the group's map in a stack of transformer blocks of their own; small linear heads turn them into numbers.

One stage learns all of it together. Of two stages, the first learns w+ and the second tokens: it sees the picture,
what the first stage draws, and their difference; and if it is made so, the generator's own feedback (``feedback.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import open_backbone
from .config import EncoderConfig, GeneratorConfig, LayerSpec
from .errors import ShapeError
from .feedback import Feedback, Told
from .fingerprint import fingerprint
from .generator import Generator
from .heads import CodeHead, TokenHead
from .hub import Pretrained
from .losses import Perceptual
from .refine import Residual, residual_kernel
from .token_batch import TokenBatch
from .tokens import LayerTokens, match_layers


__all__ = ["Encoded", "Encoder", "Reader", "layer_groups", "standard_coordinates"]


class Encoded(NamedTuple):
    """What an encoder reads off N pictures: ``generator(w_plus, tokens)`` draws them."""

    w_plus: Tensor  # [N, L, D]
    tokens: TokenBatch


def layer_groups(config: GeneratorConfig) -> list[list[LayerSpec]]:
    """The layers of a generator in three groups of resolutions, coarse, middle, fine; a group may be empty."""
    resolutions = list(config.channels)
    groups: list[list[LayerSpec]] = [[], [], []]
    for spec in config.layers:
        groups[3 * resolutions.index(spec.resolution) // len(resolutions)].append(spec)
    return groups


def standard_coordinates(generator: Generator, rng: torch.Generator, samples: int = 4096) -> tuple[Tensor, Tensor]:
    """Coordinates in which w has mean 0 and unit variance (Wulff and Torralba 2020, arXiv 2009.06529).

    Returns:
        ``(basis, inverse)``, both [D, D]: w = mean + x basis, and x = (w - mean) inverse. Directions in which w hardly
        varies count as if it did by a hundredth of the largest deviation.
    """
    mean = generator.mapping.w_avg
    with torch.no_grad():
        z = torch.randn(samples, generator.config.z_dim, generator=rng).to(mean)
        w = generator.mapping(z) - mean
        variances, vectors = torch.linalg.eigh(w.T @ w / samples)
        deviations = variances.clamp_min(variances[-1] * 1e-4).sqrt()
    return deviations[:, None] * vectors.T, vectors / deviations


# --- Transformer blocks ---------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Queries [N, K, d] attend to a memory [N, M, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        n, _, width = x.shape
        query = self.query(x).view(n, -1, self.heads, width // self.heads).transpose(1, 2)  # [N, heads, K, d / heads]
        key, value = self.key_value(memory).view(n, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Self-attention among the queries, cross-attention to the memory, feed-forward; normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:  # [N, K, d], [N, M, d] -> [N, K, d]
        y: Tensor = self.norms[0](x)
        x = x + self.own(y, y)
        x = x + self.cross(self.norms[1](x), memory)
        y = self.feed(self.norms[2](x))
        return x + y


def positions(height: int, width: int, channels: int) -> Tensor:
    """Sine and cosine of each place of a map, [channels, height, width], a quarter of the channels for each of both
    in either direction (Vaswani et al. 2017, section 3.5); the longest wave spans twice the map."""
    waves = torch.arange(channels // 4).float()
    turns = math.pi * max(height, width) ** (waves / max(len(waves) - 1, 1))  # radians over the map
    places = []
    for axis, size in ((0, height), (1, width)):
        at = (torch.arange(size) + 0.5) / size
        angles = (turns[:, None] * at)[:, :, None] if axis == 0 else (turns[:, None] * at)[:, None]
        places += [angles.sin().expand(-1, height, width), angles.cos().expand(-1, height, width)]
    return torch.cat(places)


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
        for place, specs in enumerate(layer_groups(config.generator)):
            count = sum(spec.kind == "conv" for spec in specs) + (place == 2)  # the last toRGB has a code of its own
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


# --- The encoder ----------------------------------------------------------------------------------------------------


class Encoder(Pretrained, nn.Module):
    """Pictures [N, 3, R, R] in [-1, 1] -> w+ and tokens for one frozen generator of R pixels."""

    part = "encoder"
    config_class = EncoderConfig

    w_avg: Tensor
    basis: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        two, width = config.stages == "two", config.generator.w_dim
        self.first = Reader(config, 3, codes=True, tokens=not two)
        self.second = Reader(config, 9, codes=False, tokens=True) if two else None
        self.register_buffer("w_avg", torch.zeros(width))
        self.register_buffer("basis", torch.eye(width))

    @classmethod
    def for_generator(cls, generator: Generator, *, pretrained: bool = False, **options: Any) -> Encoder:
        """An encoder that has learnt nothing: it answers with the mean latent and no residual.

        Args:
            generator: the one that it will read pictures for; its scales are taken over.
            pretrained: start a timm backbone from its published weights.
            options: fields of ``EncoderConfig``.

        Raises:
            ConfigError: a value out of range. LayerError: no layer of such a name. MissingDependencyError: no timm.
        """
        encoder = cls(EncoderConfig(generator.config, fingerprint(generator), **options))
        encoder.take_scales(generator)
        encoder.w_avg.copy_(generator.mapping.w_avg)
        encoder.basis.copy_(standard_coordinates(generator, torch.Generator().manual_seed(0))[0])
        if pretrained:
            for reader, inputs in ((encoder.first, 3), (encoder.second, 9)):
                if reader is not None:
                    config = encoder.config
                    reader.backbone = open_backbone(config.backbone, inputs, config.widths, config.size, True)
        return encoder

    def forward(self, pictures: Tensor, generator: Generator, looks: int | None = None) -> Encoded:
        """Read pictures [N, 3, R, R] in [-1, 1].

        Gradients reach all of a one-stage encoder, and of a two-stage one the second stage through its last look.

        Args:
            generator: draws what the first of two stages found; and has the kernels that a factor multiplies.
            looks: of the second stage, by default those of the config: each sees what the one before it draws.

        Raises:
            ShapeError: pictures of another size.
        """
        seen, looks = self._look(pictures), self.config.looks if looks is None else looks
        if self.second is None:
            w_plus, tokens = self._codes(seen)
            return Encoded(w_plus, TokenBatch(len(pictures), self._of_kernels(tokens, generator)))
        with torch.no_grad():
            w_plus, _ = self._codes(seen)
        tokens = self.second.start(len(pictures))
        feedback = self._feedback(pictures) if self.config.feedback and looks else None
        for look in range(looks):
            with torch.set_grad_enabled(torch.is_grad_enabled() and look == looks - 1):
                drawn, told = self._draw(w_plus, tokens, generator, feedback)
                drawn = self._look(drawn.clamp(-1, 1))
                _, tokens = self.second(torch.cat([seen, drawn, seen - drawn], dim=1), tokens, told)
        return Encoded(w_plus, TokenBatch(len(pictures), self._of_kernels(tokens, generator)))

    def take_scales(self, generator: Generator) -> None:
        """The units of tokens: those of the generator's kernels."""
        stats = generator.kernel_stats()
        for module in self.modules():
            if isinstance(module, TokenHead):
                module.scale(stats[module.spec.name])

    def codes(self, pictures: Tensor) -> Tensor:
        """w+ [N, L, D] alone, without a drawing: of two stages, the answer of the first."""
        return self._codes(self._look(pictures))[0]

    def without_tokens(self) -> Encoder:
        """The first of two stages alone: an encoder of w+, whose answers have no tokens."""
        encoder = Encoder(replace(self.config, stages="one", layers=(), looks=1, feedback=False))
        states = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("second.")}
        encoder.load_state_dict(states)
        return encoder.to(self.w_avg.device)

    def _look(self, pictures: Tensor) -> Tensor:
        """[N, 3, R, R] -> [N, 3, S, S]."""
        side = self.config.generator.resolution
        if pictures.dim() != 4 or pictures.shape[1:] != (3, side, side) or not len(pictures):
            raise ShapeError(f"This encoder reads pictures [N, 3, {side}, {side}], not {list(pictures.shape)}.")
        if side > self.config.size:
            pictures = F.interpolate(pictures, size=(self.config.size,) * 2, mode="area")
        elif side < self.config.size:
            pictures = F.interpolate(pictures, size=(self.config.size,) * 2, mode="bilinear")
        return pictures.contiguous(memory_format=torch.channels_last)

    def _draw(
        self, w_plus: Tensor, tokens: dict[str, LayerTokens], generator: Generator, feedback: Feedback | None
    ) -> tuple[Tensor, dict[str, Told]]:
        """What w+ [N, L, D] and tokens draw, [N, 3, R, R]; and the feedback on it, if any is asked for."""
        if feedback is not None:
            return feedback(generator, w_plus, tokens, partial(self._of_kernels, generator=generator))
        with torch.no_grad():
            return generator(w_plus, TokenBatch(len(w_plus), self._of_kernels(tokens, generator))), {}

    def _feedback(self, pictures: Tensor) -> Feedback:
        judge = self._judge.to(pictures.device)  # it is no part of the encoder, and does not move with it
        return Feedback(pictures, judge, self.config.size)

    @cached_property
    def _judge(self) -> Perceptual:
        """Whose gradient is told: always the same distance, with the weights that the package requires."""
        with torch.inference_mode(False):  # or no gradient could ever pass through its weights
            return Perceptual.load("st-lpips-alex")

    def _of_kernels(self, tokens: dict[str, LayerTokens], generator: Generator) -> dict[str, LayerTokens]:
        if self.config.residual != "multiply":
            return tokens
        return {name: _times_kernel(x, generator.layer(name).weight) for name, x in tokens.items()}

    def _codes(self, seen: Tensor) -> tuple[Tensor, dict[str, LayerTokens]]:
        codes, tokens = self.first(seen)
        with torch.autocast(seen.device.type, enabled=False):
            return self.w_avg + codes @ self.basis, tokens


def _times_kernel(tokens: LayerTokens, weight: Tensor) -> LayerTokens:
    """A factor 1 + P^T Q on each weight, as in HyperStyle (Alaluf et al. 2022, arXiv 2111.15666, eq. 4), as tokens.

    The residual W * (P^T Q A) has full rank: one token for each output channel, which holds that channel's residual.
    It enters before the modulation, like the kernel that it changes.
    """
    factor = residual_kernel(Residual(tokens.p, tokens.q, tokens.a, tokens.pre), weight.shape[-1])  # [N, O, I, k, k]
    n, outputs = factor.shape[:2]
    one = torch.eye(outputs, device=factor.device).expand(n, -1, -1)
    return LayerTokens(one, weight.float() * factor, None, tokens.pre.new_ones(n, outputs))
