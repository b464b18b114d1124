"""Refinement iterations of the second stage: render, compare, correct (Alaluf et al. 2021, arXiv 2104.02699)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..generators.base import Generator
from ..tokens.batch import TokenBatch
from ..tokens.layer_tokens import LayerTokens
from .gradients import FeedbackDistance, Reference, TokenGradients, render_with_gradients
from .stage import EncoderStage


__all__ = ["refine_tokens", "resize"]

LARGEST = 256  # pixels: renders of larger generators are compared at this size, or at the stage's if that is more


def refine_tokens(
    stage: EncoderStage,
    generator: Generator,
    distance: FeedbackDistance | None,
    images: Tensor,
    w_plus: Tensor,
    tokens: Mapping[str, LayerTokens],
    num_iters: int,
) -> dict[str, LayerTokens]:
    """Correct the tokens ``num_iters`` times, each time by what their render shows beside the images.

    Gradients of what is returned reach the stage through the last iteration.

    Args:
        stage: Sees the images, the render and their difference; and the gradients of the render, if it takes them.
        distance: The distance whose gradients the stage takes beside the squared error's; None if it takes none.
        images: [N, 3, R, R] in [-1, 1].
        w_plus: [N, L, D], which stays as it is.
        tokens: Of N samples, by layer.

    Raises:
        ConfigError: The stage takes gradients, and there is no distance.
    """
    if stage.gradient_feedback and distance is None:
        raise ConfigError("This encoder takes gradients of a distance: pass Encoder.load_distance().")
    seen, found = resize(images, stage.size), dict(tokens)
    side = generator.config.resolution
    while side // 2 >= max(stage.size, LARGEST):
        side //= 2
    images = resize(images, side)
    reference = None
    if stage.gradient_feedback and distance is not None and num_iters:
        reference = Reference(images, distance, stage.size)
    for i in range(num_iters):
        with torch.set_grad_enabled(torch.is_grad_enabled() and i == num_iters - 1):
            gradients: dict[str, TokenGradients] = {}
            if reference is None:
                with torch.no_grad():
                    rendered = generator(w_plus, TokenBatch(len(w_plus), found), resolution=side)
            else:
                rendered, gradients = render_with_gradients(generator, w_plus, found, reference, turn=i)
            rendered = resize(rendered.clamp(-1, 1), stage.size)
            _, found = stage(torch.cat([seen, rendered, seen - rendered], dim=1), found, gradients)
    return found


def resize(images: Tensor, size: int) -> Tensor:
    """[N, 3, R, R] -> [N, 3, size, size] in channels_last: averaged down, or interpolated up."""
    side = images.shape[-1]
    if side != size:
        images = F.interpolate(images, size=(size, size), mode="area" if side > size else "bilinear")
    return images.contiguous(memory_format=torch.channels_last)
