"""Encoder: one pass over an image gives w+ and tokens (RefineStyle, arXiv 2410.06104).

A backbone gives three feature maps, and the layers of the generator fall into three groups, coarse to fine. Each group
has learned queries (one for the w+ code of each layer, T for its P and T for its Q), which attend to each other and to
the group's map in a stack of transformer blocks of their own; small linear heads turn them into numbers.

One stage learns all of it together. Of two stages, the first learns w+ and the second tokens: it sees the image, what
the first stage renders, and their difference; and if it is made so, gradients by the tokens (``gradients``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..config import EncoderConfig, EncoderNetwork
from ..errors import ConfigError, ShapeError
from ..generators.base import Generator
from ..hub.pretrained import Pretrained
from ..hub.push import Pushable
from ..losses.identity_network import IdentityDistance
from ..losses.perceptual import Perceptual
from ..tokens.batch import TokenBatch
from ..tokens.layer_tokens import LayerTokens
from .backbone import open_backbone
from .gradients import FeedbackDistance
from .heads import TokenHead
from .refinement import refine_tokens, resize
from .stage import EncoderStage


__all__ = ["Encoded", "Encoder", "standard_coordinates"]

# Every second stage that takes gradients takes those of this perceptual distance: its weights come with the package.
FEEDBACK_DISTANCE: Literal["st-lpips-alex"] = "st-lpips-alex"


class Encoded(NamedTuple):
    """What an encoder finds in N images: ``generator(w_plus, tokens)`` renders them."""

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


class Encoder(Pretrained, Pushable, nn.Module):
    """Images [N, 3, R, R] in [-1, 1] -> w+ and tokens for one frozen generator of R pixels."""

    part = "encoder"
    config_class = EncoderConfig

    w_avg: Tensor
    basis: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        two, width = config.network.stages == "two", config.generator.w_dim
        self.first = EncoderStage(config, 3, codes=True, tokens=not two)
        self.second = EncoderStage(config, 9, codes=False, tokens=True) if two else None
        self.register_buffer("w_avg", torch.zeros(width))
        self.register_buffer("basis", torch.eye(width))

    @classmethod
    def for_generator(cls, generator: Generator, *, pretrained: bool = False, **options: Any) -> Encoder:
        """An encoder that has learnt nothing: it answers with the mean latent and no residual.

        Args:
            generator: The one that it will read images for; its scales are taken over.
            pretrained: Start a timm backbone from its published weights.
            options: Fields of ``EncoderNetwork``.

        Raises:
            ConfigError: A value out of range, or a backbone that there is not.
            LayerError: No layer of such a name.
        """
        encoder = cls(EncoderConfig(generator.config.shape, EncoderNetwork(**options), generator.fingerprint()))
        encoder.set_units(generator)
        encoder.w_avg.copy_(generator.mean_latent)
        encoder.basis.copy_(standard_coordinates(generator, torch.Generator().manual_seed(0))[0])
        if pretrained:
            for stage, inputs in ((encoder.first, 3), (encoder.second, 9)):
                if stage is not None:
                    stage.backbone = open_backbone(encoder.config.network, inputs, pretrained=True)
        return encoder

    def forward(
        self,
        images: Tensor,
        generator: Generator,
        distance: FeedbackDistance | None = None,
        num_iters: int | None = None,
    ) -> Encoded:
        """Find w+ and tokens of images [N, 3, R, R] in [-1, 1].

        Gradients reach all of a one-stage encoder, and of a two-stage one the second stage through its last iteration.

        Args:
            generator: Renders what the first of two stages found.
            distance: ``load_distance()``, for an encoder that takes gradients of it.
            num_iters: Refinement iterations of the second stage; None takes those of the config.

        Raises:
            ShapeError: Images of another size.
            ConfigError: An encoder that takes gradients, without the distance that it learnt with.
        """
        if distance is not None and distance.perceptual.name != FEEDBACK_DISTANCE:
            raise ConfigError(
                f"The encoder takes gradients of {FEEDBACK_DISTANCE}, not of {distance.perceptual.name}."
            )
        if distance is not None and distance.weight != self.config.network.identity_feedback:
            raise ConfigError(
                f"The encoder compares faces with a weight of {self.config.network.identity_feedback:g}, not of "
                f"{distance.weight:g}: pass Encoder.load_distance()."
            )
        if self.second is None:
            w_plus, tokens = self._first(images)
            return Encoded(w_plus, TokenBatch(len(images), tokens))
        with torch.no_grad():
            w_plus, _ = self._first(images)
        num_iters = self.config.network.num_iters if num_iters is None else num_iters
        start = self.second.initial_tokens(len(images))
        tokens = refine_tokens(self.second, generator, distance, images, w_plus, start, num_iters)
        return Encoded(w_plus, TokenBatch(len(images), tokens))

    def codes(self, images: Tensor) -> Tensor:
        """w+ [N, L, D] alone, without a render: of two stages, what the first finds."""
        return self._first(images)[0]

    def load_distance(self, known: Perceptual | None = None) -> FeedbackDistance | None:
        """The distance whose gradients ``forward`` needs, with its weights; None for an encoder that takes none.

        Args:
            known: Its perceptual part, if it is that already.

        Raises:
            MissingDependencyError, ModelNotFoundError: The encoder compares faces, and there are no models of dlib.
        """
        network, device = self.config.network, self.w_avg.device
        if not network.gradient_feedback:
            return None
        with torch.inference_mode(False):  # or no gradient could ever pass through the weights
            if known is None or known.name != FEEDBACK_DISTANCE:
                known = Perceptual.load(FEEDBACK_DISTANCE).to(device)
            identity = IdentityDistance.load(device) if network.identity_feedback else None
        return FeedbackDistance(known, identity, network.identity_feedback)

    def set_units(self, generator: Generator) -> None:
        """Take the units of tokens from the kernels of a generator."""
        stats = generator.kernel_stats()
        for module in self.modules():
            if isinstance(module, TokenHead):
                module.set_unit(stats[module.spec.name])

    def without_tokens(self) -> Encoder:
        """The first of two stages alone: an encoder of w+, whose answers have no tokens."""
        network = replace(
            self.config.network, stages="one", layers=(), num_iters=1, gradient_feedback=False, identity_feedback=0.0
        )
        encoder = Encoder(replace(self.config, network=network))
        states = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("second.")}
        encoder.load_state_dict(states)
        return encoder.to(self.w_avg.device).train(self.training)

    def _first(self, images: Tensor) -> tuple[Tensor, dict[str, LayerTokens]]:
        """w+ [N, L, D], and the tokens of a one-stage encoder."""
        side = self.config.generator.resolution
        if images.dim() != 4 or images.shape[1:] != (3, side, side) or not len(images):
            raise ShapeError(f"This encoder reads images [N, 3, {side}, {side}], not {list(images.shape)}.")
        codes, tokens = self.first(resize(images, self.config.network.size))
        with torch.autocast(images.device.type, enabled=False):
            return self.w_avg + codes @ self.basis, tokens
