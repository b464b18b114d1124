"""Inversion of crops: by an encoder, if there is one, and by optimisation from its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Fingerprint
from ..encoder.encoder import Encoder
from ..generators.base import Generator
from ..generators.codes import fit_codes
from ..losses.perceptual import Perceptual
from ..runtime.bf16 import in_bf16
from ..runtime.defaults import standard_defaults
from ..runtime.precision import full_precision
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .inversion import Inversion
from .inversion_settings import InversionSettings, planned_steps
from .optimise import OnStep, invert


__all__ = ["codes_of", "invert_crops"]


@standard_defaults()
@torch.no_grad()
def codes_of(encoder: Encoder, crops: Tensor, generator: Generator) -> Tensor:
    """w+ [N, L, D] of crops [N, 3, R, R] for a generator whose latent space the encoder reads."""
    encoder, side = full_precision(encoder), encoder.config.generator.resolution
    if side != crops.shape[-1]:
        crops = F.interpolate(crops, size=(side, side), mode="area" if side < crops.shape[-1] else "bilinear")
    return fit_codes(encoder.codes(crops), generator.num_ws)


@standard_defaults()
@torch.inference_mode(False)
@torch.enable_grad()
def invert_crops(
    generator: Generator,
    crops: Tensor,
    *,
    encoder: Encoder | None = None,
    perceptual: Perceptual | None = None,
    steps: int | None = None,
    w_steps: int | None = None,
    tokens: bool = True,
    start: Tensor | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    on_pictures: Callable[[Tensor], object] | None = None,
    settings: InversionSettings | None = None,
    base: Fingerprint | None = None,
) -> list[Inversion]:
    """Find w+ and tokens of crops [N, 3, R, R] in [-1, 1], which share the steps.

    Args:
        generator: The generator that shall draw the crops, R being its resolution.
        crops: The pictures.
        encoder: What gives the start: w+ alone for a generator of other sizes. None starts from the mean latent.
        start: w+ [N, L, D] to start from, such as those of ``codes_of``, where they are known. An encoder whose tokens
            are wanted as well finds both anew.
        perceptual: The perceptual distance. None loads one.
        steps, w_steps, tokens: How many steps there are for what, see ``planned_steps``.
        seed, on_step, on_pictures, settings, base: As for ``optimise.invert``.

    Raises:
        ShapeError: The crops have another size.
        ConfigError: The numbers of steps do not add up.
    """
    began = time.monotonic()
    base, settings = base or generator.fingerprint(), settings or InversionSettings()
    generator, encoder = full_precision(generator), encoder and full_precision(encoder)
    w_steps, token_steps = planned_steps(
        steps, w_steps, tokens=tokens, started=encoder is not None or start is not None
    )
    sets = None
    if encoder is not None:
        wanted = tokens and (settings.from_tokens or not w_steps + token_steps)
        with torch.no_grad():
            if wanted and encoder.config.generator == generator.config.shape:
                with in_bf16(crops.device, settings.precision == "bf16"):
                    start, read = encoder(crops, generator, encoder.load_distance(perceptual))
                sets = read.unbind(base) if read.own else None
            elif start is None:
                start = codes_of(encoder, crops, generator)
    if sets is not None and token_steps:
        sets = [_in_all_layers(one, generator, settings, seed) for one in sets]
    found = invert(
        generator,
        crops,
        w_steps=w_steps,
        token_steps=token_steps,
        start=start,
        start_tokens=sets,
        seed=seed,
        perceptual=perceptual,
        on_step=on_step,
        on_pictures=on_pictures,
        settings=settings,
        base=base,
    )
    seconds = {"seconds": round(time.monotonic() - began, 3)}  # with those of the encoder
    return [replace(one, report={**one.report, **seconds}) for one in found]


def _in_all_layers(tokens: TokenSet, generator: Generator, settings: InversionSettings, seed: int) -> TokenSet:
    """The set, with new tokens and so no residual in layers of the settings that it lacks."""
    rng = torch.Generator().manual_seed(seed)
    new = TokenParameters(generator.kernel_stats(), settings.rank, settings.layers, "post", rng=rng)
    layers = new.to(generator.device).token_set().detach().layers
    return replace(tokens, layers={**layers, **tokens.layers})
