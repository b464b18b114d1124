"""Encoder: one look at a picture gives w+ and tokens (RefineStyle, arXiv 2410.06104).

A backbone gives three feature maps, and the layers of the generator fall into three groups, coarse to fine. Each group
has learned queries (one for the w+ code of each layer, T for its P and T for its Q), which talk to each other and look
at the group's map in a stack of transformer blocks of their own; small linear heads turn them into numbers.

One stage learns all of it together. Of two stages, the first learns w+ and the second tokens: it sees the picture,
what the first stage draws, and their difference; and if it is made so, the generator's own feedback (``gradients``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import ShapeError
from ..generators.base import Generator
from ..hub.pretrained import Pretrained
from ..hub.push import Pushable
from ..losses.perceptual import Perceptual
from ..tokens.batch import TokenBatch
from ..tokens.modulated_conv import Residual, residual_kernel
from ..tokens.token_set import LayerTokens
from .backbone import open_backbone
from .gradients import Feedback, Told
from .heads import TokenHead
from .stage import Reader


__all__ = ["Encoded", "Encoder", "standard_coordinates"]


class Encoded(NamedTuple):
    """What an encoder reads off N pictures: ``generator(w_plus, tokens)`` draws them."""

    w_plus: Tensor  # [N, L, D]
    tokens: TokenBatch


def standard_coordinates(generator: Generator, rng: torch.Generator, samples: int = 4096) -> tuple[Tensor, Tensor]:
    """Coordinates in which w has mean 0 and unit variance (Wulff and Torralba 2020, arXiv 2009.06529).

    Returns:
        ``(basis, inverse)``, both [D, D]: w = mean + x basis, and x = (w - mean) inverse. Directions in which w hardly
        varies count as if it did by a hundredth of the largest deviation.
    """
    mean = generator.mean_latent
    with torch.no_grad():
        w = generator.sample(samples, rng)[:, 0] - mean
        variances, vectors = torch.linalg.eigh(w.T @ w / samples)
        deviations = variances.clamp_min(variances[-1] * 1e-4).sqrt()
    return deviations[:, None] * vectors.T, vectors / deviations


# --- The encoder ----------------------------------------------------------------------------------------------------


class Encoder(Pretrained, Pushable, nn.Module):
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
        encoder = cls(EncoderConfig(generator.config.shape, generator.fingerprint(), **options))
        encoder.take_scales(generator)
        encoder.w_avg.copy_(generator.mean_latent)
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
