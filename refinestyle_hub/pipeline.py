"""The parts of a model behind a few verbs: load and save, invert, render, generate, adapt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .adapt import Adaptation, AdaptOptions, AdaptState, Pictures, few_shot_adaptation, load_clips, text_adaptation
from .boundary.fields import check_options
from .boundary.paths import AnyPath
from .boundary.strengths_by_name import by_name
from .config import Fingerprint
from .editing.directions import Directions, Edits, apply
from .encoder.encoder import Encoder
from .errors import DomainError, no_such
from .faces.photo import read_photo, search_for
from .generators.base import Generator
from .generators.codes import fit_codes
from .generators.discriminator import Discriminator
from .generators.drawing import Rows, draw
from .generators.seeds import latents_of_seeds
from .hub.later import Later, LazyPart, then
from .hub.pretrained_pipeline import PretrainedPipeline
from .hub.push import Pushable
from .images import OutputType, PictureSource, to_output, to_tensor
from .inversion import Inversion, InversionSettings, OnStep, inversions
from .inversion.crops import invert_crops
from .losses.clip import Clip
from .losses.perceptual import Perceptual
from .runtime.defaults import standard_defaults
from .storage.fingerprint import check_base, check_latent_space
from .tokens.batch import Strength, strengths
from .tokens.token_set import TokenSet


if TYPE_CHECKING:
    from typing_extensions import Unpack


__all__ = ["RefineStylePipeline"]

Domains: TypeAlias = Mapping[str | TokenSet, Strength]  # strength by name or token set


class RefineStylePipeline(PretrainedPipeline, Pushable):
    """A generator with what belongs to it. Drawing changes nothing, so threads may share a pipeline.

    Raises:
        BaseMismatchError: A domain was made for another generator, or directions or an encoder for another latent
            space. ``allow_base_mismatch`` accepts other weights, never another architecture.
    """

    parts = {"generator": Generator, "discriminator": Discriminator, "encoder": Encoder, "directions": Directions}
    domain_class = TokenSet
    settings = {"inversion": InversionSettings}
    encoder = LazyPart[Encoder]()
    domains: dict[str, TokenSet]

    @standard_defaults()
    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | None = None,
        directions: Directions | None = None,
        domains: Mapping[str, TokenSet] | None = None,
        encoder: Encoder | Later[Encoder] | None = None,
        *,
        inversion: InversionSettings | None = None,
        allow_base_mismatch: bool = False,
    ) -> None:
        self.generator, self.discriminator, self.encoder = generator, discriminator, encoder
        self.directions = directions if directions is not None else Directions({})
        self.domains = dict(domains or {})
        self.inversion, self.allow_base_mismatch = inversion or InversionSettings(), allow_base_mismatch
        if self._shares_codes(self.directions.config.base, "The set of directions"):
            self.directions = self.directions.fit(generator.num_ws)
        if encoder is not None and self._shares_codes(encoder.config.base, "The encoder"):
            self.encoder = then(encoder, Encoder.without_tokens)
        for name, tokens in self.domains.items():
            self._check_base(tokens.base, f"The domain {name!r}")

    @standard_defaults()
    def invert(
        self,
        picture: PictureSource,
        *,
        steps: int | None = None,
        w_steps: int | None = None,
        tokens: bool = True,
        aligned: bool = False,
        face: int = 0,
        seed: int = 0,
        on_step: OnStep | None = None,
        settings: InversionSettings | None = None,
    ) -> Inversion:
        """Find w+ and tokens of a face: by the encoder, if there is one, and by optimisation.

        Args:
            picture: Path, file contents, open file, PIL image, or pixels as an array or tensor.
            steps: Steps of optimisation. None means 50 with an encoder, 270 without; 0 keeps the encoder's answer.
            w_steps: How many of them, the first ones, go to w+. None means 0 with an encoder, 40 % without.
            tokens: Whether tokens are found as well. Without, all steps go to w+.
            aligned: Whether the picture is a crop (its central square is taken). Otherwise a face is looked for.
            face: Which face is taken, the largest being 0.
            seed: The same seed gives the same result.
            on_step: A function called with (step, steps, metrics). If it returns True, the best so far is the result.
            settings: Weights and rates. None takes those of this model.

        Raises:
            PictureError, FaceNotFoundError: The picture cannot be used, or has no face of that number.
            MissingDependencyError: The face detector or the perceptual distance is not installed.
        """
        crop = read_photo(picture, search_for(aligned)).crop(self.generator.config.resolution, face)
        how: dict[str, Any] = {"steps": steps, "w_steps": w_steps, "tokens": tokens, "seed": seed, "on_step": on_step}
        (found,) = self.invert_crops(to_tensor(crop.image), **how, settings=settings or self.inversion)
        return found.in_photo(crop)

    @standard_defaults()
    def invert_crops(self, crops: Tensor, **how: Any) -> list[Inversion]:
        """``invert`` a batch of crops [N, 3, R, R] in [-1, 1] at once, see ``inversion.crops.invert_crops``."""
        mine: dict[str, Any] = {"encoder": self.encoder, "perceptual": self.perceptual, "base": self.fingerprint}
        return invert_crops(self.generator, crops.to(self.device), **mine | {"settings": self.inversion} | how)

    @standard_defaults()
    def render(
        self,
        face: Inversion | Sequence[Inversion],
        *,
        edits: Edits | None = None,
        domains: Domains | None = None,
        refine: Strength = 1.0,
        resolution: int | None = None,
        output_type: OutputType = "pil",
    ) -> Any:
        """Draw inverted faces, edited and in other domains: N pictures, or of one inversion its picture.

        Args:
            face: One inversion, or several.
            edits, domains: Strength by direction, and by domain or token set; a number, or one for each face [N].
            refine: Strength of the faces' own tokens, likewise; 0 draws w+ alone. Edits beside them have a ``gain``.
            resolution: Height and width, full unless given: a smaller one is drawn faster, see ``Generator.forward``.
            output_type: "pil" images, "np" uint8 [N, H, W, 3], or "pt" float [N, 3, H, W] in [-1, 1].

        Raises:
            DirectionError, DomainError: There is no direction or domain of that name.
            BaseMismatchError: The face or the domain was made for another generator.
        """
        faces = inversions(face)
        w_plus = torch.stack([self._codes(one).to(self.device) for one in faces])  # of files, they are on the CPU
        shares = strengths(refine, len(faces)).expand(len(faces)).tolist()
        rows = [[(self._adopted(one.tokens), s)] if one.tokens else None for one, s in zip(faces, shares, strict=True)]
        pictures = to_output(self._draw(w_plus, rows, edits, domains, resolution), output_type)
        return pictures[0] if isinstance(face, Inversion) else pictures

    @standard_defaults()
    def generate(
        self,
        seeds: Iterable[int] | int,
        *,
        truncation: float = 0.7,
        edits: Edits | None = None,
        domains: Domains | None = None,
        resolution: int | None = None,
        output_type: OutputType = "pil",
    ) -> Any:
        """Draw one picture for each seed; a seed is the latent that the published tools draw for it.

        Args:
            seeds: Whole numbers from 0 to 2**32 - 1, or one.
            truncation: 1 draws the samples as they are, 0 the mean face.
            edits, domains, resolution, output_type: As for ``render``.
        """
        z = latents_of_seeds(seeds, self.generator.config.z_dim)
        with torch.no_grad():
            w_plus = self.generator.map(z.to(self.device), truncation)
        return to_output(self._draw(w_plus, [None] * len(z), edits, domains, resolution), output_type)

    @standard_defaults()
    def adapt(
        self,
        pictures: Pictures,
        *,
        name: str = "",
        rights: str = "",
        on_step: OnStep | None = None,
        state: AnyPath | None = None,
        **options: Unpack[AdaptOptions],
    ) -> TokenSet:
        """Make a domain from 1 to 20 pictures of a style; they need neither be paired nor inverted.

        Args:
            pictures: Paths of pictures and folders, file contents, open files, PIL images, or pixels in memory.
            name: Kept in the domain's metadata, which say how it was made and what it was made without ("left_out").
            rights: What you state about your right to use the pictures; kept too, and asked for by ``push_to_hub``.
            on_step: A function called with (step, steps, metrics). If it returns True, the best so far is the result.
            state: A file to keep the run in. Where it exists, the run continues.
            options: steps, tokens, align, seed, settings and terms, see ``adapt.few_shot_adaptation``.

        Raises:
            PictureError, ConfigError, MissingDependencyError: See ``adapt.few_shot_adaptation``.
            DivergedError: A term is no longer finite; ``kept`` of the error is the domain that was reached before.
        """
        run = self.adaptation(pictures, AdaptState.at(state), **options)
        return run.make({"name": name, "rights": rights}, on_step, state)

    @standard_defaults()
    def adaptation(
        self, pictures: Pictures, state: AdaptState | None = None, **options: Unpack[AdaptOptions]
    ) -> Adaptation:
        """Begin ``adapt`` as a run whose steps the caller takes, see ``adapt.few_shot_adaptation``."""
        check_options(options, AdaptOptions.__annotations__)
        mine: dict[str, Any] = {"discriminator": self.discriminator, "encoder": self.encoder, "base": self.fingerprint}
        return few_shot_adaptation(self.generator, pictures, lambda: self.perceptual, state=state, **options, **mine)

    @standard_defaults()
    def adapt_text(
        self,
        source: str,
        target: str,
        *,
        clip: Sequence[AnyPath | Clip],
        name: str = "",
        on_step: OnStep | None = None,
        state: AnyPath | None = None,
        **how: Any,
    ) -> TokenSet:
        """Make a domain from a text, without pictures: ``adapt_text("a photo", "a pencil sketch", clip=[...])``.

        Args:
            source, target: What the generator draws, and what it shall draw.
            clip: One or two CLIP models: folders, Hub ids, or loaded ones.
            name, on_step, state: As for ``adapt``.
            how: steps, tokens, codes, seed and settings, see ``adapt.text_adaptation``.

        Raises:
            MissingDependencyError, ModelNotFoundError, UnsupportedModelError: No transformers, or no such CLIP.
            ConfigError: No text, or texts that mean the same to a CLIP; or ``state`` is of another run.
        """
        how = {"state": AdaptState.at(state), "with_discriminator": self.discriminator is not None} | how
        run = text_adaptation(self.generator, source, target, load_clips(clip, self.device), **how)
        return run.make({"name": name}, on_step, state)

    @property
    def device(self) -> torch.device:
        """The device of the generator."""
        return self.generator.device

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The generator's fingerprint, computed once."""
        return self.generator.fingerprint()

    @cached_property
    @torch.inference_mode(False)
    def perceptual(self) -> Perceptual:
        """The perceptual distance that inversions use; loaded on first use."""
        return Perceptual.load().to(self.device)

    def _check_base(self, base: Fingerprint | None, what: str) -> None:
        if base is not None:
            check_base(base, self.fingerprint, what=what, allow_base_mismatch=self.allow_base_mismatch)

    def _shares_codes(self, base: Fingerprint | None, what: str) -> bool:
        """Whether ``base`` has this generator's latent space, but other weights; BaseMismatchError for neither."""
        how: dict[str, Any] = {"what": what, "allow_base_mismatch": self.allow_base_mismatch}
        return base is not None and check_latent_space(base, self.fingerprint, **how)

    def _codes(self, face: Inversion) -> Tensor:
        """w+ [L, D] of a face for this generator, once it and its tokens are known to fit."""
        self._check_base(face.tokens.base if face.tokens else None, "The inversion")
        shares = self._shares_codes(face.base, "The inversion")
        return fit_codes(face.w_plus, self.generator.num_ws) if shares else face.w_plus

    def _adopted(self, tokens: TokenSet) -> TokenSet:
        """A set that passed ``_check_base``, on the device and as if made here: sets of two relatives may meet."""
        return replace(tokens.to(self.device), base=self.fingerprint)

    def domain(self, domain: str | TokenSet) -> TokenSet:
        """A domain by its name, or a token set, which must fit. Raises DomainError, BaseMismatchError."""
        if isinstance(domain, TokenSet):
            self._check_base(domain.base, "The token set")
        elif domain not in self.domains:
            raise DomainError(no_such("domain", domain, self.domains))
        return domain if isinstance(domain, TokenSet) else self.domains[domain]

    @torch.no_grad()
    def _draw(
        self, w_plus: Tensor, rows: Rows, edits: Edits | None, domains: Domains | None, resolution: int | None
    ) -> Tensor:
        """w+ [N, L, D] and each picture's own tokens -> pictures [N, 3, H, W], clamped."""
        n, refine = len(w_plus), torch.tensor([min(1.0, sum(abs(s) for _, s in row or ())) for row in rows])
        edits, domains = by_name(edits, "edits", "{'smile': 1.5}"), by_name(domains, "domains", "{'sketch': 0.7}")
        w_plus = apply(w_plus, edits, self.directions, refine)
        shared = [(self._adopted(self.domain(d)), strengths(s, n).float().expand(n)) for d, s in domains.items()]
        return draw(self.generator, w_plus, rows, shared, resolution)
