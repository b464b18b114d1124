"""What happens on the canvas: whatever changes the look, ``draw`` shows it.

The docstring of ``edit`` is what clients of the API read.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import urlencode

import gradio as gr
import numpy as np
from PIL import Image

from refinestyle_hub.faces.paste import paste_back
from refinestyle_hub.inversion.inversion import Inversion

from .. import limits, messages, tokenfiles
from ..files import cache_file, marked, picture_file
from ..images import Pixels, address, open_photo
from ..jobs import Jobs, RenderSpec
from ..session import CHANGING, Look, Session, Subject
from ..strengths import checked_edits, linked


Pair: TypeAlias = tuple[str, str]  # PNG files
View: TypeAlias = dict[str, Any]  # what canvas.js takes: parts that are left out stay as they are
ORIGINAL = "photo"  # what /edit compares with; the other choice is "reconstruction"
EDITED = "refinestyle-edit.png"
FIGURES = {  # of a report, as Details has them; what is 0 is left out
    "perceptual": "LPIPS {:.3f}",
    "perceptual_backbone": "measured with {}",
    "mse": "mean squared error {:.4f}",
    "identity": "identity {:.2f} apart",
    "landmarks": "landmarks {:.1%} of the eyes' distance apart",
    "w_steps": "steps on w+: {}",
    "token_steps": "steps on tokens: {}",
    "seconds": "{:.3g} seconds",
}


class CanvasHandlers:
    """The handlers of the canvas for one pipeline, and the values of the controls that follow it."""

    def __init__(self, jobs: Jobs, example: Subject | None) -> None:
        self.jobs = jobs
        self.example = example

    @property
    def directions(self) -> list[str]:
        """The names of what can be edited."""
        return list(self.jobs.pipe.directions)

    def domains(self, session: Session) -> list[str]:
        """Domains of the model, then those of the session."""
        return list(dict.fromkeys([*self.jobs.pipe.domains, *session.shelf.domains]))

    # --- Drawing ---

    def draw(self, session: Session) -> tuple[Any, ...]:
        """The look of the session on the canvas, unless it is there already, and the controls as it has them."""
        with messages.explained():
            now = session.look, session.in_photo
            if now == session.shown:
                return gr.skip(), *self.skipped()
            view = self.view(session)
            if now != (session.look, session.in_photo):  # it is another look by now, which is drawn by what changed it
                return gr.skip(), *self.skipped()
            session.shown = now
            return view, *self.controls(session)

    def drag(self, session: Session, *values: float) -> Any:
        """A control moves: show where it is, small and fast, and keep nothing."""
        with messages.explained():
            look = self._asked(session, values)
            if (look, session.in_photo) == session.shown:
                return gr.skip()
            session.shown = None
            drawn = self.drawn(session, [look], limits.DRAG_SIDE)[0]
            placed = self._placed(session, drawn, self._photo(session, limits.DRAG_SIDE))
            return {"after": address(placed), "preview": True}

    def settle(self, session: Session, *values: float) -> Any:
        """The controls are at rest: this is the look."""
        with messages.explained(), CHANGING:
            session.put(self._asked(session, values))
        return self.draw(session)[0]

    def view(self, session: Session, known: Pixels | None = None) -> View:
        """All that the canvas shows of a look, which may be ``known`` already as it is drawn."""
        look, subject = session.look, session.look.subject
        plain = Look(look.source)
        looks = [look] if subject or look == plain else [look, plain]
        drawn = self.drawn(session, looks, self.jobs.size) if known is None else [known]
        photo = self._photo(session, limits.WHOLE_SIDE)
        before = drawn[-1] if subject is None else subject.crop if photo is None else np.asarray(photo)
        return {
            "after": address(self._placed(session, drawn[0], photo)),
            "before": address(before),
            "note": _likeness(subject, look) if subject else f"<b>Nobody who exists</b>, from seed {look.source}",
            **self.state(session),
        }

    def state(self, session: Session) -> View:
        """What the canvas knows of a look beside its pictures."""
        look, subject = session.look, session.look.subject
        return {
            "names": ["The photo" if subject else "As drawn", "The face now"],
            "link": "?" + self.link(session),
            "stays": self._stays(look),
            "undo": bool(session.past),
            "redo": bool(session.future),
            "plain": look == Look(look.source),
            "photo": hash(subject.photo) if subject and subject is not self.example else None,
            "whole": session.in_photo if subject and subject.photo and subject.inversion.quad is not None else None,
        }

    def save(self, session: Session, event: gr.EventData, *values: float) -> View:
        """The picture at full size as a file, PNG or JPEG, whose only metadata say that a model took part."""
        with messages.explained():
            self._rest(session, event, values)
            kind = "JPEG" if getattr(event, "kind", "") == "JPEG" else "PNG"
            drawn = self.drawn(session, [session.look], self.jobs.size)[0]
            placed = self._placed(session, drawn, self._photo(session))
            name = f"refinestyle.{'jpg' if kind == 'JPEG' else 'png'}"
            file = cache_file(marked(placed, kind), name)  # the time: Gradio drops a value that is the same as before
            return {"save": {"name": name, "href": f"gradio_api/file={file}", "at": time.time_ns()}}

    def drawn(self, session: Session, looks: Sequence[Look], side: int) -> list[Pixels]:
        """Looks of one face with ``side`` pixels, or as many as the model draws: a picture each."""
        source, specs = looks[0].source, [RenderSpec(look.edits, look.domains) for look in looks]
        face = source.inversion if isinstance(source, Subject) else (source,)
        return [picture for (picture,) in self.jobs.draw(face, specs, session.shelf.domains, side)]

    def _photo(self, session: Session, side: int = 0) -> Image.Image | None:
        """The whole photo where the canvas shows it, at its own size or with ``side`` pixels at most."""
        subject = session.look.subject
        if not session.in_photo or subject is None or subject.inversion.quad is None:
            return None
        photo = open_photo(subject.photo, "none").image
        if side:
            photo.thumbnail((side, side))
        return photo

    def _placed(self, session: Session, drawn: Pixels, photo: Image.Image | None) -> Pixels:
        """The picture, or where there is one the photo with it."""
        face = session.look.subject.inversion if session.look.subject else None
        if photo is None or face is None or face.quad is None or face.source_size is None:
            return drawn
        quad = (face.quad.double().numpy() + 0.5) * photo.width / face.source_size[0] - 0.5
        return np.asarray(paste_back(photo, Image.fromarray(drawn), quad))

    def _asked(self, session: Session, values: tuple[float, ...]) -> Look:
        """The look that the sliders show: those of directions, then those of the chosen domains."""
        count = len(self.directions)
        edits = {name: float(v) for name, v in zip(self.directions, values[:count], strict=True) if v}
        domains = dict(zip(session.look.domains, map(float, values[count:]), strict=False))
        return replace(session.look, edits=edits, domains=domains)

    # --- What changes the look at once ---

    def change(self, what: Callable[[Session], None]) -> Callable[..., None]:
        """The handler of a button. A control that has not come to rest yet counts as moved before it."""

        def changed(session: Session, event: gr.EventData, *values: float) -> None:
            with CHANGING:
                self._rest(session, event, values)
                what(session)

        return changed

    def _rest(self, session: Session, event: gr.EventData, values: tuple[float, ...]) -> None:
        if getattr(event, "moving", False):
            session.put(self._asked(session, values))

    def meet(self, session: Session, seed: int | None = None) -> None:
        """Somebody who does not exist, or without a seed the example. A photo that is being read is given up."""
        session.begun = session.wanted = session.wanted + 1
        session.put(Look(seed if seed is not None else self.example or session.look.source))

    def arrive(self, session: Session, request: gr.Request) -> tuple[Any, ...]:
        """The page is ready. It may have a look in its address; what this model does not have is left out.

        Where the look is the one that the page came with, nothing is drawn and no control is set: by now the visitor
        may have moved one.
        """
        with messages.explained():
            pipe = self.jobs.pipe
            look, left_out = linked(dict(request.query_params), session.look, pipe.directions, pipe.domains)
            if left_out:
                gr.Info(f"The link has what is not here, or too many styles: {html.escape(', '.join(left_out)[:80])}.")
            if look == session.look:
                return {"ready": True}, *self.skipped()
            session.look = look
            view, *controls = self.draw(session)
            return {**view, "ready": True}, *controls

    def link(self, session: Session) -> str:
        """The look as the query of an address, for anybody to open, without what stays in the session."""
        look = session.look
        parts: dict[str, Any] = {} if look.subject else {"seed": look.source}
        parts |= {f"edit.{name}": f"{s:g}" for name, s in look.edits.items()}
        parts |= {f"style.{name}": f"{s:g}" for name, s in look.domains.items() if name in self.jobs.pipe.domains}
        return urlencode(parts)

    def _stays(self, look: Look) -> str:
        """What is not in the link of a look, told where it is made; an empty text where it has everything."""
        parts = [f"the style {name}" for name in look.domains if name not in self.jobs.pipe.domains]
        if look.subject not in (None, self.example):
            parts.insert(0, "your photo")
        return f"The link leaves out what only this session has: {', '.join(parts)}." if parts else ""

    # --- The controls ---

    def controls(self, session: Session) -> tuple[Any, ...]:
        """The sliders of the directions, the chosen domains and their sliders, as the look has them."""
        look = session.look
        edits = [gr.update(value=look.edits.get(name, 0)) for name in self.directions]
        chosen = gr.update(choices=self.domains(session), value=list(look.domains))
        strengths = [gr.update(label=name, value=s, visible=True) for name, s in look.domains.items()]
        unused = [gr.update(value=0, visible=False) for _ in range(limits.MIXED - len(strengths))]
        return (*edits, chosen, *strengths, *unused)

    def skipped(self) -> tuple[Any, ...]:
        """The controls as they are."""
        return (gr.skip(),) * (1 + len(self.directions) + limits.MIXED)

    # --- For clients of the API ---

    def own(self, session: Session) -> Subject:
        """The face that this session inverted or brought. Raises the message for a visitor if there is none."""
        subject = session.look.subject
        if subject is None or subject is self.example:
            raise messages.refuse(messages.NOT_INVERTED)
        return subject

    def edit(
        self, edits: dict[str, Any] | None, before: str, session: Session, inversion_file: str | None = None
    ) -> tuple[Pair, str, Session]:
        """Draw a face with attributes changed: that of a file, or else of the last /invert of this session.

        Args:
            edits: strength by attribute, such as {"smile": 1.5, "age": -1}; 0 or left out is unchanged.
            before: what to show beside the result, "reconstruction" or "photo"; a file holds no photo.
            inversion_file: the .safetensors file of the face, from /invert or /export; the session stays as it is.

        Returns:
            Both pictures, and the result as a PNG file. Later /stylise calls of the session keep these edits.
        """
        with messages.explained():
            checked = checked_edits(edits or {}, self.directions)
            if inversion_file:
                face, crop = tokenfiles.read(Inversion, inversion_file, self.jobs.pipe), None
            else:
                subject = self.own(session)
                face, crop = subject.inversion, subject.crop if before == ORIGINAL else None
                session.put(replace(session.look, edits=checked))
            specs = [RenderSpec(checked), *([RenderSpec()] if crop is None and checked else [])]
            drawn = [row[0] for row in self.jobs.draw(face, specs, {})]
            first = drawn[-1] if crop is None else crop
            return (picture_file(first), picture_file(drawn[0])), picture_file(drawn[0], EDITED), session


def _likeness(subject: Subject, look: Look) -> str:
    """Whether it is the person, in a word and a number; the field's figures for who wants them."""
    report: Mapping[str, Any] = subject.inversion.report
    if not report:
        return "A first likeness, not measured."
    distance, changed = report.get("identity"), look != Look(subject)
    if distance is None:
        told = "<b>Same person?</b> Not measured: no face was found in one of the two."
    elif report.get("landmarks", 0) > limits.DISPLACED:
        told = "<b>Same person: no</b> · eyes, nose or mouth are not where they are in the photo"
        told += " (before the changes)" if changed else "; more steps may mend it"
    else:
        word = next(word for word, most in limits.LIKENESS.items() if distance < most)
        more = " before the changes" if changed else ", and photos of one person are under 0.6"
        told = f"<b>Same person: {word}</b> · {distance:.2f} apart{more}"
    figures = html.escape(" · ".join(text.format(report[key]) for key, text in FIGURES.items() if report.get(key)))
    return f"{told}<details><summary>Details</summary>{figures}</details>" if figures else told
