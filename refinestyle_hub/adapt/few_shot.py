"""Adaptation to 1 to 20 pictures of a style."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypedDict

import torch

from ..config import Fingerprint
from ..encoder.encoder import Encoder
from ..errors import ConfigError, printable
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..images import PictureSource, left_out_lines
from ..inversion.crops import codes_of
from ..losses.perceptual import Perceptual
from ..runtime.defaults import standard_defaults
from ..runtime.precision import plain
from .adaptation import STEPS, STEPS_WITHOUT_DISCRIMINATOR, Adaptation
from .context import Term
from .references import Align, References, load_references
from .settings import AdaptSettings, preset
from .state import AdaptState


__all__ = ["AdaptOptions", "Pictures", "few_shot_adaptation"]

Pictures: TypeAlias = "PictureSource | Sequence[PictureSource] | References"  # of a style


class AdaptOptions(TypedDict, total=False):
    """What a few-shot adaptation may be asked for; the defaults are those of ``few_shot_adaptation``."""

    steps: int | None
    tokens: int
    align: Align
    seed: int
    settings: AdaptSettings | None
    terms: Sequence[Term]


@standard_defaults()
def few_shot_adaptation(
    generator: Generator,
    pictures: Pictures,
    perceptual: Callable[[], Perceptual],
    *,
    discriminator: Discriminator | None = None,
    encoder: Encoder | None = None,
    steps: int | None = None,
    tokens: int = 4,
    align: Align = "auto",
    seed: int = 0,
    state: AdaptState | None = None,
    settings: AdaptSettings | None = None,
    terms: Sequence[Term] = (),
    base: Fingerprint | None = None,
) -> Adaptation:
    """Begin an adaptation as a run whose steps the caller takes, with previews.

    Args:
        generator: The generator, which is left as it is.
        pictures: Paths of pictures and folders, file contents, open files, PIL images, or pixels in memory.
        perceptual: Gives the perceptual distance; called where the run needs one.
        discriminator: The generator's discriminator, whose features the terms compare. None uses the perceptual ones.
        encoder: Gives w+ of the pictures where a term wants them. None finds them by optimisation.
        steps: Steps of optimisation. None means 500 with a discriminator, 60 without.
        tokens: T, tokens per layer.
        align: "auto" cuts faces out where they are found and uses other pictures as they are; "none" uses all so.
        seed: The same seed gives the same result.
        state: The state of the run to continue.
        settings: Weights and rates, and the number of tokens in place of ``tokens``. None takes the ``preset``.
        terms: More terms of the objective.
        base: The generator's fingerprint. None takes it.

    Raises:
        PictureError: A picture cannot be used; the message names it. In a folder it is left out, with a warning.
        ConfigError: There are not 1 to 20 pictures, ``state`` is of another run, or an argument is of another kind.
        MissingDependencyError: The face detector is not installed (align="none" does without), or, for one to four
            pictures or without a discriminator, the perceptual distance.
    """
    _check_kinds(settings, state)
    generator, size = plain(generator), generator.config.resolution
    references = pictures if isinstance(pictures, References) else load_references(pictures, size, align)
    if references is not pictures and references.unreadable:
        warnings.warn("\n".join(left_out_lines(references.unreadable)), stacklevel=3)
    with_discriminator = discriminator is not None
    settings = settings or preset(len(references), tokens, with_discriminator)
    inversions = None
    if settings.reconstruction and encoder is not None and state is None:  # else the state has them
        with torch.no_grad():
            inversions = codes_of(encoder, references.pictures.to(generator.device), generator)
    measured = not with_discriminator or (settings.reconstruction and inversions is None)
    return Adaptation(
        generator,
        references,
        steps=(STEPS if with_discriminator else STEPS_WITHOUT_DISCRIMINATOR) if steps is None else steps,
        settings=settings,
        seed=seed,
        discriminator=discriminator,
        perceptual=perceptual() if measured else None,
        inversions=inversions,
        terms=terms,
        state=state,
        base=base,
    )


def _check_kinds(settings: object, state: object) -> None:
    """Raise ConfigError before any picture is read."""
    if not isinstance(settings, AdaptSettings | None):
        raise ConfigError(f"settings must be AdaptSettings, such as preset(5), not {printable(repr(settings))}.")
    if not isinstance(state, AdaptState | None):
        kind = type(state).__name__
        raise ConfigError(f"state must be an AdaptState, not of type {kind}. AdaptState.load reads one from its file.")
