"""How far pose, expression and identity moved with a change of style: by dlib, and by what a network reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FaceNotFoundError, MissingDependencyError
from ..faces.detect import find_faces
from ..faces.dlib_models import Floats
from ..faces.identity import identity_distance
from ..images import to_image
from .attributes import AttributeNet


__all__ = ["Faces", "attribute_drift"]

CONTENT = ("yaw", "pitch", "smile", "mouth_open", "brow")  # what a change of style should leave as it is
READABLE = 4.0  # standard deviations from the mean of its training pictures up to which a reading counts


class Faces:
    """dlib's 68 points and its identity embeddings before and after, for the first ``limit`` samples."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.found = 0  # faces before the change
        self.drifts: list[float | None] = []  # in distances between the eyes; None: no face before or after
        self.identities: list[float | None] = []  # identity distances, likewise
        self.missing = ""  # why there are none

    def add(self, source: Tensor, adapted: Tensor) -> None:
        """Look at pairs [N, 3, R, R]."""
        for old, new in zip(source, adapted, strict=True):
            if len(self.drifts) >= self.limit or self.missing:
                return
            try:
                before, after = _points(old), _points(new)
                identity = None if before is None or after is None else identity_distance(to_image(old), to_image(new))
            except MissingDependencyError as error:
                self.missing = str(error).splitlines()[0]
                return
            self.found += before is not None
            self.drifts.append(None if before is None or after is None else _drift(before, after))
            self.identities.append(identity)

    def report(self, notes: list[str]) -> dict[str, Any] | None:
        """Mean and median drift, mean identity distance, and the share of the pictures in which they were measured."""
        if not self.drifts:
            notes.append(f"No landmarks: {self.missing or 'none were asked for.'}")
            return None
        measured = [drift for drift in self.drifts if drift is not None]
        known = [distance for distance in self.identities if distance is not None]
        return {
            "drift": float(np.mean(measured)) if measured else None,
            "median": float(np.median(measured)) if measured else None,
            "identity": float(np.mean(known)) if known else None,
            "pictures": len(self.drifts),
            "share": len(measured) / len(self.drifts),  # a face found before and after
            "share_before": self.found / len(self.drifts),
        }


def _points(picture: Tensor) -> Floats | None:
    """The 68 points of the largest face of [3, R, R], or None."""
    try:
        return find_faces(to_image(picture), retries=False)[0].landmarks
    except FaceNotFoundError:
        return None


def _drift(old: Floats, new: Floats) -> float:
    """Mean distance that the points moved, in distances between the eyes."""
    eyes = float(np.linalg.norm(old[36:42].mean(0) - old[42:48].mean(0)))
    return float(np.linalg.norm(new - old, axis=1).mean()) / eyes


def attribute_drift(net: AttributeNet | None, readings: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any] | None:
    """Mean absolute change of every attribute between readings [N, K] before and after, standardised.

    A reading far outside of what the network was trained on says nothing and does not count; ``share`` says how many
    pairs were left.
    """
    if net is None:
        return None
    old, new = (torch.cat(values) for values in zip(*readings, strict=True))  # [N, K], standardised
    units = (net.to_units(new) - net.to_units(old)).abs()
    each = {}
    for place, name in enumerate(net.config.attributes):
        sure = torch.ones(len(old), dtype=torch.bool, device=old.device)
        if not net.config.binary[place]:
            sure = (old[:, place].abs() <= READABLE) & (new[:, place].abs() <= READABLE)
        change = float(units[sure, place].mean()) if sure.any() else None
        each[name] = {
            "drift": change,  # in the units of the labels
            "deviations": None if change is None else change / net.config.std[place],
            "share": float(sure.cpu().double().mean()),
        }
    content = [each[name] for name in CONTENT if name in each and each[name]["deviations"] is not None]
    return {
        "content_deviations": float(np.mean([x["deviations"] for x in content])) if content else None,
        "share": float(np.mean([x["share"] for x in content])) if content else 0.0,
        "each": each,
    }
