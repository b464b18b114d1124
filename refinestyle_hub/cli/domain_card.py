"""``card.json`` of a domain that a command makes: what it was made from, and by which command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..boundary.paths import user_path
from ..errors import counted


__all__ = ["shown", "write_card"]


def write_card(
    out: Path,
    made: Mapping[str, Any],
    model: str,
    command: str,
    *,
    cost: str = "",
    preview: bool,
    changed: bool = True,
) -> None:
    """Write how a domain was made. What else the card says stays; of a domain that changed, not its metrics.

    Args:
        out: The folder of the domain.
        made: Its metadata.
        model: What it was made for, as the user named it.
        command: That made it.
        preview: Whether the folder has ``preview.png``.
    """
    from ..cards.facts import FACTS, Picture, dump_card, read_card
    from ..hub.sources import bundled_models
    from ..storage.atomic import write_folder
    from ..storage.model_folder import Folder, is_repo_id

    known = read_card(Folder(out))
    public = model in bundled_models() or (is_repo_id(model) and not user_path(model).exists())
    picture = Picture("preview.png", "Random seeds of the generator; below, the same in this domain.")
    card = replace(
        known,
        base_model=model if public else known.base_model,
        data=origin(made),
        training=command,
        cost=cost,
        metrics=() if changed else known.metrics,
        pictures=(picture,) if preview else (),
    )
    write_folder(out, {FACTS: dump_card(card)})


def origin(made: Mapping[str, Any]) -> str:
    """What the metadata of a domain say that it was made from; of a mix, what those of each part say."""
    parts, pictures = made.get("mixed_from"), made.get("pictures")  # as a stranger may have written them
    if isinstance(parts, list):
        told = [f"- {part.get('name')}: {origin(part)}" for part in parts if isinstance(part, Mapping)]
        return "\n".join(["A mix of domains.", *dict.fromkeys(told)])
    if isinstance(pictures, int) and pictures:
        what = f"{counted(pictures, 'picture')} of the style, which are not part of this repo"
        rights = str(made.get("rights", "nothing is stated")).rstrip(".")
        return f"Made from {what}. Rights to them, as the maker states: {rights}."
    if "target_text" in made:
        return f'Made without pictures, from the text "{made.get("source_text")}" to "{made["target_text"]}".'
    return "It does not say what it was made from."


def shown(place: str) -> str | None:
    """A name or Hub id as it stands in a command that others read; None for a path, which is nobody's business."""
    return None if user_path(place).exists() else place
