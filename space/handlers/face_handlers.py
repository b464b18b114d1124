"""What happens in Invert and Edit: plain methods from values to values, no component among them.

The docstrings of ``align``, ``invert`` and ``edit`` are what API clients read.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import gradio as gr
import numpy as np

from .. import images, limits, messages, tokenfiles
from ..attributes import KNOWN
from ..images import Pixels, film_file, png_file
from ..jobs import Jobs, Look, Result, Stops
from ..session import Found, Subject


__all__ = ["Handlers", "checked_edits", "gone", "label", "shown"]

Pair: TypeAlias = tuple[str, str]  # PNG files
Captioned: TypeAlias = list[tuple[str, str]]  # PNG file, caption
ORIGINAL = "photo"  # what an edit is compared with; the other choice is "reconstruction"
DOWNLOAD = "refinestyle-edit.png"


class Handlers:
    """The demo's handlers for one pipeline."""

    def __init__(self, jobs: Jobs, stops: Stops) -> None:
        self.jobs = jobs
        self.stops = stops

    @property
    def directions(self) -> list[str]:
        """Names of what can be edited."""
        return list(self.jobs.pipe.directions)

    # --- Invert ---

    def align(self, photo: str | None, aligned: bool) -> tuple[Any, Any, Any, int, Found | None]:
        """Find the faces of a photo and cut the aligned crop of each.

        Args:
            photo: the picture file (JPEG, PNG or WebP; at most 10 MB and 40 megapixels).
            aligned: the picture is an aligned crop already; its central square is taken.

        Returns:
            The photo with a frame around what will be used, the crops (the largest face first), a line of text, and 0,
            the number of the face that is selected.
        """
        with messages.explained():
            if not photo:
                return gone(), gone(), gone(), 0, None
            image = images.read_photo(photo)
            if aligned:
                crop = png_file(images.square(image, self.jobs.size))
                return shown(crop), gone([(crop, "crop")]), shown("The central square is used."), 0, None
            faces = images.faces_in(image)
            crops = images.crops_of(image, faces, min(self.jobs.size, 256))
            captioned = [(png_file(crop), f"{face.width} px wide") for crop, face in zip(crops, faces, strict=True)]
            note = f"One face found, {faces[0].width} px wide."
            if len(faces) > 1:
                note = messages.several_faces(len(faces))
            elif faces[0].width < limits.SMALL_FACE:
                note = messages.small_face(faces[0].width)
            gallery = gr.update(value=captioned, visible=len(faces) > 1, selected_index=0)
            return shown(png_file(images.framed(image, faces, 0))), gallery, shown(note), 0, Found(photo, faces)

    def choose(self, photo: str | None, found: Found | None, event: gr.SelectData) -> tuple[int, Any]:
        """Another face of the gallery was clicked."""
        with messages.explained():
            if found is None or found.photo != photo or not 0 <= event.index < len(found.faces):
                return 0, gr.update()
            framed = images.framed(images.read_photo(photo), found.faces, event.index)
            return event.index, png_file(framed)

    def invert(
        self,
        photo: str | None,
        aligned: bool,
        face: float | None,
        steps: float | None,
        tokens: bool,
        seed: float | None,
        found: Found | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Find the w+ codes and tokens with which the generator draws a face; /edit and /stylise go on from there.

        Args:
            photo: the picture file (JPEG, PNG or WebP; at most 10 MB and 40 megapixels).
            aligned: the picture is an aligned crop already.
            face: which face of the photo, 0 being the largest.
            steps: of optimisation.
            tokens: whether tokens are found as well, which bring the reconstruction close to the photo.
            seed: the same seed gives the same result.

        Returns:
            The crop and its reconstruction, the stages with captions, a line with the figures, and the face as a
            .safetensors file without a pixel of the photo, which /edit and /stylise of any session take.
        """
        for *told, subject, edits in self.invert_live(photo, aligned, face, steps, tokens, seed, found, request):
            with messages.explained():
                there = isinstance(subject, Subject)
                file = tokenfiles.inversion_file(subject.inversion) if there else gr.skip()
            yield *told, file, subject, edits

    def invert_live(
        self,
        photo: str | None,
        aligned: bool,
        face: float | None,
        steps: float | None,
        tokens: bool,
        seed: float | None,
        found: Found | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """``invert`` for the page, which holds the face itself: no file of it is written."""
        with messages.explained():
            crop = self._crop(photo, aligned, int(face or 0), found)
            count = limits.within(steps, 0, limits.MAX_STEPS)
            yield gr.skip(), gr.skip(), f"Starting, {count} steps", gr.skip(), gr.skip()
            flag = str(self.stops.flag(request.session_hash, "invert"))
            for update in self.jobs.invert(crop, count, tokens, limits.seed(seed), flag):
                if isinstance(update, Result):
                    subject = Subject.of(update.inversion, crop, update.reconstruction)
                    pair = png_file(crop), png_file(update.reconstruction)
                    yield pair, _stages(crop, update), _figures(update, count), subject, {}
                else:
                    note = f"step {update.step}/{update.steps}, distance {update.figures['perceptual']:.3f}"
                    yield gr.skip(), gr.skip(), note, gr.skip(), gr.skip()

    def stop(self, request: gr.Request) -> str:
        """The Stop button: what was reached so far is kept."""
        self.stops.stop("invert", request)
        return "Stopping after this step; what was reached is kept."

    def _crop(self, photo: str | None, aligned: bool, face: int, found: Found | None) -> Pixels:
        image = images.read_photo(photo)
        if aligned:
            return images.square(image, self.jobs.size)
        faces = found.faces if found and found.photo == photo else images.faces_in(image)
        if not 0 <= face < len(faces):
            raise messages.refuse(messages.NO_SUCH_FACE)
        return images.crops_of(image, [faces[face]], self.jobs.size)[0]

    # --- Edit ---

    def enter(self, before: str, subject: Subject | None, edits: Mapping[str, float]) -> tuple[Any, ...]:
        """There may be another face: show it in the editor; without edits of its own, all sliders are at 0."""
        there = subject is not None
        sliders = [gr.update(value=edits.get(name, 0), interactive=there) for name in self.directions]
        if subject is None:
            return gr.skip(), gr.skip(), shown(messages.NOT_INVERTED), *sliders
        if edits:
            return gr.skip(), gr.skip(), gone(), *sliders
        pair, file, _ = self.edit({}, before, subject)
        return pair, gr.update(value=file, interactive=True), gone(), *sliders

    def edit(
        self, edits: dict[str, Any] | None, before: str, subject: Subject | None, inversion_file: str | None = None
    ) -> tuple[Pair, str, Any]:
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
                subject = self.jobs.subject(tokenfiles.read_inversion(inversion_file, self.jobs.pipe))
            drawn = self._edited(subject, checked)
            assert subject is not None
            first = subject.crop if before == ORIGINAL else subject.reconstruction
            kept = gr.skip() if inversion_file else checked
            return (png_file(first), png_file(drawn)), png_file(drawn, DOWNLOAD), kept

    def edit_live(self, before: str, subject: Subject | None, *strengths: float) -> tuple[Pair, str, Any]:
        """``edit`` with one value for each slider."""
        return self.edit(dict(zip(self.directions, strengths, strict=True)), before, subject)

    def reset(self, before: str, subject: Subject | None) -> tuple[Any, ...]:
        """All sliders to 0, and the picture with them."""
        zeros = [0.0] * len(self.directions)
        return (*(self.edit({}, before, subject) if subject else (gr.skip(), gr.skip(), {})), *zeros)

    def strip(self, attribute: str, subject: Subject | None) -> Captioned:
        """One attribute from its lowest to its highest strength."""
        with messages.explained():
            strengths = self._range(attribute, limits.STRIP)
            drawn = self._draw(subject, [{attribute: s} for s in strengths])
            return [(png_file(picture), f"{s:+.1f}") for picture, s in zip(drawn, strengths, strict=True)]

    def film(self, attribute: str, subject: Subject | None) -> tuple[Any, Any]:
        """The same as a film: to look at, and to download."""
        with messages.explained():
            file = film_file(self._draw(subject, [{attribute: s} for s in self._range(attribute, limits.FILM)]))
            return shown(file), shown(file)

    def _range(self, attribute: str, count: int) -> list[float]:
        if attribute not in self.directions:
            raise messages.refuse(messages.unknown_edit(attribute, self.directions))
        low, high = self.jobs.pipe.directions[attribute].info.limits
        return [float(s) for s in np.linspace(low, high, count)]

    def _draw(self, subject: Subject | None, edits: list[Mapping[str, float]]) -> list[Pixels]:
        if subject is None:
            raise messages.refuse(messages.NOT_INVERTED)
        return [pictures[0] for pictures in self.jobs.draw(subject.inversion, [Look(edit) for edit in edits], {})]

    def _edited(self, subject: Subject | None, edits: Mapping[str, float]) -> Pixels:
        """Drawn anew only where something changes: all sliders at 0 give the reconstruction to the bit."""
        return subject.reconstruction if subject and not edits else self._draw(subject, [edits])[0]


def checked_edits(edits: Mapping[str, Any], directions: list[str]) -> dict[str, float]:
    """Edits of an API client, those that change anything; refused with the reason."""
    if not isinstance(edits, Mapping):
        raise messages.refuse(messages.BAD_EDITS)
    for name, strength in edits.items():
        if name not in directions:
            raise messages.refuse(messages.unknown_edit(name, directions))
        number = isinstance(strength, int | float) and math.isfinite(strength)
        if not number or abs(strength) > limits.MAX_STRENGTH:
            raise messages.refuse(messages.bad_strength(name))
    return {name: float(strength) for name, strength in edits.items() if strength}


def shown(value: Any) -> Any:
    """An update that shows a component with this value."""
    return gr.update(value=value, visible=True)


def gone(value: Any = None) -> Any:
    """An update that hides a component."""
    return gr.update(value=value, visible=False)


def label(attribute: str) -> str:
    """What people read for the name of a direction."""
    return KNOWN[attribute].label if attribute in KNOWN else attribute.replace("_", " ").capitalize()


def _stages(crop: Pixels, result: Result) -> Captioned:
    report = result.inversion.report
    stages = [(png_file(crop), "photo"), (png_file(result.likeness), f"w+ · {report['w_plus_perceptual']:.3f}")]
    if result.inversion.tokens is not None:
        stages.append((png_file(result.reconstruction), f"tokens · {report['perceptual']:.3f}"))
    return stages


def _figures(result: Result, steps: int) -> str:
    report = result.inversion.report
    done = report["w_steps"] + report["token_steps"]
    measure = html.escape(str(report["perceptual_backbone"]))
    parts = [
        f"distance {report['perceptual']:.3f} (0 is the photo itself; {measure})",
        messages.stopped(done, steps) if report["stopped"] == "cancelled" else f"{done} steps",
        f"{report['seconds']:.1f} s",
        f"seed {report['seed']}",
    ]
    return " · ".join(parts)
