"""What an adaptation draws: the context of each step, and fixed samples to measure and to show.

All of it follows from the seed and the step, so a run that continues from its state draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..config import GeneratorConfig
from ..errors import ShapeError
from ..generators.base import Generator, Window
from ..generators.discriminator import Discriminator
from ..losses.perceptual import Perceptual
from ..losses.pixel import shrink
from ..losses.sliced import sliced_features, sliced_pictures
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .context import Context, Features
from .palette import end_with_palette
from .references import WHOLE_SIDE, References
from .settings import AdaptSettings


__all__ = ["Sampler", "check_sizes", "feature_extractor", "random_source"]

PARAMETERS, STEP, FIXED, DISTANCE, TYPICAL = range(5)  # purposes of randomness
SEEN = 3  # references at a step that sees a window of them
PIXELS = 2**20  # drawn at a time, where no gradient is wanted
PALETTE_SAMPLES = 16  # their colours stand for the generator's
TYPICAL_SAMPLES = 64  # they give the mean features of the generator before it is adapted


class Sampler:
    """Samples of a frozen generator with the tokens of the moment."""

    def __init__(
        self,
        generator: Generator,
        references: References,
        features: Features | None,
        settings: AdaptSettings,
        seed: int,
    ) -> None:
        """Without ``features``, of a frozen network, the terms that compare features are left out."""
        self.generator, self.references, self.features = generator, references, features
        self.settings, self.seed = settings, seed

    def context(self, step: int, steps: int, parameters: TokenParameters, inversions: Tensor | None) -> Context:
        """The context of step ``step`` of ``steps``; gradients flow from it to the parameters."""
        s = self.settings
        rng = random_source(self.seed, STEP, step)
        with torch.no_grad():
            w_plus = self.generator.sample(s.batch, rng, s.truncation)
        order = torch.randperm(len(self.references), generator=rng)
        tokens = parameters.token_set()
        references, features, window = self.references, self.reference_features, None
        windows = 0 < s.window < self.generator.config.resolution
        if windows and not s.sees_whole(step):
            window = self._window(rng)
            seen = order[:SEEN]
            inversions = None if inversions is None else inversions[seen]
            references, order = self.references.part(seen.tolist(), window), torch.arange(len(seen))
            with torch.no_grad():
                features = () if self.features is None else self.features(references.pictures)
        chosen = order.repeat(s.batch)[: s.batch]
        return Context(
            step=step,
            progress=step / steps,
            turn=step // (s.round_steps if windows else s.turn_steps),
            w_plus=w_plus,
            references=references,
            chosen=references.pictures[chosen.to(w_plus.device)],
            reference_features=features,
            typical_features=self.typical_features if s.layout else (),
            inversions=inversions,
            parameters=parameters,
            rng=rng,
            draw=lambda w: self.generator(w, tokens, window=window),
            plain=lambda w: self.generator(w, window=window),
            features=self.features,
        )

    def _window(self, rng: torch.Generator) -> Window:
        side = self.settings.window
        top, left = torch.randint(self.generator.config.resolution - side + 1, (2,), generator=rng).tolist()
        return top, left, side

    @torch.no_grad()
    def fixed_samples(
        self, tokens: TokenSet | None, count: int, truncation: float, resolution: int | None = None
    ) -> Tensor:
        """Samples that are the same at any step, [count, 3, R, R] in [-1, 1], with ``tokens`` or plain."""
        w_plus = self.generator.sample(count, random_source(self.seed, FIXED), truncation)
        some = w_plus.split(self.at_once)
        return torch.cat([self.generator(w, tokens, resolution=resolution).clamp(-1, 1) for w in some])

    def palette_samples(self, tokens: TokenSet | None = None) -> Tensor:
        """Samples whose colours stand for the generator's, [PALETTE_SAMPLES, 3, r, r]."""
        side = min(WHOLE_SIDE, self.generator.config.resolution)
        return self.fixed_samples(tokens, PALETTE_SAMPLES, self.settings.truncation, side)

    @torch.no_grad()
    def finished(self, tokens: TokenSet) -> TokenSet:
        """A set as it is kept: with the hues of the references, where the settings ask for them."""
        if not self.settings.palette:
            return tokens
        return end_with_palette(tokens, self.generator, self.palette_samples(tokens), self.references.pixels)

    @property
    def at_once(self) -> int:
        """How many pictures are drawn at a time where nothing is learnt from them: memory is for those of a step."""
        return max(1, PIXELS // self.generator.config.resolution**2)

    @torch.no_grad()
    def distance(self, samples: Tensor) -> float:
        """Sliced Wasserstein distance of samples from the references, of features where there are some."""
        rng = random_source(self.seed, DISTANCE)
        if self.features is None:
            return float(sliced_pictures(shrink(samples, WHOLE_SIDE), self.references.small, rng))
        return float(sliced_features(self.features(samples), self.reference_features, rng))

    @cached_property
    def reference_features(self) -> Sequence[Tensor]:
        """Feature maps of all references."""
        with torch.no_grad():
            return () if self.features is None else self.features(self.references.pictures)

    @cached_property
    def typical_features(self) -> Sequence[Tensor]:
        """Feature maps [TYPICAL_SAMPLES, C, h, w] of plain samples."""
        if self.features is None:
            return ()
        rng = random_source(self.seed, TYPICAL)
        with torch.no_grad():
            w_plus = self.generator.sample(TYPICAL_SAMPLES, rng, self.settings.truncation)
            parts = [self.features(self.generator(some)) for some in w_plus.split(self.settings.batch)]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]


def feature_extractor(discriminator: Discriminator | None, perceptual: Perceptual | None) -> Features | None:
    """The features that terms compare: the discriminator's, or else the perceptual network's at 256 px."""
    if discriminator is not None:
        return discriminator.features
    return None if perceptual is None else lambda pictures: perceptual.embed(shrink(pictures, WHOLE_SIDE))


def check_sizes(
    config: GeneratorConfig, references: References, discriminator: Discriminator | None, inversions: Tensor | None
) -> None:
    """Raise ShapeError where something is not made for a generator of this config."""
    side = config.resolution
    if references.pictures.shape[1:] != (3, side, side):
        raise ShapeError(
            f"This generator takes pictures [N, 3, {side}, {side}], not {list(references.pictures.shape)}."
        )
    if discriminator is not None and discriminator.config.resolution != side:
        raise ShapeError(
            f"The discriminator is for {discriminator.config.resolution} pixels, the generator for {side}."
        )
    codes = (len(references), config.num_ws, config.w_dim)
    if inversions is not None and inversions.shape != codes:
        raise ShapeError(f"inversions must be w+ {list(codes)}, not {list(inversions.shape)}.")


def random_source(*path: int) -> torch.Generator:
    """The random generator of a place in the run, such as (seed, purpose, step)."""
    (number,) = np.random.SeedSequence(path).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(number) >> 1)
