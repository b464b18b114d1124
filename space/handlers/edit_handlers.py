"""What happens in Edit: plain methods from values to values, with no component among them.

The docstring of ``edit`` is what clients of the API read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import gradio as gr
import numpy as np

from .. import limits, messages, tokenfiles
from ..images import Pixels, film_file, png_file
from ..jobs import Jobs, RenderSpec
from ..session import Subject
from ..strengths import checked_edits
from ..updates import hide, show


__all__ = ["ORIGINAL", "EditHandlers"]

Pair: TypeAlias = tuple[str, str]  # PNG files
ORIGINAL = "photo"  # what an edit is compared with; the other choice is "reconstruction"
DOWNLOAD = "refinestyle-edit.png"


class EditHandlers:
    """The handlers of Edit for one pipeline."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    @property
    def directions(self) -> list[str]:
        """The names of what can be edited."""
        return list(self.jobs.pipe.directions)

    def enter(self, before: str, subject: Subject | None, edits: Mapping[str, float]) -> tuple[Any, ...]:
        """There may be another face: show it in the editor; without edits of its own, all sliders are at 0."""
        there = subject is not None
        sliders = [gr.update(value=edits.get(name, 0), interactive=there) for name in self.directions]
        if subject is None:
            return gr.skip(), gr.skip(), show(messages.NOT_INVERTED), *sliders
        if edits:
            return gr.skip(), gr.skip(), hide(), *sliders
        pair, file, _ = self.edit({}, before, subject)
        return pair, gr.update(value=file, interactive=True), hide(), *sliders

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

    def strip(self, attribute: str, subject: Subject | None) -> list[tuple[str, str]]:
        """One attribute from its lowest to its highest strength."""
        with messages.explained():
            strengths = self._range(attribute, limits.STRIP)
            drawn = self._draw(subject, [{attribute: s} for s in strengths])
            return [(png_file(picture), f"{s:+.1f}") for picture, s in zip(drawn, strengths, strict=True)]

    def film(self, attribute: str, subject: Subject | None) -> tuple[Any, Any]:
        """The same as a film: to look at, and to download."""
        with messages.explained():
            file = film_file(self._draw(subject, [{attribute: s} for s in self._range(attribute, limits.FILM)]))
            return show(file), show(file)

    def _range(self, attribute: str, count: int) -> list[float]:
        if attribute not in self.directions:
            raise messages.refuse(messages.unknown_edit(attribute, self.directions))
        low, high = self.jobs.pipe.directions[attribute].info.limits
        return [float(s) for s in np.linspace(low, high, count)]

    def _draw(self, subject: Subject | None, edits: list[Mapping[str, float]]) -> list[Pixels]:
        if subject is None:
            raise messages.refuse(messages.NOT_INVERTED)
        return [
            pictures[0] for pictures in self.jobs.draw(subject.inversion, [RenderSpec(edit) for edit in edits], {})
        ]

    def _edited(self, subject: Subject | None, edits: Mapping[str, float]) -> Pixels:
        """Drawn anew only where something changes: all sliders at 0 give the reconstruction to the bit."""
        return subject.reconstruction if subject and not edits else self._draw(subject, [edits])[0]
