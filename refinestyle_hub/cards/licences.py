"""Under which terms a model and its generator come: read from cards, never assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any

from ..errors import CardError, counted
from ..storage.index import CONFIG, model_folders
from ..storage.model_folder import Source
from ..storage.schema import read_json
from .facts import README, Card, read_card, read_text
from .metadata import split


__all__ = ["check_rights", "relicensed", "stated_licence"]


def check_rights(source: Source) -> None:
    """Every domain of a saved model that was made from pictures says by what right they were used.

    Raises:
        CardError: A domain does not say so.
    """
    for folder in model_folders(source):
        path = source.find(str(PurePosixPath(folder, CONFIG)))
        found = {} if path is None else read_json(path)
        for made in _made(found.get("metadata", {})) if found.get("class") == "TokenSet" else ():
            if made.get("pictures") and not str(made.get("rights") or "").strip():
                count, name = made["pictures"], made.get("name") or folder or "the domain"
                what = counted(count, "picture") if isinstance(count, int) else "pictures"
                raise CardError(
                    f"Nothing states the right to use the {what} that {name!r} was made from."
                    "\nState it: refinestyle adapt ... --rights TEXT, once more into the same folder; or from Python\n"
                    'dataclasses.replace(domain, metadata={**domain.metadata, "rights": TEXT}).'
                )


def _made(metadata: object) -> Iterator[Mapping[str, Any]]:
    """What the metadata of a set, as a stranger may have written them, tell of it and of those it was mixed from."""
    if isinstance(metadata, Mapping):
        yield metadata
        parts = metadata.get("mixed_from")
        for part in parts if isinstance(parts, list) else ():
            yield from _made(part)


def relicensed(card: Card, old: str) -> Card:
    """``card`` under the licence that the metadata of an old card's text state, if they do."""
    known, _ = split(old)
    if not known.get("license"):
        return card
    name, link = known.get("license_name"), known.get("license_link")
    return replace(card, license=known["license"], license_name=name, license_link=link)


def stated_licence(source: Source, subfolder: str = "") -> str | None:
    """The licence that the card of a part states, or if it does not, the card of the repo that the part is in.

    The name of it, where it is none of the Hub's list. What README.md says, which people edit, goes before card.json.
    """
    for folder in dict.fromkeys([subfolder, ""]):
        known, _ = split(read_text(source.find(str(PurePosixPath(folder, README)))))
        if licence := _named(known) or _named(asdict(read_card(source, folder))):
            return licence
    return None


def _named(facts: Mapping[str, Any]) -> str | None:
    licence = facts.get("license_name") or facts.get("license")
    return licence if isinstance(licence, str) and licence else None
