"""What happens in Photo: a photo becomes a face that the generator can draw.

The docstrings of ``align`` and ``invert`` are what clients of the API read.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import gradio as gr
import numpy as np
from PIL import Image

from refinestyle_hub.faces.align import Crop
from refinestyle_hub.faces.detect import Face
from refinestyle_hub.faces.identity import likeness
from refinestyle_hub.inversion.inversion import Inversion

from .. import images, limits, messages, tokenfiles
from ..admission import Stops
from ..files import picture_file
from ..images import Pixels, address
from ..jobs import InversionResult, InversionUpdate, RenderSpec
from ..page import visible
from ..session import Look, Session, Subject
from .canvas_handlers import CanvasHandlers, View


Detected: TypeAlias = Mapping[str, tuple[Face, ...]]  # the faces of a photo by its path, so that they are found once


class PhotoHandlers:
    """The handlers of Photo for one pipeline."""

    def __init__(self, canvas: CanvasHandlers, stops: Stops) -> None:
        self.canvas = canvas
        self.jobs = canvas.jobs
        self.stops = stops

    # --- The photo ---

    def align(self, photo: str | None, aligned: bool) -> tuple[Any, Any, Any, int, Detected]:
        """Find the faces of a photo and cut the aligned crop of each.

        Args:
            photo: the picture file (JPEG, PNG or WebP; at most 10 MB and 64 megapixels).
            aligned: the picture is an aligned crop already; its central square is taken.

        Returns:
            The photo with a frame around what will be used, the crops (the largest face first), a line of text, and 0,
            the number of the face that is selected.
        """
        with messages.explained():
            if not photo:
                return visible(), visible(), visible(), 0, {}
            opened = images.open_photo(photo, "none" if aligned else "required")
            size = self.jobs.size
            if aligned:
                crop = picture_file(np.asarray(opened.crop(size).image))
                crops = gr.update(value=[(crop, "crop")], visible=False)
                return visible(crop), crops, visible("The central square is used."), 0, {}
            faces = opened.faces
            captioned = [
                (picture_file(np.asarray(opened.crop(min(size, 256), index).image)), f"{face.width} px wide")
                for index, face in enumerate(faces)
            ]
            note = f"One face found, {faces[0].width} px wide."
            if len(faces) > 1:
                note = messages.SEVERAL_FACES.format(count=len(faces))
            elif faces[0].width < limits.SMALL_FACE:
                note = messages.SMALL_FACE.format(width=faces[0].width)
            gallery = gr.update(value=captioned, visible=len(faces) > 1, selected_index=0)
            framed = picture_file(images.framed(opened))
            return visible(framed), gallery, visible(note), 0, {photo: faces}

    def put(self, session: Session, photo: str | None) -> Any:
        """Another photo is in its box. Or none: what is read of one is given up before there is a likeness."""
        session.waits, subject = photo, session.look.subject
        if photo or (subject and subject.photo == session.panel):
            return gr.skip()
        session.begun = session.wanted = session.wanted + 1
        return _bar(session.wanted)

    def look(self, session: Session, photo: str | None, aligned: bool) -> Any:
        """``align`` on the page: of a photo that has left its box meanwhile, nothing is shown or told."""
        try:
            found: Any = self.align(photo, aligned)
        except gr.Error as error:
            found = error
        if photo != session.waits:
            return (gr.skip(),) * 5
        session.waits = None
        if isinstance(found, gr.Error):
            raise found
        return found

    def choose(self, event: gr.SelectData) -> int:
        """Another face of the gallery was clicked."""
        return int(event.index)

    def _crop(self, photo: str | None, aligned: bool, face: int, detected: Detected) -> Crop:
        known = () if aligned else detected.get(str(photo), ())
        opened = images.open_photo(photo, "none" if aligned or known else "required")
        return replace(opened, faces=known or opened.faces).crop(self.jobs.size, face)

    def panel(self, session: Session) -> tuple[Any, ...]:
        """Another face is on the canvas: its photo, or none. A photo that waits for its reading stays."""
        subject = session.look.subject  # no update says that the photo stays: Gradio would forget how it is read
        photo = subject.photo if subject and subject is not self.canvas.example else None
        photo = session.waits or (session.panel if session.begun < session.wanted else photo)
        same, session.panel = photo == session.panel, photo
        found = [gr.skip()] * 4 if same else [visible(), visible(), visible(), 0]
        return photo if photo and os.path.exists(photo) else None, *found

    # --- The face ---

    def begin(self, session: Session, photo: str | None) -> tuple[Any, Any]:
        """A face is to be read: the number of this reading, and its bar. Earlier ones are not wanted any more."""
        if not photo or session.waits:  # one that waits to be looked at
            return gr.skip(), gr.skip()
        session.wanted, session.panel = session.wanted + 1, photo
        return session.wanted, _bar(session.wanted, text="Waiting for its turn")

    def again(self, session: Session, photo: str | None) -> tuple[Any, Any]:
        """The photo is to be read once more. Raises the message for a visitor if there is none."""
        if not photo:
            raise messages.refuse(messages.NO_PHOTO)
        return self.begin(session, photo)

    def read(
        self, session: Session, photo: str | None, aligned: bool, face: int, steps: int, tokens: bool, seed: int,
        detected: Detected, number: int, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        """The face comes to the canvas: first what the encoder makes of it, then closer while one watches.

        Yields what the canvas shows, and the controls. However it ends, the last takes the bar away, and nothing else:
        Gradio sends the last of a generator twice, and a picture may be an old one by then.
        """
        gone = _bar(number), *self.canvas.skipped()
        try:
            with messages.explained():
                if photo and session.begun < number == session.wanted:  # or else it is read already, or of old inputs
                    session.begun = number
                    crop = self._crop(photo, aligned, face, detected)
                    flag = str(self.stops.flag(request.session_hash, "invert"))
                    updates = self.jobs.invert(np.asarray(crop.image), steps, tokens, seed, flag)
                    yield from self._closer(session, crop, photo, updates, number)
        except gr.Error:
            yield gone
            raise
        yield gone

    def _closer(
        self, session: Session, crop: Crop, photo: str, updates: Iterator[InversionUpdate], number: int
    ) -> Iterator[tuple[Any, ...]]:
        """What comes to the canvas of one reading, until it ends or another one is wanted."""
        same = self.canvas.skipped()
        yield {"before": address(np.asarray(crop.image))}, *same
        for update in updates:
            if session.wanted != number:
                return
            if isinstance(update, InversionResult):
                result = update
                continue
            if update.start is not None:
                source = self._subject(update.start, crop, photo, found=False)
                session.put(Look(source))
                session.in_photo = False
            view = _bar(number, step=update.step, steps=update.steps)
            view |= {} if update.step else self.canvas.state(session)
            if session.look == Look(source) and not session.in_photo:  # nobody edits meanwhile
                session.shown = None
                view |= {"after": address(update.picture), "note": ""}
            yield view, *(same if update.step else self.canvas.controls(session))
        yield _bar(number, text="Comparing with the photo"), *same
        drawn = Image.fromarray(result.reconstruction)
        measured = self.jobs.turns.do("identity", lambda: likeness(crop.image, drawn))
        report = {**result.inversion.report, **(asdict(measured) if measured else {})}
        better = self._subject(replace(result.inversion, report=report), crop, photo)
        session.exchange(source, better)
        if session.look == Look(better) and not session.in_photo:
            session.shown = session.look, False
            yield self.canvas.view(session, result.reconstruction), *same

    def _subject(self, inversion: Inversion, crop: Crop, photo: str, found: bool = True) -> Subject:
        return Subject.of(inversion.in_photo(crop), np.asarray(crop.image), photo, found)

    # --- For clients of the API ---

    def invert(
        self, photo: str | None, aligned: bool, face: int, steps: int, tokens: bool, seed: int, session: Session,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        """Find the w+ codes and tokens with which the generator draws a face; /edit and /stylise go on from there.

        Args:
            photo: the picture file (JPEG, PNG or WebP; at most 10 MB and 64 megapixels).
            aligned: the picture is an aligned crop already.
            face: which face of the photo, 0 being the largest.
            steps: the number of optimisation steps.
            tokens: whether tokens are found as well, which bring the reconstruction close to the photo.
            seed: the same seed gives the same result.

        Returns:
            The crop and its reconstruction, the stages with captions, a line with the metrics, and the face as a
            .safetensors file without a pixel of the photo, which /edit and /stylise of any session take.
        """
        with messages.explained():
            crop = self._crop(photo, aligned, face, {})
            pixels = np.asarray(crop.image)
            yield gr.skip(), gr.skip(), f"Starting. Steps: {steps}", gr.skip(), session
            flag = str(self.stops.flag(request.session_hash, "invert"))
            for update in self.jobs.invert(pixels, steps, tokens, seed, flag):
                if isinstance(update, InversionResult):
                    subject = self._subject(update.inversion, crop, str(photo))
                    session.put(Look(subject))
                    pair = picture_file(pixels), picture_file(update.reconstruction)
                    file = tokenfiles.inversion_file(subject.inversion)
                    yield pair, self._stages(pixels, update), _summary(update, steps), file, session
                elif update.step:
                    note = f"step {update.step}/{update.steps}, distance {update.metrics['perceptual']:.3f}"
                    yield gr.skip(), gr.skip(), note, gr.skip(), session

    def _stages(self, crop: Pixels, result: InversionResult) -> list[tuple[str, str]]:
        """PNG files with captions: the photo, w+ alone, and w+ with tokens."""
        face, last = result.inversion, result.reconstruction
        alone = last if face.tokens is None else self.jobs.draw(replace(face, tokens=None), [RenderSpec()], {})[0][0]
        stages = [(crop, "photo"), (alone, f"w+ · {face.report['w_plus_perceptual']:.3f}")]
        if face.tokens is not None:
            stages.append((last, f"tokens · {face.report['perceptual']:.3f}"))
        return [(picture_file(pixels), caption) for pixels, caption in stages]


def _bar(reading: int, **where: Any) -> View:
    """The bar of a reading for canvas.js: a text, or a step; or that it ends."""
    return {"progress": {"reading": reading, **where}}


def _summary(result: InversionResult, steps: int) -> str:
    report = result.inversion.report
    done = report["w_steps"] + report["token_steps"]
    measure = html.escape(str(report["perceptual_backbone"]))
    parts = [
        f"distance {report['perceptual']:.3f} (0 is the photo itself; {measure})",
        (messages.STOPPED if report["stopped"] == "cancelled" else "steps: {step}").format(step=done, steps=steps),
        f"{report['seconds']:.1f} s",
        f"seed {report['seed']}",
    ]
    return " · ".join(parts)
