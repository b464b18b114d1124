"""What happens in Stylise: domains on the face of the session, or on random ones.

The docstring of ``stylise`` is what clients of the API read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gradio as gr
import numpy as np

from .. import limits, messages, tokenfiles
from ..images import Pixels, film_file, png_file, side_by_side
from ..jobs import Faces, Jobs, RenderSpec
from ..session import Shelf, Subject
from ..strengths import checked_domains, checked_edits
from ..updates import hide, show


__all__ = ["FACE", "FADE", "RANDOM", "TOUR", "StyliseHandlers", "morph"]

FACE, RANDOM = "my face", "random faces"
FADE, TOUR = "in and out", "from one domain to the next"
DOWNLOAD = "refinestyle-domain.png"
GRID = "refinestyle-all-domains.png"

Pair: TypeAlias = tuple[str, str]  # PNG files
Mix: TypeAlias = dict[str, float]  # strength by domain, or by direction


class StyliseHandlers:
    """The handlers of Stylise for one pipeline."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def names(self, shelf: Shelf) -> list[str]:
        """Domains of the model, then those of the session."""
        return list(dict.fromkeys([*self.jobs.pipe.domains, *shelf.domains]))

    # --- Choosing ---

    def enter(
        self, on: str, seed: float | None, mix: Mix, subject: Subject | None, edits: Mix, shelf: Shelf
    ) -> tuple[Any, ...]:
        """The tab was opened: a picture in each domain, what can be chosen, and a slider for each that is."""
        with messages.explained():
            names = self.names(shelf)
            chosen = [name for name in mix if name in names] or names[:1]
            choices = gr.update(choices=names, value=chosen, visible=bool(names))
            sliders = self.choose(chosen, mix)
            if not names:
                return hide(), show(messages.NO_DOMAINS), choices, *sliders
            pictures = self._each(self._faces(on, seed, subject, count=1), on, edits, shelf)
            captioned = [(png_file(drawn[0]), name) for name, drawn in zip(names, pictures[1:], strict=True)]
            return show(captioned), hide(), choices, *sliders

    def toggle(self, chosen: list[str], shelf: Shelf, event: gr.SelectData) -> list[str]:
        """A picture of the gallery was clicked: its domain is chosen, or not any more."""
        names = self.names(shelf)
        if not 0 <= event.index < len(names):
            return chosen
        name = names[event.index]
        return [other for other in chosen if other != name] if name in chosen else [*chosen, name][-limits.MIXED :]

    def choose(self, chosen: list[str], mix: Mix) -> tuple[Any, ...]:
        """Other domains were chosen: a slider for each; those that stay keep their strength."""
        strengths = {name: mix.get(name, 1.0) for name in chosen[: limits.MIXED]}
        sliders = [gr.update(label=name, value=strength, visible=True) for name, strength in strengths.items()]
        return strengths, *sliders, *[hide(0.0) for _ in range(limits.MIXED - len(sliders))]

    def others(self, seed: float | None) -> tuple[str, int]:
        """Other random faces, also where the visitor's own was shown."""
        return RANDOM, limits.seed(limits.seed(seed) + limits.SEEDS)

    # --- Drawing ---

    def stylise(
        self,
        domains: Mix | None,
        on: str,
        seed: float | None,
        subject: Subject | None,
        kept: Mix,
        shelf: Shelf,
        inversion_file: str | None = None,
        edits: dict[str, Any] | None = None,
        domain_file: str | None = None,
    ) -> tuple[Pair, str, Any]:
        """Draw a face in a mix of domains: that of a file, or of the last /invert of this session, or random ones.

        Args:
            domains: strength by domain, such as {"sketch": 0.7, "bronze": 0.3}, each -0.5 to 1.5; 1 is as it was made.
            on: "my face", that of the session, or "random faces"; a face that is given as a file goes before both.
            seed: of the first of four random faces; the same seed gives the same faces.
            inversion_file: the .safetensors file of a face, from /invert or /export; the session stays as it is.
            edits: of that face or of "my face", as /edit takes them; left out, "my face" has those of the last /edit.
            domain_file: the .safetensors file of one more domain, from /adapt or /export; without domains, it is at 1.

        Returns:
            The picture without and with the domains, and the second as a PNG file.
        """
        with messages.explained():
            pipe = self.jobs.pipe
            if domain_file:
                domain = tokenfiles.read_domain(domain_file, pipe)
                name = tokenfiles.name_of(domain, domain_file)
                shelf, domains = shelf.with_domain(name, domain), domains or {name: 1.0}
            mix = checked_domains(domains or {}, self.names(shelf))
            faces: Faces
            if inversion_file:
                on, kept, faces = FACE, {}, tokenfiles.read_inversion(inversion_file, pipe)
            else:
                faces = self._faces(on, seed, subject)
            if edits is not None:
                kept = checked_edits(edits, list(pipe.directions))
            specs = [self._spec(on, kept), self._spec(on, kept, mix)]
            plain, styled = (side_by_side(pictures, 2) for pictures in self.jobs.draw(faces, specs, shelf.domains))
            shown_mix = gr.skip() if inversion_file or domain_file else mix
            return (png_file(plain), png_file(styled)), png_file(styled, DOWNLOAD), shown_mix

    def stylise_live(
        self,
        chosen: list[str],
        on: str,
        seed: float | None,
        subject: Subject | None,
        edits: Mix,
        shelf: Shelf,
        *strengths: float,
    ) -> tuple[Pair, Any, Any]:
        """``stylise`` with one value for each slider."""
        mix = dict(zip(chosen, strengths, strict=False))
        pair, file, mix = self.stylise(mix, on, seed, subject, edits, shelf)
        return pair, gr.update(value=file, interactive=True), mix

    def grid(self, on: str, seed: float | None, subject: Subject | None, edits: Mix, shelf: Shelf) -> tuple[Any, Any]:
        """An image grid of every face in every domain: a row for each face, its first picture without a domain."""
        with messages.explained():
            if not self.names(shelf):
                raise messages.refuse(messages.NO_DOMAINS.replace("**", ""))
            drawn = self._each(self._faces(on, seed, subject), on, edits, shelf)
            rows = [picture for person in zip(*drawn, strict=True) for picture in person]
            file = png_file(side_by_side(rows, len(drawn), 256), GRID)
            return show(file), show(file)

    def film(
        self, kind: str, mix: Mix, on: str, seed: float | None, subject: Subject | None, edits: Mix, shelf: Shelf
    ) -> tuple[Any, Any]:
        """A morph: the mix comes and goes, or each chosen domain turns into the next. To look at, and to download."""
        with messages.explained():
            mix = checked_domains(mix, self.names(shelf))
            if not mix:
                raise messages.refuse(messages.NO_MIX)
            ends: list[Mix] = (
                [{}, mix] if kind == FADE else [{}, *({name: strength} for name, strength in mix.items())]
            )
            specs = [self._spec(on, edits, between) for between in morph(ends, limits.FILM)]
            faces = self._faces(on, seed, subject)
            drawn: list[list[Pixels]] = []
            for first in range(0, len(specs), 4):  # a turn each
                drawn += self.jobs.draw(faces, specs[first : first + 4], shelf.domains)
            file = film_file([side_by_side(pictures, 2) for pictures in drawn])
            return show(file), show(file)

    # --- Parts of these ---

    def _each(self, faces: Faces, on: str, edits: Mix, shelf: Shelf) -> list[list[Pixels]]:
        """Plain, then in each domain."""
        specs = [self._spec(on, edits), *(self._spec(on, edits, {name: 1.0}) for name in self.names(shelf))]
        return self.jobs.draw(faces, specs, shelf.domains)

    def _spec(self, on: str, edits: Mix, domains: Mapping[str, float] | None = None) -> RenderSpec:
        return RenderSpec(edits if on == FACE else {}, domains or {})

    def _faces(self, on: str, seed: float | None, subject: Subject | None, count: int = limits.SEEDS) -> Faces:
        if on == FACE:
            if subject is None:
                raise messages.refuse(messages.NOT_INVERTED)
            return subject.inversion
        first = limits.seed(seed)
        return tuple(range(first, first + count))


def morph(ends: Sequence[Mix], count: int) -> list[Mix]:
    """``count`` mixes from the first of ``ends`` to the last, slowly away from each and slowly up to the next."""
    frames = []
    for place in np.linspace(0, len(ends) - 1, count):
        left = min(int(place), len(ends) - 2)
        share = 0.5 - 0.5 * math.cos(math.pi * (place - left))
        before, after = ends[left], ends[left + 1]
        names = dict.fromkeys([*before, *after])
        frames.append({n: (1 - share) * before.get(n, 0.0) + share * after.get(n, 0.0) for n in names})
    return frames
