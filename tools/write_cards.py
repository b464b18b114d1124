"""Write the cards of everything that the project ships, in ``model_cards/``: python tools/write_cards.py"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refinestyle_hub.cards.facts import read_card, read_text
from refinestyle_hub.cards.rendering import render
from refinestyle_hub.hub.fetched import FetchedModel
from refinestyle_hub.hub.sources import bundled_models, open_source
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.index import model_folders
from refinestyle_hub.storage.model_folder import Folder


ROOT = Path(__file__).parent.parent


class Shipped(NamedTuple):
    """A part that comes with the project, and how users load it."""

    source: Folder  # of the whole model; its facts hold also where an older copy is in the cache
    folder: Path
    name: str
    subfolder: str


def shipped() -> dict[str, Shipped]:
    """Every bundled part and domain with a card, by the card's file name."""
    found = {}
    for model in bundled_models():
        source = open_source(model)
        assert isinstance(source, Folder)
        for part in model_folders(source)[1:]:
            if part != "discriminator":  # it goes with the generator
                found[f"{model}-{part.replace('/', '-')}.md"] = Shipped(source, place(source, part), model, part)
    return found


def place(source: Folder, part: str) -> Path:
    """The folder of a part; a generator that is fetched is in the cache, if somebody has fetched it."""
    return source.place if isinstance(source, FetchedModel) and part == "generator" else source.root / part


def write_cards(root: Path = ROOT / "model_cards") -> list[Path]:
    """Bring the cards in a folder up to date; returns their paths. Raises CardError if an old one cannot be read."""
    files = {}
    for file, (source, folder, name, subfolder) in shipped().items():
        if not folder.is_dir():
            print(f"{file} stays as it is: refinestyle get {name} first")
            continue
        old = read_text(Folder(root).find(file))
        files[file] = render(folder, read_card(source, subfolder), name, old, subfolder, pictures=root).encode()
    write_folder(root, files)
    return [root / file for file in files]


if __name__ == "__main__":
    for path in write_cards():
        print(path)
