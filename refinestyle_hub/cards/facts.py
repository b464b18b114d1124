"""What a card says that no other file holds: data, cost, metrics, limits, licence. Kept as ``card.json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import CardError
from ..storage.model_folder import Source
from ..storage.schema import dump_json, from_json, read_json


__all__ = ["FACTS", "README", "Card", "Metric", "Picture", "dump_card", "read_card", "read_text"]

FACTS = "card.json"
README = "README.md"


@dataclass(frozen=True)
class Metric:
    """A measured number, and how to measure it again."""

    name: str  # as a reader says it: "Frechet distance in attribute features"
    value: float
    dataset: str  # what it was measured on: "portraits-128, test split"
    unit: str = ""
    samples: int | None = None
    seed: int | None = None
    version: str = ""  # of the metric: "lpips 0.1.4, vgg"
    command: str = ""  # that prints it
    reference: bool = False  # a row for scale: in the table, not among the model's results


@dataclass(frozen=True)
class Picture:
    """A picture beside the card."""

    file: str
    caption: str


@dataclass(frozen=True)
class Card:
    """The facts of a card that no other file holds; kept as ``card.json``. Text is Markdown."""

    license: str | None = None  # an id of the Hub's list; "other" needs the next two. Never assumed
    license_name: str | None = None
    license_link: str | None = None  # address, or the name of a file in the repo
    base_license: str | None = None  # of the generator it was made for: those terms stay
    base_model: str | None = None  # that generator: a Hub id or a bundled name
    title: str = ""
    summary: str = ""
    data: str = ""  # what it was trained on, how much of it, under which licence
    datasets: tuple[str, ...] = ()  # Hub ids of the same
    training: str = ""  # the command
    cost: str = ""  # machine and time
    metrics: tuple[Metric, ...] = ()
    limits: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    citation: str = ""  # BibTeX, beyond the method's own
    tags: tuple[str, ...] = ()


def read_card(source: Source, subfolder: str = "") -> Card:
    """The facts in ``card.json`` of a part; an empty card if there is no such file.

    Raises:
        ModelFileError, ConfigError: The file is not valid.
    """
    path = source.find(str(PurePosixPath(subfolder, FACTS)))
    return Card() if path is None else from_json(Card, read_json(path), path)


def read_text(path: Path | None) -> str:
    """The text of a README.md; empty if there is none. Raises CardError if it is not text."""
    try:
        return path.read_text(encoding="utf-8-sig") if path else ""
    except UnicodeDecodeError:
        raise CardError(f"{path} is not UTF-8 text. Save it as such, or remove it.") from None


def dump_card(card: Card) -> bytes:
    """``card.json``, without what is not known."""
    return dump_json({key: value for key, value in dataclasses.asdict(card).items() if value})
