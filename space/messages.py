"""What people are told, word for word the same in the browser and over the API: the cause, then the way out.

Messages may be rendered as HTML: text that comes from outside is escaped here.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
import torch

from refinestyle_hub.errors import RefineStyleHubError

from . import limits


NO_PHOTO = "Add a photo first, or pick an example."
NOT_A_PICTURE = "This file is not a picture we can read. Use JPEG, PNG or WebP."
MEGAPIXELS = f"{limits.MAX_PIXELS / 1e6:g} megapixels"
FAR_TOO_MANY_PIXELS = f"The picture has far too many pixels. The limit is {MEGAPIXELS}; please make it smaller."
NO_FACE = "No face found. Use a frontal photo with the whole head, or tick 'already aligned'."
NO_SUCH_FACE = "The photo has fewer faces than that. Choose another one."
NOT_INVERTED = "There is no face to edit yet. Go to Invert and let it read a photo first."
BAD_EDITS = 'Give the edits as strengths by attribute, such as {"smile": 1.5}.'
BUSY = "You already have a job waiting. Let it finish or press Stop."
OUT_OF_MEMORY = "The GPU ran out of memory. Try again in a moment, or with fewer steps."
UNEXPECTED = "Something went wrong here, not on your side. Please try again; your photo is kept."
TOO_LARGE_FOR_SESSION = "The result is larger than a session may hold. Use a model of a lower resolution."

log = logging.getLogger("refinestyle.space")


def too_many_bytes(size: int) -> str:
    """For a file of ``size`` bytes."""
    return f"The file has {size / 1e6:.1f} MB. The limit is {limits.MAX_BYTES / 1e6:g} MB; please make it smaller."


def too_many_pixels(width: int, height: int) -> str:
    """For a picture whose header says so much."""
    return f"The picture is {width}×{height}. The limit is {MEGAPIXELS}; please make it smaller."


def face_too_small(width: int) -> str:
    """For a face ``width`` pixels wide."""
    return f"The face is only {width} px wide. Use a closer photo."


def small_face(width: int) -> str:
    """A warning: it will be used, but do not expect much."""
    return f"The face is only {width} px wide. It will do, but a closer photo gives more detail."


def several_faces(count: int) -> str:
    """For a choice among ``count`` faces."""
    return f"{count} faces found; the largest is selected. Click another one."


def stopped(step: int, steps: int) -> str:
    """For a job that was ended early, by its user or by the clock."""
    return f"stopped at {step}/{steps}"


def unknown_edit(name: object, known: list[str]) -> str:
    """For an attribute that the model cannot edit."""
    listed = ", ".join(known) or "none"
    return f"This model has no attribute '{html.escape(str(name)[:40])}'. It has: {html.escape(listed)}."


def bad_strength(name: str) -> str:
    """For a strength that is no number of a sensible size."""
    most = f"{limits.MAX_STRENGTH:g}"
    return f"The strength of '{html.escape(name[:40])}' must be a number from -{most} to {most}."


def refuse(text: str) -> gr.Error:
    """The error to raise for a user's mistake: shown as a toast, sent to API clients, no traceback in the log."""
    return gr.Error(text, print_exception=False)


@contextmanager
def explained() -> Iterator[None]:
    """Turn every exception of the block into one that the user sees; Gradio shows no other kind."""
    try:
        yield
    except gr.Error:
        raise
    except RefineStyleHubError as error:
        raise refuse(html.escape(str(error))) from error
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise refuse(OUT_OF_MEMORY) from error
    except Exception as error:
        log.exception("a handler failed")
        raise refuse(UNEXPECTED) from error
