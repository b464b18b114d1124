"""What happens in Style: domains on the face of the canvas, and all of them side by side.

The docstring of ``stylise`` is what clients of the API read.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import gradio as gr
import numpy as np

from refinestyle_hub.boundary.numbers import MAX_SEED
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.tokens.token_set import TokenSet

from .. import limits, messages, tokenfiles
from ..files import cache_file, film_file, picture_file
from ..images import Pixels, side_by_side, webp
from ..jobs import Faces, RenderSpec
from ..page import visible
from ..session import CHANGING, Look, Session, clean_name
from ..strengths import checked_domains, checked_edits
from .canvas_handlers import CanvasHandlers, Pair


FACE, RANDOM = "my face", "random faces"
ROW = 4  # pictures of the gallery beside each other
FADE, TOUR = "the face becomes what it is now", "from one chosen style to the next"
STYLED = "refinestyle-domain.png"
SHEET = "refinestyle-all-domains.png"

Mix: TypeAlias = dict[str, float]  # strength by domain, or by direction


class StyleHandlers:
    """The handlers of Style for one pipeline."""

    def __init__(self, canvas: CanvasHandlers) -> None:
        self.canvas = canvas
        self.jobs = canvas.jobs

    # --- Choosing ---

    def enter(self, session: Session) -> Iterator[tuple[Any, Any]]:
        """The tab was opened: the face in each domain, row by row. Where there was a picture, it stays until then."""
        with messages.explained():
            names, look = self.canvas.domains(session), session.look
            if not names:
                yield visible(), visible(messages.NO_DOMAINS)
            for first in range(0, len(names), ROW):
                looks = [replace(look, domains={name: 1.0}) for name in names[first : first + ROW]]
                drawn = self.canvas.drawn(session, looks, limits.THUMB)
                pictures = [cache_file(webp(picture), "style.webp") for picture in drawn]
                session.tiles.update(zip(names[first:], pictures, strict=False))
                yield visible([(session.tiles[name], name) for name in names if name in session.tiles]), visible()

    def toggle(self, session: Session, event: gr.SelectData) -> None:
        """A picture of the gallery was clicked: its domain is chosen, or not any more."""
        with CHANGING:
            names, chosen = self.canvas.domains(session), list(session.look.domains)
            if 0 <= event.index < len(names):
                name = names[event.index]
                self.choose(session, [one for one in chosen if one != name] if name in chosen else [*chosen, name])

    def choose(self, session: Session, chosen: list[str]) -> None:
        """Other domains were chosen. One too many takes the place of the first."""
        known, look = self.canvas.domains(session), session.look
        mix = shared(look.domains, [name for name in chosen if name in known][-limits.MIXED :])
        session.put(replace(look, domains=mix))

    def keep(self, session: Session, name: str | None) -> str:
        """The mix becomes a domain of the session; the picture stays as it is."""
        with messages.explained():
            mix = {n: s for n, s in session.look.domains.items() if s}
            if not mix:
                raise messages.refuse(messages.NO_MIX)
            pipe, shelf = self.jobs.pipe, session.shelf
            parts = {shelf.domains.get(part) or pipe.domain(part): strength for part, strength in mix.items()}
            title = clean_name(name, "-".join(mix)[: limits.MAX_NAME])
            mixed = TokenSet.mix(parts)
            named = replace(mixed, metadata={**mixed.metadata, "name": title})  # of one style, it would be that one's
            kept = shelf.add(title, named, pipe.domains)
            session.put(replace(session.look, domains={kept: 1.0}))
            return f"**{html.escape(kept)}** is kept for this session; Share has its file."

    # --- All of them ---

    def sheet(self, session: Session) -> tuple[Any, Any]:
        """The face of the canvas and three drawn people in every domain: a row each, the first without any."""
        with messages.explained():
            names, look = self.canvas.domains(session), session.look
            if not names:
                raise messages.refuse(messages.NO_DOMAINS.replace("**", ""))
            mixes: list[Mix] = [{}, *({name: 1.0} for name in names)]
            mine = self.canvas.drawn(session, [replace(look, domains=mix) for mix in mixes], limits.THUMB)
            seeds, specs = tuple(range(limits.SEEDS - 1)), [RenderSpec(domains=mix) for mix in mixes]
            others = self.jobs.draw(seeds, specs, session.shelf.domains, limits.THUMB)
            rows = [mine, *zip(*others, strict=True)]
            file = picture_file(side_by_side([picture for row in rows for picture in row], len(mine)), SHEET)
            return visible(file), visible(file)

    def film(self, session: Session, kind: str) -> tuple[Any, Any]:
        """The face turns into what it is now, or goes from one chosen domain to the next."""
        with messages.explained():
            look = session.look
            if kind == TOUR:
                ends = [replace(look, domains={}), *(replace(look, domains={n: s}) for n, s in look.domains.items())]
            else:
                ends = [Look(look.source), look]
            if not (look.domains or (look.edits and kind != TOUR)):
                raise messages.refuse(messages.NO_MIX if kind == TOUR else messages.NO_CHANGE)
            edits, domains = morph([e.edits for e in ends], limits.FILM), morph([e.domains for e in ends], limits.FILM)
            looks = [Look(look.source, *pair) for pair in zip(edits, domains, strict=True)]
            drawn: list[Pixels] = []
            for first in range(0, len(looks), 4):  # a turn each
                drawn += self.canvas.drawn(session, looks[first : first + 4], limits.DRAG_SIDE)
            file = film_file(drawn)
            return visible(file), visible(file)

    # --- For clients of the API ---

    def stylise(
        self, domains: Mix | None, on: str, seed: int, session: Session, inversion_file: str | None = None,
        edits: dict[str, Any] | None = None, domain_file: str | None = None,
    ) -> tuple[Pair, str, Session]:  # fmt: skip
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
            pipe, sets, kept = self.jobs.pipe, session.shelf.domains, session.look.edits
            if domain_file:
                domain = tokenfiles.read(TokenSet, domain_file, pipe)
                name = tokenfiles.name_of(domain, domain_file)
                sets, domains = {**sets, name: domain}, domains or {name: 1.0}
            mix = checked_domains(domains or {}, list({**pipe.domains, **sets}))
            faces: Faces
            if inversion_file:
                kept, faces = {}, tokenfiles.read(Inversion, inversion_file, pipe)
            elif on == FACE:
                faces = self.canvas.own(session).inversion
            else:
                kept, faces = {}, tuple((seed + i) % (MAX_SEED + 1) for i in range(limits.SEEDS))
            if edits is not None:
                checked = checked_edits(edits, list(pipe.directions))
                kept = kept if isinstance(faces, tuple) else checked
            drawn = self.jobs.draw(faces, [RenderSpec(kept), RenderSpec(kept, mix)], sets)
            plain, styled = (side_by_side(pictures, 2) for pictures in drawn)
            return (picture_file(plain), picture_file(styled)), picture_file(styled, STYLED), session


def shared(before: Mapping[str, float], chosen: Sequence[str]) -> Mix:
    """Strengths of the chosen domains: a new one gets an equal share of 1, for which the others make room.

    Where they were a whole they still are when one leaves. Two in full would tear the face.
    """
    kept = {name: before[name] for name in chosen if name in before}
    room, held = len(kept) / max(len(chosen), 1), sum(map(abs, kept.values()))
    new, whole = len(kept) < len(chosen), sum(map(abs, before.values())) > 0.95
    if held > room if new else whole and 0 < held < room:
        kept = {n: max(limits.DOMAIN_STRENGTHS[0], round(s * room / held, 2)) for n, s in kept.items()}
    return {name: kept.get(name, round(1 / len(chosen), 2)) for name in chosen}


def morph(ends: Sequence[Mapping[str, float]], count: int) -> list[Mix]:
    """``count`` mixes from the first of ``ends`` to the last, slowly away from each and slowly up to the next."""
    names = dict.fromkeys(name for end in ends for name in end)
    places = np.linspace(0, len(ends) - 1, count)
    eased = np.floor(places) + 0.5 - 0.5 * np.cos(np.pi * (places % 1))
    ways = {n: np.interp(eased, range(len(ends)), [end.get(n, 0.0) for end in ends]).tolist() for n in names}
    return [{n: way[frame] for n, way in ways.items() if way[frame]} for frame in range(count)]
