"""What visitors are told, word for word the same in the browser and over the API: the cause, then the way out.

Messages may be rendered as HTML, so text that comes from outside is escaped here.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import gradio as gr
import torch

from refinestyle_hub.errors import PictureError, RefineStyleHubError

from . import limits


NO_PHOTO = "Add a photo first, or pick an example."
NOT_A_PICTURE = "This file is not a picture we can read. Use JPEG, PNG or WebP."
KNOWN_KINDS = ("HEIC", "AVIF", "a web page", "a PDF", "a video")
MEGAPIXELS = f"{limits.MAX_PIXELS / 1e6:g} megapixels"
FAR_TOO_MANY_PIXELS = f"The picture has far too many pixels. The limit is {MEGAPIXELS}; please make it smaller."
NO_FACE = "No face found. Use a frontal photo with the whole head, or tick 'already aligned'."
NO_SUCH_FACE = "The photo has fewer faces than that. Choose another one."
NOT_INVERTED = "There is no face to edit yet: call /invert with a photo first, or give the file of a face."
BAD_EDITS = 'Give the edits as strengths by attribute, such as {"smile": 1.5}.'
BUSY = "You already have a job waiting. Let it finish or press Stop."
CROWDED = "Many jobs from your network are waiting already. Try again in a minute."
OUT_OF_MEMORY = "The GPU ran out of memory. Try again in a moment, or with fewer steps."
UNEXPECTED = "Something went wrong here, not on your side. Please try again; your photo is kept."
NO_PICTURES = "Add 1 to 20 pictures of one style first, or take the example."
NO_RIGHTS = "First confirm that you may use these pictures: tick the box above the button."
NO_DOMAINS = (
    "This model comes without domains, and this session has none yet. Make one in **Adapt** from a few pictures of a "
    "style, or load one in **Share**: a file, or a Hub id."
)
NO_MIX = "Choose a style first."
NO_CHANGE = "There is nothing to film yet: move a slider or choose a style first."
BAD_DOMAINS = 'Give the domains as strengths by name, such as {"sketch": 0.8}.'
NOTHING_TO_EXPORT = "There is nothing to save yet: invert a photo, or make or load a domain first."
NOTHING_TO_REMOVE = "This session has no domain to remove."
NO_FILE = "Add a .safetensors file first."
NOT_SAFETENSORS = (
    "Only .safetensors files are read: they hold numbers and nothing that runs. Save a domain or an inversion as one."
)
BAD_ADDRESS = (
    "Give a file as an address from this server, or as data:<type>;base64,<contents>. Other addresses are not read."
)
NOT_A_FACE = "This file holds a domain, not a face. Use a file of a face, from /invert or /export."
NOT_A_DOMAIN = "This file holds a face, not a domain. Use a file of a domain, from /adapt or /export."
OUT_OF_RANGE = "The values in this file are far out of range, so it would draw nothing but noise. Use another file."
BAD_HUB_ID = "A Hub id is owner/name, such as someone/my-sketch."
SHELF_FULL = (
    f"A session holds at most {limits.SHELF} domains or {limits.SHELF_BYTES / 1e6:g} MB. Remove one in Share first."
)
SIGN_IN = "Sign in first: the domain goes to your own account."
NO_PUBLIC_BASE = "This demo draws with a model that is not public, so nobody could use the domain. Download the file."
TAKEN = "You already have a repository of that name. Choose another name."
MAY_NOT = "The Hub does not let this app write there. Sign out and in again, and allow it to create repositories."
TOO_OFTEN = "The Hub asks to slow down. Try again in a few minutes; nothing was uploaded."
NOT_PUSHED = "The Hub did not accept the upload. Nothing was uploaded; try again, or download the file."
TOO_LARGE_FOR_SESSION = "The result is larger than a session may hold. Use a model of a lower resolution."

log = logging.getLogger("refinestyle.space")


def too_many_bytes(size: int) -> str:
    """For a file of ``size`` bytes."""
    return f"The file has {size / 1e6:.1f} MB. The limit is {limits.MAX_BYTES / 1e6:g} MB; please make it smaller."


def too_many_pixels(width: int, height: int) -> str:
    """For a picture that is too large by its header."""
    return f"The picture is {width}×{height}. The limit is {MEGAPIXELS}; please make it smaller."


def face_too_small(width: int) -> str:
    """For a face ``width`` pixels wide."""
    return f"The face is only {width} px wide. Use a closer photo."


def small_face(width: int) -> str:
    """A warning for a small face that is used all the same."""
    return f"The face is only {width} px wide. It will do, but a closer photo gives more detail."


def several_faces(count: int) -> str:
    """For a choice among ``count`` faces."""
    return f"{count} faces found; the largest is selected. Click another one."


def stopped(step: int, steps: int) -> str:
    """For a job that was ended early, by its user or by the clock."""
    return f"stopped at {step}/{steps}"


def unreadable(error: PictureError) -> str:
    """For a file that is no picture: where the library knows what it is instead, its sentence."""
    told = next((line for line in str(error).split(": ", 1)[-1:] if any(kind in line for kind in KNOWN_KINDS)), None)
    return NOT_A_PICTURE if told is None else html.escape(told)


def too_many_pictures(count: int) -> str:
    """For ``count`` pictures of a style."""
    return f"A domain is made from 1 to 20 pictures; you gave {count}. Choose the most typical ones."


def left_out(refused: Mapping[str, str]) -> str:
    """For pictures that cannot be used: file name -> why."""
    lines = [f"**{html.escape(name[:60])}** was left out. {reason}" for name, reason in refused.items()]
    return "\n\n".join(lines)


def unknown_domain(name: object, known: Sequence[str]) -> str:
    """For a domain that neither the model nor the session has."""
    listed = ", ".join(known) or "none"
    return f"There is no domain '{html.escape(str(name)[:40])}'. There are: {html.escape(listed)}."


def too_many_domains() -> str:
    """For a mix of too many."""
    return f"At most {limits.MIXED} domains are mixed at a time."


def file_too_large(size: int) -> str:
    """For a file of tokens."""
    return f"The file has {size / 1e6:.1f} MB. A domain or inversion has at most {limits.MAX_TOKEN_BYTES / 1e6:g} MB."


def other_generator(what: str, made_for: object, this: object) -> str:
    """For tokens that do not fit; both generators are named."""
    return (
        f"{what} was made for another generator: {html.escape(str(made_for))}. This demo draws with "
        f"{html.escape(str(this))}."
    )


def unknown_edit(name: object, known: Sequence[str]) -> str:
    """For an attribute that the model cannot edit."""
    listed = ", ".join(known) or "none"
    return f"This model has no attribute '{html.escape(str(name)[:40])}'. It has: {html.escape(listed)}."


def bad_strength(name: str, low: float, high: float) -> str:
    """For the strength of an edit or domain that is not a number within its bounds."""
    return f"The strength of '{html.escape(name[:40])}' must be a number from {low:g} to {high:g}."


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
