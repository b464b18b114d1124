"""What happens in Invert: plain methods from values to values, with no component among them.

The docstrings of ``align`` and ``invert`` are what clients of the API read.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from refinestyle_hub.errors import FaceNotFoundError
from refinestyle_hub.faces.photo import Photo

from .. import images, limits, messages, tokenfiles
from ..admission import Stops
from ..images import Pixels, png_file
from ..jobs import InversionResult, Jobs
from ..session import DetectedFaces, Subject
from ..updates import hide, show


__all__ = ["InvertHandlers"]


class InvertHandlers:
    """The handlers of Invert for one pipeline."""

    def __init__(self, jobs: Jobs, stops: Stops) -> None:
        self.jobs = jobs
        self.stops = stops

    def align(self, photo: str | None, aligned: bool) -> tuple[Any, Any, Any, int, DetectedFaces | None]:
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
                return hide(), hide(), hide(), 0, None
            opened = images.open_photo(photo, "none" if aligned else "required")
            if aligned:
                crop = png_file(images.crop_of(opened, self.jobs.size))
                return show(crop), hide([(crop, "crop")]), show("The central square is used."), 0, None
            faces, size = opened.faces, min(self.jobs.size, 256)
            captioned = [
                (png_file(images.crop_of(opened, size, index)), f"{face.width} px wide")
                for index, face in enumerate(faces)
            ]
            note = f"One face found, {faces[0].width} px wide."
            if len(faces) > 1:
                note = messages.several_faces(len(faces))
            elif faces[0].width < limits.SMALL_FACE:
                note = messages.small_face(faces[0].width)
            gallery = gr.update(value=captioned, visible=len(faces) > 1, selected_index=0)
            framed = png_file(images.framed(opened, 0))
            return show(framed), gallery, show(note), 0, DetectedFaces(photo, faces)

    def choose(self, photo: str | None, detected: DetectedFaces | None, event: gr.SelectData) -> tuple[int, Any]:
        """Another face of the gallery was clicked."""
        with messages.explained():
            if detected is None or detected.photo != photo or not 0 <= event.index < len(detected.faces):
                return 0, gr.update()
            opened = Photo(images.open_photo(photo, "none").image, tuple(detected.faces))
            return event.index, png_file(images.framed(opened, event.index))

    def invert(
        self,
        photo: str | None,
        aligned: bool,
        face: float | None,
        steps: float | None,
        tokens: bool,
        seed: float | None,
        detected: DetectedFaces | None,
        request: gr.Request,
        save: bool = True,
    ) -> Iterator[tuple[Any, ...]]:
        """Find the w+ codes and tokens with which the generator draws a face; /edit and /stylise go on from there.

        Args:
            photo: the picture file (JPEG, PNG or WebP; at most 10 MB and 40 megapixels).
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
            crop = self._crop(photo, aligned, int(face or 0), detected)
            count = limits.within(steps, 0, limits.MAX_STEPS)
            yield gr.skip(), gr.skip(), f"Starting, {count} steps", gr.skip(), gr.skip(), gr.skip()
            flag = str(self.stops.flag(request.session_hash, "invert"))
            for update in self.jobs.invert(crop, count, tokens, limits.seed(seed), flag):
                if isinstance(update, InversionResult):
                    subject = Subject.of(update.inversion, crop, update.reconstruction)
                    pair = png_file(crop), png_file(update.reconstruction)
                    file = tokenfiles.inversion_file(subject.inversion) if save else gr.skip()
                    yield pair, _stages(crop, update), _summary(update, count), file, subject, {}
                else:
                    note = f"step {update.step}/{update.steps}, distance {update.metrics['perceptual']:.3f}"
                    yield gr.skip(), gr.skip(), note, gr.skip(), gr.skip(), gr.skip()

    def invert_live(self, request: gr.Request, *inputs: Any) -> Iterator[tuple[Any, ...]]:
        """``invert`` for the page, which holds the face itself, so that no file of it is written."""
        for *shown, _, subject, edits in self.invert(*inputs, request, save=False):
            yield *shown, subject, edits

    def stop(self, request: gr.Request) -> str:
        """The Stop button: what was reached so far is kept."""
        self.stops.stop("invert", request)
        return "Stopping after this step; what was reached is kept."

    def _crop(self, photo: str | None, aligned: bool, face: int, detected: DetectedFaces | None) -> Pixels:
        known = detected.faces if detected and detected.photo == photo and not aligned else ()
        opened = images.open_photo(photo, "none" if aligned or known else "required")
        if known:
            opened = Photo(opened.image, tuple(known))
        try:
            return images.crop_of(opened, self.jobs.size, face)
        except FaceNotFoundError as error:
            raise messages.refuse(messages.NO_SUCH_FACE) from error


def _stages(crop: Pixels, result: InversionResult) -> list[tuple[str, str]]:
    """PNG files with captions: the photo, w+ alone, and w+ with tokens."""
    report = result.inversion.report
    stages = [(png_file(crop), "photo"), (png_file(result.w_plus_only), f"w+ · {report['w_plus_perceptual']:.3f}")]
    if result.inversion.tokens is not None:
        stages.append((png_file(result.reconstruction), f"tokens · {report['perceptual']:.3f}"))
    return stages


def _summary(result: InversionResult, steps: int) -> str:
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
