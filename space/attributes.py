"""How the editing directions of a model are laid out and explained to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refinestyle_hub.editing.directions import Direction


__all__ = ["Attribute", "grouped"]

FIRST = ("Expression", "Person", "Hair", "Pose and light")  # groups that people look for; others follow
MORE = "More"  # the group of directions that name none


@dataclass(frozen=True)
class Attribute:
    """A slider: what it is called, what its two ends mean, and where they are."""

    label: str
    ends: str
    limits: tuple[float, float]


def grouped(directions: Mapping[str, Direction]) -> dict[str, dict[str, Attribute]]:
    """Group -> direction -> how to show it; those without a group come last."""
    groups: dict[str, dict[str, Attribute]] = {}
    for name, direction in directions.items():
        info = direction.info
        ends = f"{info.negative} ↔ {info.positive}" if info.negative else ""
        groups.setdefault(info.group or MORE, {})[name] = Attribute(
            name.replace("_", " ").capitalize(), ends, info.limits
        )
    order = [*FIRST, *(group for group in groups if group not in (*FIRST, MORE)), MORE]
    return {group: groups[group] for group in order if group in groups}
