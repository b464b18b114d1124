"""Text, or the direction in which pictures differ from the samples, as a guide: directional CLIP.

A text needs no picture at all (StyleGAN-NADA, arXiv 2108.00946); beside pictures the direction is one more term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..boundary.paths import AnyPath
from ..errors import ConfigError
from ..generators.base import Generator
from ..losses.clip import Clip, ClipDirection, choose_layers
from ..runtime.defaults import standard_defaults
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .adaptation import PREVIEWS, Adaptation
from .context import Context
from .references import References
from .settings import FEATURE_TERMS, AdaptSettings, preset
from .state import AdaptState


__all__ = [
    "TEXT_STEPS",
    "ClipTerm",
    "TextAdaptation",
    "load_clips",
    "picture_term",
    "text_adaptation",
    "text_settings",
]

TEXT_STEPS = 300
SAMPLES = 16  # their mean is the start of a direction to pictures, and their gradients choose layers


class ClipTerm:
    """The samples move along a direction in CLIP's space."""

    def __init__(self, direction: ClipDirection, weight: float = 1.0) -> None:
        self.direction, self.weight = direction, weight
        # a saved run continues only with the same models: their names are part of the term's
        self.name = "clip " + " + ".join(clip.name for clip in direction.clips)  # type: ignore[misc]

    def __call__(self, context: Context) -> Tensor:
        """Mean over the pairs of samples before and after."""
        loss: Tensor = self.direction(context.source, context.adapted)
        return loss.mean()


class TextAdaptation(Adaptation):
    """A run without pictures. Its distance is the directional loss of fixed samples."""

    def __init__(self, generator: Generator, direction: ClipDirection, texts: tuple[str, str], **options: Any) -> None:
        """Begin a run along ``direction``, from the first text to the second; ``options`` as for ``Adaptation``."""
        self.direction, self.texts = direction, texts
        size = generator.config.resolution
        nothing = References(torch.empty(0, 3, size, size), (), ())
        super().__init__(generator, nothing, terms=[ClipTerm(direction)], **options)

    @torch.no_grad()
    def _distance(self, tokens: TokenParameters) -> float:
        plain, adapted = (self.sampler.fixed_samples(those, PREVIEWS, 1.0) for those in (None, self._result(tokens)))
        loss: Tensor = self.direction(plain, adapted)
        return float(loss.mean())

    def _run(self) -> dict[str, Any]:
        return {**super()._run(), "texts": list(self.texts)}

    def token_set(self, metadata: Mapping[str, Any] | None = None) -> TokenSet:
        """The best so far as a domain whose metadata name the texts."""
        made = {"method": "text adaptation", "source_text": self.texts[0], "target_text": self.texts[1]}
        return super().token_set({**made, **(metadata or {})})


def text_settings(tokens: int = 4, with_discriminator: bool = True) -> AdaptSettings:
    """Settings without the terms that need pictures; batch and truncation as published.

    A generator without a discriminator is held to draw no weave, as by pictures: CLIP does not see it. So are its
    rates those by pictures, since larger ones bring the weave. ``slack`` is not: it allows for a distance of features.
    """
    needs_pictures = (*FEATURE_TERMS, "sliced_pictures", "adversarial", "patches", "reconstruction")
    settings = AdaptSettings(tokens=tokens, batch=2, truncation=0.7)
    if not with_discriminator:
        known = preset(1, tokens, with_discriminator=False)
        same = ("rate", "colour_rate", "coarse", "fine", "lattice")
        settings = replace(settings, **{name: getattr(known, name) for name in same})
    return replace(settings, **dict.fromkeys(needs_pictures, 0.0))  # type: ignore[arg-type]


def load_clips(clips: Sequence[AnyPath | Clip], device: torch.device | str = "cpu") -> list[Clip]:
    """Load CLIP models by folder or Hub id, see ``Clip.load``. Raises ConfigError if none is named."""
    if not clips:
        raise ConfigError("Name at least one CLIP model: a folder, or a Hub id such as openai/clip-vit-base-patch32.")
    return [(clip if isinstance(clip, Clip) else Clip.load(clip)).to(device) for clip in clips]


@standard_defaults()
def text_adaptation(
    generator: Generator,
    source: str,
    target: str,
    clips: Sequence[Clip],
    *,
    steps: int = TEXT_STEPS,
    tokens: int = 4,
    codes: int | None = None,
    seed: int = 0,
    settings: AdaptSettings | None = None,
    state: AdaptState | None = None,
    with_discriminator: bool = True,
) -> TextAdaptation:
    """Begin a run from one text to another.

    Args:
        generator: The generator, which is left as it is.
        source: What the generator draws, such as "a photo".
        target: What it shall draw, such as "a pencil sketch".
        clips: One or two CLIP models on the generator's device.
        steps, tokens, seed: As for ``few_shot_adaptation``.
        codes: Refine only the layers of this many w+ codes, the ones that the target moves most, see
            ``losses.clip.choose_layers``. None refines the layers of the settings.
        settings: Weights and rates. None takes ``text_settings(tokens, with_discriminator)``.
        state: The state of the run to continue.
        with_discriminator: Whether the generator has one.

    Raises:
        ConfigError: A text is empty, both mean the same to a CLIP, or there are not that many codes.
    """
    settings = settings or text_settings(tokens, with_discriminator)
    direction = ClipDirection.from_text(clips, source, target).to(generator.device)
    if codes is not None:
        w_plus = _codes(generator, settings.truncation, seed)
        settings = replace(settings, layers=choose_layers(generator, direction.to_target, w_plus, codes))
    return TextAdaptation(
        generator, direction, (source, target), steps=steps, settings=settings, seed=seed, state=state
    )


@standard_defaults()
@torch.no_grad()
def picture_term(
    generator: Generator, references: References, clips: Sequence[Clip], weight: float = 1.0, seed: int = 0
) -> ClipTerm:
    """A term along the direction from samples of the generator to the references, for ``Adaptation(terms=...)``."""
    samples = generator(_codes(generator, 0.7, seed)).clamp(-1, 1)
    return ClipTerm(ClipDirection.from_pictures(clips, samples, references.pictures.to(samples.device)), weight)


@torch.no_grad()
def _codes(generator: Generator, truncation: float, seed: int) -> Tensor:
    return generator.sample(SAMPLES, torch.Generator().manual_seed(seed), truncation)
