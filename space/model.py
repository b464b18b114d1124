"""Which model the demo draws with, and the face that a visit begins with."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import torch

from refinestyle_hub.errors import FetchError, RefineStyleHubError
from refinestyle_hub.faces.align import cut
from refinestyle_hub.faces.identity import likeness
from refinestyle_hub.images import load_picture
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.runtime.bf16 import in_bf16
from refinestyle_hub.runtime.compiled import compile_behind
from refinestyle_hub.storage.model_folder import is_repo_id

from . import limits, messages
from .session import Subject


DEFAULT = "ffhq-1024"  # its weights are fetched at the first start
BUNDLED = "mini-faces-128"  # always there
EXAMPLES = Path(__file__).parent / "examples"
PHOTO = EXAMPLES / "astronaut.jpg"


def load(name: str | None = None) -> tuple[RefineStylePipeline, str, str]:
    """The pipeline ``name`` on the best device there is, its name, and a notice for visitors.

    A Hub id is its own name; of a folder, nobody needs to know where it lies. Where a model cannot be loaded, the
    bundled one takes its place and the notice says so.

    Raises:
        RefineStyleHubError: the bundled model cannot be loaded either.
    """
    name = name or DEFAULT
    shown = name if is_repo_id(name) and not Path(name).exists() else Path(name).name
    try:
        return _ready(name), shown, ""
    except RefineStyleHubError as error:
        if name == BUNDLED:
            raise
        failed = "fetched" if isinstance(error, FetchError) else "loaded"
        notice = f"{shown} could not be {failed}, so this is {BUNDLED}: small faces that are no photos."
        messages.log.error("%s\n%s", notice, error)
        return _ready(BUNDLED), BUNDLED, notice


def astronaut(pipe: RefineStylePipeline) -> Subject | None:
    """The example, which was inverted beforehand (``tools/demo_example.py``); None for another generator."""
    face = Inversion.from_pretrained(EXAMPLES / "astronaut.safetensors")
    if face.base is None or face.base.digest != pipe.fingerprint.digest or face.quad is None:
        return None
    crop = cut(load_picture(PHOTO), face.quad.double().numpy(), pipe.generator.config.resolution)
    return Subject.of(face, np.asarray(crop.image), str(PHOTO))


def _ready(name: str) -> RefineStylePipeline:
    pipe = RefineStylePipeline.from_pretrained(name, device="cuda" if torch.cuda.is_available() else "cpu")
    # To ask for them loads them: before a worker is forked, and before the first visitor waits for them.
    _ = pipe.perceptual, pipe.encoder
    if pipe.generator.compiled:
        compile_behind()
    threading.Thread(target=_warm, args=(pipe,), name="warm", daemon=True).start()
    return pipe


def _warm(pipe: RefineStylePipeline) -> None:
    """Do once what visitors do most, in the background: what it needs is then loaded and compiled before they come."""
    with contextlib.suppress(RefineStyleHubError):  # where no face can be found, visitors are told
        likeness(*[load_picture(PHOTO)] * 2)
    if not pipe.generator.compiled:
        return
    faces = pipe.invert_crops(pipe.generate([0], output_type="pt"), steps=1)
    whole = pipe.generator.config.resolution
    for side in (min(limits.DRAG_SIDE, whole), whole):
        for refine in (1.0, 0.0):
            with in_bf16(pipe.device, side < whole):
                pipe.render(faces, refine=refine, resolution=side)
