"""The parts of a model behind a few verbs: invert a photo, render it edited, generate, paste back."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .adapt import STEPS as ADAPT_STEPS
from .adapt import Adaptation, AdaptSettings, AdaptState, Align, References, Term, load_references, preset
from .adapt.text import TEXT_STEPS, load_clips, text_adaptation
from .config import Fingerprint
from .editing.directions import Directions, apply
from .encoder.encoder import Encoder
from .errors import ConfigError, DomainError, ShapeError
from .faces.align import crop_face, paste_back
from .generators.discriminator import Discriminator
from .generators.stylegan2 import Generator
from .hub.push import Pushable
from .hub.sources import HubOptions, open_source
from .images import PictureSource, load_picture, to_images, to_tensor
from .inversion.inversion import Inversion
from .inversion.inversion_settings import InversionSettings, planned_steps
from .inversion.optimise import OnStep, invert
from .losses.clip import Clip
from .losses.perceptual import Perceptual
from .storage.fingerprint import check_base, fingerprint
from .storage.index import PipelineIndex, join, read_index, save_index
from .tokens.batch import Strength, TokenBatch, strengths
from .tokens.token_set import TokenSet


if TYPE_CHECKING:
    from typing_extensions import Unpack


__all__ = ["OutputType", "RefineStylePipeline"]

OutputType: TypeAlias = Literal["pil", "np", "pt"]
BATCH = 8  # pictures drawn at once


class RefineStylePipeline(Pushable):
    """A generator with what belongs to it. Drawing changes nothing, so threads may share a pipeline.

    Raises:
        BaseMismatchError: directions, an encoder or a domain were made for another generator (``allow_base_mismatch``
            accepts other weights, never another architecture).
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | None = None,
        directions: Directions | None = None,
        domains: Mapping[str, TokenSet] | None = None,
        encoder: Encoder | None = None,
        *,
        allow_base_mismatch: bool = False,
    ) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.encoder = encoder
        self.directions = directions if directions is not None else Directions({})
        self.domains = dict(domains or {})
        self.allow_base_mismatch = allow_base_mismatch
        self._check_base(self.directions.config.base, "The set of directions")
        self._check_base(None if encoder is None else encoder.config.base, "The encoder")
        for name, tokens in self.domains.items():
            self._check_base(tokens.base, f"The domain {name!r}")

    # --- Files ---

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        device: torch.device | str = "cpu",
        allow_base_mismatch: bool = False,
        **options: Unpack[HubOptions],
    ) -> RefineStylePipeline:
        """Load a bundled model, a local folder or a Hub repo with a ``model_index.json``; the generator is frozen.

        Args:
            subfolder, variant: see ``Pretrained.from_pretrained``.
            device: where the networks go.
            allow_base_mismatch: accept directions, encoder and domains made for other weights.
            options: revision, token, cache_dir and local_files_only, for the Hub: see ``HubOptions``.

        Raises:
            ModelNotFoundError: no such model, or a part that its index names is missing.
            ModelFileError, ConfigError: a file is damaged or of a newer format.
            BaseMismatchError: parts that were made for another generator.
        """
        source = open_source(name_or_path, **options)
        index = read_index(source, subfolder)
        generator = Generator.from_source(source, subfolder=join(subfolder, "generator"), variant=variant)
        discriminator, directions, encoder = None, None, None
        if "discriminator" in index.parts:
            place = join(subfolder, "discriminator")
            discriminator = Discriminator.from_source(source, subfolder=place, variant=variant)
        if "encoder" in index.parts:
            encoder = Encoder.from_source(source, subfolder=join(subfolder, "encoder"), variant=variant)
        if "directions" in index.parts:
            directions = Directions.from_source(source, subfolder=join(subfolder, "directions"))
        domains = {n: TokenSet.from_source(source, subfolder=join(subfolder, f"domains/{n}")) for n in index.domains}
        pipe = cls(generator, discriminator, directions, domains, encoder, allow_base_mismatch=allow_base_mismatch)
        pipe.generator.requires_grad_(False)
        return pipe.to(device)

    def save_pretrained(self, folder: str | os.PathLike[str], variant: str | None = None) -> None:
        """Write every part into ``folder``, and last the index that names them.

        Args:
            folder: made when it does not exist.
            variant: of the networks: None for float32, "fp16" for half precision.
        """
        folder = Path(folder)
        index = PipelineIndex(self._parts(), tuple(self.domains))
        self.generator.save_pretrained(folder / "generator", variant)
        if self.discriminator is not None:
            self.discriminator.save_pretrained(folder / "discriminator", variant)
        if self.encoder is not None:
            self.encoder.save_pretrained(folder / "encoder", variant)
        if self.directions:
            self.directions.save_pretrained(folder / "directions")
        for name, tokens in self.domains.items():
            tokens.save_pretrained(folder / "domains" / name)
        save_index(folder, index)

    def _parts(self) -> tuple[str, ...]:
        parts = {
            "discriminator": self.discriminator is not None,
            "encoder": self.encoder is not None,
            "directions": bool(self.directions),
        }
        return ("generator", *(name for name, there in parts.items() if there))

    def to(self, device: torch.device | str) -> RefineStylePipeline:
        """Move the networks; returns the pipeline."""
        for network in (self.generator, self.discriminator, self.encoder):
            if network is not None:
                network.to(device)
        if "perceptual" in self.__dict__:  # loaded already
            self.perceptual.to(device)
        return self

    # --- Verbs ---

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
        """Find w+ and tokens of a face: by the encoder, if there is one, and by optimisation, see ``inversion``.

        Args:
            picture: path, file contents, open file or PIL image.
            steps: of optimisation; None: 50 from an encoder's answer, 270 without an encoder. 0: that answer.
            w_steps: how many of them, the first ones, go to w+; the others go to the tokens. None: 0 from an encoder's
                answer, 40 % without an encoder.
            tokens: False finds w+ alone, and spends all steps on it (``w_steps`` are the same).
            aligned: the picture is a crop already; its central square is taken. Otherwise a face is looked for.
            face: which one, the largest being 0.
            seed: the same seed gives the same result.
            on_step: called with (step, steps, figures); True stops and keeps the best so far.
            settings: weights and rates.

        Raises:
            PictureError: not a picture that can be used.
            FaceNotFoundError: no face, or none of that number.
            MissingDependencyError: the face detector or the perceptual distance is not installed.
        """
        size = self.generator.config.resolution
        found = None if aligned else crop_face(picture, size, face)
        image = load_picture(picture) if found is None else found.image
        inversion = self.invert_crops(to_tensor(image, size), steps=steps, w_steps=w_steps, tokens=tokens, seed=seed,
                                      on_step=on_step, settings=settings)[0]  # fmt: skip
        if found is None:
            return inversion
        return replace(inversion, quad=torch.from_numpy(found.quad).float(), source_size=found.source_size)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def invert_crops(
        self,
        crops: Tensor,
        *,
        steps: int | None = None,
        w_steps: int | None = None,
        tokens: bool = True,
        seed: int = 0,
        on_step: OnStep | None = None,
        settings: InversionSettings | None = None,
    ) -> list[Inversion]:
        """``invert`` for a batch of crops [N, 3, R, R] in [-1, 1], which share the steps.

        Raises ShapeError for crops of another size, ConfigError for steps that do not add up.
        """
        began = time.monotonic()
        crops = crops.to(self.device)
        start, sets = None, None
        if self.encoder is not None:
            with torch.no_grad():
                start, read = self.encoder(crops, self.generator) if tokens else (self.encoder.codes(crops), None)
            sets = read.unbind(self.fingerprint) if read is not None and read.own else None
        w_steps, token_steps = planned_steps(steps, w_steps, tokens=tokens, started=start is not None)
        found = invert(
            self.generator,
            crops,
            w_steps=w_steps,
            token_steps=token_steps,
            start=start,
            start_tokens=sets,
            seed=seed,
            perceptual=self.perceptual,
            on_step=on_step,
            settings=settings,
        )
        seconds = {"seconds": round(time.monotonic() - began, 3)}  # with the encoder's look
        return [replace(one, report={**one.report, **seconds}) for one in found]

    def render(
        self,
        face: Inversion | Sequence[Inversion],
        *,
        edits: Mapping[str, float | Tensor] | None = None,
        domains: Mapping[str | TokenSet, Strength] | None = None,
        refine: Strength = 1.0,
        output_type: OutputType = "pil",
    ) -> Any:
        """Draw inverted faces, edited and in other domains.

        Args:
            face: one inversion, or several.
            edits: direction -> strength, a number or one for each face [N].
            domains: name (or token set) -> strength, likewise.
            refine: strength of the faces' own tokens, likewise; 0 draws w+ alone.
            output_type: "pil" images, "np" uint8 [N, H, W, 3], or "pt" float [N, 3, H, W] in [-1, 1].

        Returns:
            A list or array of N pictures; of one inversion, its picture.

        Raises:
            DirectionError, DomainError: no direction or domain of that name.
            BaseMismatchError: the face or the domain was made for another generator.
        """
        single = isinstance(face, Inversion)
        faces = [face] if isinstance(face, Inversion) else list(face)
        if not faces:
            raise ShapeError("There is no face to draw: give one inversion or several.")
        for part in (part for one in faces for part in (one, one.tokens) if part):
            self._check_base(part.base, "The inversion")
        w_plus = torch.stack([one.w_plus for one in faces])
        shares = strengths(refine, len(faces)).expand(len(faces)).tolist()
        rows = [[(self._adopted(one.tokens), s)] if one.tokens else None for one, s in zip(faces, shares, strict=True)]
        pictures = _output(self._draw(w_plus, rows, edits or {}, domains or {}), output_type)
        return pictures[0] if single else pictures

    def generate(
        self,
        seeds: Iterable[int],
        *,
        truncation: float = 0.7,
        edits: Mapping[str, float | Tensor] | None = None,
        domains: Mapping[str | TokenSet, Strength] | None = None,
        output_type: OutputType = "pil",
    ) -> Any:
        """Draw one picture for each seed; a seed is the latent that the published tools draw for it.

        Args:
            seeds: 0 to 2**32 - 1.
            truncation: 1 as drawn, 0 the mean face.
            edits, domains, output_type: as for ``render``.
        """
        drawn = [self._latent(seed) for seed in seeds]
        if not drawn:
            raise ConfigError("There is nothing to draw: give at least one seed.")
        z = torch.from_numpy(np.stack(drawn)).float()
        with torch.no_grad():
            w_plus = self.generator.map(z.to(self.device), truncation)
        return _output(self._draw(w_plus, [None] * len(z), edits or {}, domains or {}), output_type)

    def adapt(
        self,
        pictures: PictureSource | Sequence[PictureSource] | References,
        *,
        name: str = "",
        rights: str = "",
        steps: int = ADAPT_STEPS,
        tokens: int = 4,
        align: Align = "auto",
        seed: int = 0,
        on_step: OnStep | None = None,
        state: str | os.PathLike[str] | None = None,
        settings: AdaptSettings | None = None,
        terms: Sequence[Term] = (),
    ) -> TokenSet:
        """Make a domain from 1 to 20 pictures of a style; they need neither be paired nor inverted.

        Args:
            pictures: paths of pictures and folders, file contents, open files or PIL images.
            name: kept in the domain's metadata.
            rights: what you state about your right to use the pictures; kept too, and asked for by ``push_to_hub``.
            steps: of optimisation.
            tokens: T, tokens per layer.
            align: "auto" cuts faces out where they are found and uses other pictures as they are; "none" uses all so.
            seed: the same seed gives the same result.
            on_step: called with (step, steps, figures); True stops and keeps the best so far.
            state: file to keep the run in; where it exists, the run goes on.
            settings: weights and rates, with a number of tokens of their own; None: what suits so many pictures.
            terms: more terms of the objective, see ``adapt.Term``.

        Returns:
            The domain. Its metadata say how it was made, and under "left_out" which terms this model cannot have.

        Raises:
            PictureError: a picture cannot be used; the message names it.
            ConfigError: not 1 to 20 pictures; ``state`` is of another run.
            DivergedError: a term is no longer finite; ``kept`` of the error is the domain that was reached before.
            MissingDependencyError: the face detector is not installed ("none" does without), or, for one to four
                pictures or without a discriminator, the perceptual distance.
        """
        saved = None if state is None or not Path(state).exists() else AdaptState.load(state)
        run = self.adaptation(pictures, steps=steps, tokens=tokens, align=align, seed=seed, state=saved,
                              settings=settings, terms=terms)  # fmt: skip
        return run.make({key: text for key, text in (("name", name), ("rights", rights)) if text}, on_step, state)

    def adaptation(
        self,
        pictures: PictureSource | Sequence[PictureSource] | References,
        *,
        steps: int = ADAPT_STEPS,
        tokens: int = 4,
        align: Align = "auto",
        seed: int = 0,
        state: AdaptState | None = None,
        settings: AdaptSettings | None = None,
        terms: Sequence[Term] = (),
    ) -> Adaptation:
        """``adapt`` as a run whose steps the caller takes, with previews; ``state``: of the run to go on with."""
        size = self.generator.config.resolution
        found = pictures if isinstance(pictures, References) else load_references(pictures, size, align)
        settings = settings or preset(len(found), tokens)
        inversions, perceptual = None, None
        if settings.reconstruction and self.encoder is not None:
            with torch.no_grad():
                inversions = self.encoder.codes(found.pictures.to(self.device))
        if self.discriminator is None or (settings.reconstruction and inversions is None):
            perceptual = self.perceptual
        return Adaptation(
            self.generator,
            found,
            steps=steps,
            settings=settings,
            seed=seed,
            discriminator=self.discriminator,
            perceptual=perceptual,
            inversions=inversions,
            terms=terms,
            state=state,
        )

    def adapt_text(
        self,
        source: str,
        target: str,
        *,
        clip: Sequence[str | os.PathLike[str] | Clip],
        name: str = "",
        steps: int = TEXT_STEPS,
        tokens: int = 4,
        codes: int | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        state: str | os.PathLike[str] | None = None,
        settings: AdaptSettings | None = None,
    ) -> TokenSet:
        """Make a domain from a text, without pictures: ``adapt_text("a photo", "a pencil sketch", clip=[...])``.

        Args:
            source, target: what the generator draws, and what it shall draw.
            clip: one or two CLIP models: folders, Hub ids, or loaded ones.
            codes: refine only the layers of so many w+ codes, chosen by the text; None: all.
            name, steps, tokens, seed, on_step, state, settings: as for ``adapt``.

        Raises:
            MissingDependencyError: transformers is not installed.
            ModelNotFoundError, UnsupportedModelError: no such CLIP.
            ConfigError: no text, or texts that mean the same to a CLIP; ``state`` is of another run.
        """
        saved = None if state is None or not Path(state).exists() else AdaptState.load(state)
        clips = load_clips(clip, self.device)
        run = text_adaptation(self.generator, source, target, clips, steps=steps, tokens=tokens, codes=codes,
                              seed=seed, settings=settings, state=saved)  # fmt: skip
        return run.make({"name": name} if name else {}, on_step, state)

    def paste_back(self, picture: PictureSource, face: Inversion, edited: Image.Image) -> Image.Image:
        """Lay an edited picture of ``face`` back into the photo that it was found in.

        Raises:
            ShapeError: the inversion is of an aligned crop, or of another photo.
        """
        photo = load_picture(picture)
        if face.quad is None or face.source_size is None:
            raise ShapeError("This inversion is of an aligned crop: there is no photo to paste it back into.")
        if photo.size != face.source_size:
            raise ShapeError(f"The face was found in a photo of {face.source_size} pixels, this one is {photo.size}.")
        return paste_back(photo, edited, face.quad.double().numpy())

    # --- What they share ---

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return self.generator.mapping.w_avg.device

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The generator's; taken once."""
        return fingerprint(self.generator)

    @cached_property
    def perceptual(self) -> Perceptual:
        """The perceptual distance that inversions use; loaded on first use."""
        return Perceptual.load().to(self.device)

    def _check_base(self, base: Fingerprint | None, what: str) -> None:
        if base is not None:
            check_base(base, self.fingerprint, what=what, allow_base_mismatch=self.allow_base_mismatch)

    def _adopted(self, tokens: TokenSet) -> TokenSet:
        """A set that passed ``_check_base``, on the device and as if made here: sets of two relatives may meet."""
        return replace(tokens.to(self.device), base=self.fingerprint)

    def _latent(self, seed: int) -> Any:
        if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
            raise ConfigError(f"A seed is a whole number from 0 to {2**32 - 1}, not {seed}.")
        return np.random.RandomState(seed).randn(self.generator.config.z_dim)  # noqa: NPY002  as the published tools

    def _domain(self, domain: str | TokenSet) -> TokenSet:
        if isinstance(domain, TokenSet):
            self._check_base(domain.base, "The token set")
            return domain
        if domain not in self.domains:
            close = difflib.get_close_matches(domain, self.domains, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(sorted(self.domains)) or "none"
            raise DomainError(f"No domain {domain[:60]!r}.{hint}\nKnown: {known}.")
        return self.domains[domain]

    @torch.no_grad()
    def _draw(
        self,
        w_plus: Tensor,
        rows: Sequence[list[tuple[TokenSet, float]] | None],
        edits: Mapping[str, float | Tensor],
        domains: Mapping[str | TokenSet, Strength],
    ) -> Tensor:
        """w+ [N, L, D] and each picture's own tokens -> pictures [N, 3, H, W], clamped."""
        n = len(w_plus)
        w_plus = apply(w_plus.to(self.device), edits, self.directions)
        shared = [(self._adopted(self._domain(d)), strengths(s, n).float().expand(n)) for d, s in domains.items()]
        pictures = []
        for first in range(0, n, BATCH):
            part = slice(first, first + BATCH)
            tokens = TokenBatch.collate(rows[part], [(d, s[part]) for d, s in shared])
            pictures.append(self.generator(w_plus[part], tokens))
        return torch.cat(pictures).clamp(-1, 1)


def _output(pictures: Tensor, output_type: OutputType) -> Any:
    if output_type == "pt":
        return pictures
    images = to_images(pictures)
    if output_type == "pil":
        return images
    if output_type == "np":
        return np.stack([np.asarray(image) for image in images])
    raise ConfigError(f"output_type must be 'pil', 'np' or 'pt', not {output_type!r}.")
