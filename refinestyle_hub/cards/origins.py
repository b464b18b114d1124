"""What a domain was made from, in words for its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import counted


__all__ = ["origin"]


def origin(made: Mapping[str, Any]) -> str:
    """What the metadata of a domain say that it was made from; of a mix, what those of each part say."""
    parts, pictures = made.get("mixed_from"), made.get("pictures")  # as a stranger may have written them
    if isinstance(parts, list):
        return "\n".join(["A mix of domains.", *dict.fromkeys(_told(parts))])
    if isinstance(pictures, int) and pictures:
        what = f"{counted(pictures, 'picture')} of the style, which are not part of this repo"
        rights = str(made.get("rights") or "").strip().rstrip(".") or "nothing is stated"
        return f"Made from {what}. Rights to them, as the maker states: {rights}."
    if "target_text" in made:
        return f'Made without pictures, from the text "{made.get("source_text")}" to "{made["target_text"]}".'
    return "It does not say what it was made from."


def _told(parts: list[Any]) -> Iterator[str]:
    """A line on each part of a mix; of a part that is a mix as well, those on its own parts."""
    for part in parts:
        if isinstance(part, Mapping):
            if isinstance(mixed := part.get("mixed_from"), list):
                yield from _told(mixed)
            else:
                yield f"- {part['name']}: {origin(part)}" if part.get("name") else f"- {origin(part)}"
