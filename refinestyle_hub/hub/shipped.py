"""The cards of everything that the project ships.

``python -c "from refinestyle_hub.hub.shipped import write_all; write_all('.')"`` writes those of a checkout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..cards.facts import read_card, read_text
from ..cards.rendering import render
from ..storage.atomic import write_folder
from ..storage.index import read_index
from ..storage.model_folder import Folder
from .sources import bundled_models, open_source


__all__ = ["write_all"]


class Shipped(NamedTuple):
    """An artefact that comes with the project, and how users load it."""

    folder: Path
    name: str
    subfolder: str = ""


def shipped(checkout: Path) -> dict[str, Shipped]:
    """Everything with a card that the package or a checkout of the project brings, by the card's file name."""
    found = {}
    for model in bundled_models():
        source = open_source(model)
        assert isinstance(source, Folder)
        index = read_index(source)
        for part in (*index.parts, *(f"domains/{name}" for name in index.domains)):
            if part != "discriminator":  # it goes with the generator
                found[f"{model}-{part.replace('/', '-')}.md"] = Shipped(source.root / part, model, part)
    attributes = checkout / "benchmarks" / "attributes"
    if attributes.is_dir():
        found["attributes.md"] = Shipped(attributes, "./benchmarks/attributes")
    return found


def write_all(checkout: str | os.PathLike[str]) -> list[Path]:
    """Bring ``model_cards/`` of a checkout up to date; returns the paths of the cards.

    Raises:
        CardError: an old card cannot be read.
    """
    root = Path(checkout) / "model_cards"
    files = {}
    for file, (folder, name, subfolder) in shipped(Path(checkout)).items():
        old = read_text(Folder(root).find(file))
        files[file] = render(folder, read_card(Folder(folder)), name, old, subfolder, pictures=root).encode()
    write_folder(root, files)
    return [root / file for file in files]
