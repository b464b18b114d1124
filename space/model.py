"""Which model the demo draws with."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from refinestyle_hub.errors import RefineStyleHubError
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.model_folder import is_repo_id


__all__ = ["BUNDLED", "load"]

BUNDLED = "mini-faces-128"

log = logging.getLogger("refinestyle.space")


def load(name: str | None = None) -> tuple[RefineStylePipeline, str, str]:
    """The pipeline ``name`` on the best device there is, its name, and a notice for visitors.

    A Hub id is its own name; of a folder, nobody needs to know where it lies. Where a model of the owner's choice
    cannot be loaded, the bundled one takes its place and the notice says so.

    Raises:
        RefineStyleHubError: the bundled model cannot be loaded either.
    """
    if name and name != BUNDLED:
        shown = name if is_repo_id(name) and not Path(name).exists() else Path(name).name
        try:
            return _ready(name), shown, ""
        except RefineStyleHubError as error:
            log.error("%s could not be loaded: %s", name, error)
            return _ready(BUNDLED), BUNDLED, f"{shown} could not be loaded; this is {BUNDLED} instead."
    return _ready(BUNDLED), BUNDLED, ""


def _ready(name: str) -> RefineStylePipeline:
    pipe = RefineStylePipeline.from_pretrained(name, device="cuda" if torch.cuda.is_available() else "cpu")
    _ = pipe.perceptual  # loads it: before a worker is forked, and before the first visitor waits for it
    return pipe
