"""How the editing directions of a model are laid out and explained to people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


__all__ = ["Attribute", "grouped", "label"]


@dataclass(frozen=True)
class Attribute:
    """A slider: what it is called, and what its two ends mean."""

    group: str
    label: str
    low: str = ""
    high: str = ""

    @property
    def ends(self) -> str:
        """Both ends in one line."""
        return f"{self.low} ↔ {self.high}" if self.low else ""


KNOWN = {
    "smile": Attribute("Expression", "Smile", "sad", "happy"),
    "mouth_open": Attribute("Expression", "Mouth", "closed", "open"),
    "brow": Attribute("Expression", "Brows", "lowered", "raised"),
    "age": Attribute("Person", "Age", "younger", "older"),
    "gender": Attribute("Person", "Gender", "masculine", "feminine"),
    "skin_tone": Attribute("Person", "Skin tone", "lighter", "darker"),
    "makeup": Attribute("Person", "Make-up", "none", "more"),
    "beard": Attribute("Person", "Beard", "shaved", "full"),
    "glasses": Attribute("Person", "Glasses", "without", "with"),
    "hair_length": Attribute("Hair", "Hair length", "shorter", "longer"),
    "hair_lightness": Attribute("Hair", "Hair colour", "darker", "lighter"),
    "yaw": Attribute("Pose and light", "Turn", "one side", "the other"),
    "pitch": Attribute("Pose and light", "Nod", "one way", "the other"),
    "light": Attribute("Pose and light", "Light", "one side", "the other"),
    "light_azimuth": Attribute("Pose and light", "Light from the side", "one side", "the other"),
    "light_elevation": Attribute("Pose and light", "Light from above", "lower", "higher"),
}
GROUPS = ("Expression", "Person", "Hair", "Pose and light", "More")


def grouped(names: Iterable[str]) -> dict[str, dict[str, Attribute]]:
    """Group -> direction -> how to show it, in the order of ``GROUPS``; unknown directions come under "More"."""
    shown = {name: _attribute(name) for name in names}
    order = [name for name in KNOWN if name in shown] + [name for name in shown if name not in KNOWN]
    groups = {group: {name: shown[name] for name in order if shown[name].group == group} for group in GROUPS}
    return {group: members for group, members in groups.items() if members}


def label(direction: str) -> str:
    """What people read for the name of a direction."""
    return _attribute(direction).label


def _attribute(direction: str) -> Attribute:
    return KNOWN.get(direction, Attribute("More", direction.replace("_", " ").capitalize()))
