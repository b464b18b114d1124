"""The attributes that have a direction: how each is read, and what its two ends are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


__all__ = ["ATTRIBUTES", "Attribute", "Scale", "read_attributes"]

Floats: TypeAlias = NDArray[np.float64]
Values: TypeAlias = Mapping[str, Floats]


class Attribute(NamedTuple):
    """One row of the table."""

    group: str
    negative: str
    positive: str
    read: Callable[[Values], Floats]
    free: tuple[str, ...] = ()  # attributes that may move along: they are part of what this one means
    limits: tuple[float, float] = (-3.0, 3.0)  # strengths beyond which pictures were seen to tear
    gain: float = 1.0  # of strength beside tokens, see ``DirectionInfo``
    first: int = 0  # row of w+ from which on layers are tried: coarser ones would recolour by drawing somebody else


def _mean_of(*names: str) -> Callable[[Values], Floats]:
    """The mean of some standardised readings, arrays or tensors; a minus before a name turns it round."""

    def read(values: Values) -> Floats:
        return sum(-values[n[1:]] if n[0] == "-" else values[n] for n in names) / len(names)

    return read


# Readings come in standardised: see ``read_attributes``.
ATTRIBUTES: Mapping[str, Attribute] = {
    "smile": Attribute(
        "Expression", "sad", "happy", _mean_of("expression_happy", "mouth_corners", "mouth_width"), ("nose", "lips")
    ),
    "mouth_open": Attribute("Expression", "closed", "open", _mean_of("mouth_open"), ("face_width",)),
    "eyes_open": Attribute("Expression", "closed", "open", _mean_of("eyes_open"), gain=1.15),
    "brows": Attribute("Expression", "lowered", "raised", _mean_of("brow_height")),
    "age": Attribute("Person", "younger", "older", _mean_of("age"), ("hair_lightness",)),
    "gender": Attribute(
        "Person", "masculine", "feminine", _mean_of("gender"), ("beard", "makeup"), limits=(-2.0, 2.0)
    ),
    "face_width": Attribute("Person", "slim", "broad", _mean_of("-face_length", "jaw_width")),
    "lips": Attribute("Person", "thin", "full", _mean_of("lips"), first=2, gain=1.14),
    "nose": Attribute("Person", "narrow", "broad", _mean_of("nose_width"), gain=1.12),
    "skin_tone": Attribute("Person", "lighter", "darker", _mean_of("-skin_lightness"), first=6, limits=(-2.0, 3.0)),
    "beard": Attribute("Person", "shaved", "full", _mean_of("beard"), first=4),
    "glasses": Attribute("Person", "without", "with", _mean_of("glasses")),
    "makeup": Attribute("Person", "none", "more", _mean_of("makeup"), ("gender",), first=6),
    "hair_length": Attribute("Hair", "shorter", "longer", _mean_of("hair_length"), gain=1.15),
    "fringe": Attribute("Hair", "without", "with", _mean_of("fringe")),
    "bald": Attribute("Hair", "thick hair", "bald", _mean_of("bald"), ("hair_length", "fringe"), limits=(-1.0, 3.0)),
    "curls": Attribute("Hair", "straight", "curly", _mean_of("curls"), first=2, limits=(-3.0, 2.0), gain=1.2),
    "hair_lightness": Attribute("Hair", "darker", "lighter", _mean_of("hair_lightness"), first=6, limits=(-2.0, 2.0)),
    "hat": Attribute("Hair", "without", "with", _mean_of("hat"), ("fringe", "hair_lightness"), limits=(-1.0, 3.0)),
    "yaw": Attribute("Pose and light", "to the left", "to the right", _mean_of("yaw"), limits=(-2.0, 2.0)),
    "pitch": Attribute("Pose and light", "up", "down", _mean_of("pitch")),
    "light": Attribute("Pose and light", "from the left", "from the right", _mean_of("light"), first=4),
    "background": Attribute(
        "Pose and light", "dark background", "light background", _mean_of("background"), first=4, gain=1.16
    ),
    "warmth": Attribute(
        "Pose and light", "colder", "warmer", _mean_of("skin_yellow", "background_yellow"), first=6, limits=(-2.0, 2.0)
    ),
}


class Scale(NamedTuple):
    """Mean and deviation of each reading over the drawn faces, robust against the few that were misread."""

    mean: Mapping[str, float]
    deviation: Mapping[str, float]

    @classmethod
    def of(cls, values: Values) -> Scale:
        """Median, and half the distance of the quantiles that a deviation spans."""
        quantiles = {name: np.nanquantile(v, (0.5, 0.1587, 0.8413)) for name, v in values.items()}
        deviation = {n: max((q[2] - q[1]) / 2, float(np.nanstd(values[n])) / 2, 1e-6) for n, q in quantiles.items()}
        return cls({name: float(q[0]) for name, q in quantiles.items()}, deviation)


def read_attributes(readings: Values, scale: Scale) -> dict[str, Floats]:
    """Readings (those of heads among them) -> attribute -> [N], about standardised; within five deviations."""
    standard = {
        name: np.nan_to_num((values - scale.mean[name]) / scale.deviation[name]).clip(-5, 5)
        for name, values in readings.items()
        if name in scale.mean
    }
    return {name: attribute.read(standard) for name, attribute in ATTRIBUTES.items()}
