"""What visitors are told, word for word the same in the browser and over the API: the cause, then the way out.

Messages may be rendered as HTML, so text that comes from outside is escaped here.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gradio as gr
import torch

from refinestyle_hub.errors import RefineStyleHubError

from . import limits


NO_PHOTO = "Add a photo first, or pick an example."
NO_FACE = "No face found. Use a frontal photo with the whole head, or tick 'Already aligned' in More options."
FACE_TOO_SMALL = "The face is only {width} px wide. Use a closer photo."
SMALL_FACE = "The face is only {width} px wide. It will do, but a closer photo gives more detail."
SEVERAL_FACES = "{count} faces found; the largest is selected. Click another one."
NOT_INVERTED = "There is no face to edit yet: call /invert with a photo first, or give the file of a face."
UNKNOWN_EDIT = "This model has no attribute '{name}'. It has: {known}."
BAD_STRENGTH = "The strength of '{name}' must be a number from {low:g} to {high:g}."
BAD_EDITS = 'Give the edits as strengths by attribute, such as {"smile": 1.5}.'
BUSY = "You already have a job waiting. Let it finish or press Stop."
CROWDED = "Many jobs from your network are waiting already. Try again in a minute."
OUT_OF_MEMORY = "The GPU ran out of memory. Try again in a moment, or with fewer steps."
UNEXPECTED = "Something went wrong here, not on your side. Please try again; your photo is kept."
NO_PICTURES = "Add 1 to 20 pictures of one style first, or take the example."
TOO_MANY_PICTURES = "A domain is made from 1 to 20 pictures; you gave {count}. Choose the most typical ones."
NO_RIGHTS = "First confirm that you may use these pictures: tick the box above the button."
STYLES_COME = "The face is being drawn in every style; the pictures come here. Below you can choose one at once."
NO_DOMAINS = "There is no style yet. Make one in **Adapt** from a few pictures, or load one in **Share**."
NO_MIX = "Choose a style first."
NO_CHANGE = "There is nothing to film yet: move a slider or choose a style first."
UNKNOWN_DOMAIN = "There is no domain '{name}'. There are: {known}."
TOO_MANY_DOMAINS = f"At most {limits.MIXED} styles are mixed at a time. Take one out first."
BAD_DOMAINS = 'Give the domains as strengths by name, such as {"sketch": 0.8}.'
NOTHING_TO_EXPORT = "There is nothing to save yet: add a photo, or make or load a domain first."
NOTHING_TO_REMOVE = "Only a domain can be removed: choose one above."
NO_FILE = "Add a .safetensors file first."
NOT_SAFETENSORS = "Only .safetensors files are read: take one that was downloaded here."
FILE_TOO_LARGE = f"The file is too large. A domain or a face has at most {limits.MAX_TOKEN_BYTES / 1e6:g} MB."
OTHER_GENERATOR = "{what} was made for another generator: {base}. This demo draws with {this}."
BAD_ADDRESS = "Give a file by an address from this server, or as data:<type>;base64,<contents>. Others are not read."
NOT_A_FACE = "This file holds a domain, not a face. Use a file of a face, from /invert or /export."
NOT_A_DOMAIN = "This file holds a face, not a domain. Use a file of a domain, from /adapt or /export."
OUT_OF_RANGE = "The values in this file are far out of range, so it would draw nothing but noise. Use another file."
BAD_HUB_ID = "A Hub id is owner/name, such as someone/my-sketch."
SHELF_FULL = f"A session holds {limits.SHELF} domains or {limits.SHELF_BYTES / 1e6:g} MB. Remove one in Share first."
SIGN_IN = "Sign in first: the domain goes to your own account."
NO_PUBLIC_BASE = "This demo draws with a model that is not public, so nobody could use the domain. Download the file."
TAKEN = "You already have a repository of that name. Choose another name."
MAY_NOT = "The Hub does not let this app write there. Sign out and in again, and allow it to create repositories."
TOO_OFTEN = "The Hub asks to slow down. Try again in a few minutes; nothing was uploaded."
NOT_PUSHED = "The Hub did not accept the upload. Nothing was uploaded; try again, or download the file."
STOPPED = "stopped at {step}/{steps}"  # a job, by its user or by the clock
TOO_LARGE_FOR_SESSION = "The result is larger than a session may hold. Use a model of a lower resolution."

log = logging.getLogger("refinestyle.space")


def left_out(refused: Mapping[str, str]) -> str:
    """For pictures that cannot be used: file name -> why."""
    lines = [f"**{html.escape(name[:60])}** was left out. {reason}" for name, reason in refused.items()]
    return "\n\n".join(lines)


def refuse(text: str, **values: object) -> gr.Error:
    """The error to raise for a user's mistake: shown as a toast, sent to API clients, no traceback in the log.

    Values stand in the text where it names them. Those that are no numbers are escaped; of lists, all names are shown.
    """
    shown: dict[str, Any] = {}
    for name, value in values.items():
        words = ", ".join(value) or "none" if isinstance(value, list) else str(value)[:100]
        shown[name] = value if isinstance(value, int | float) else html.escape(words)
    return gr.Error(text.format(**shown) if shown else text, print_exception=False)


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
