"""Heads that are tilted, by any angle: the crop comes out upright."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from refinestyle_hub.faces.detect import Face, find_faces, horizontal, straightened


ANGLE = np.radians(-20)
TURN_BY_20 = np.array([[np.cos(ANGLE), np.sin(ANGLE)], [-np.sin(ANGLE), np.cos(ANGLE)]])


def tilt(image: Image.Image) -> float:
    """Degrees clockwise of the largest face."""
    x, y = horizontal(find_faces(image)[0].landmarks)
    return float(np.degrees(np.arctan2(y, x)))


@pytest.mark.parametrize("turned", [-45, 55, 135])
def test_tilted_heads_come_out_upright(astronaut: Image.Image, turned: int) -> None:
    found = tilt(astronaut.rotate(turned, expand=True, resample=Image.Resampling.BICUBIC, fillcolor="grey"))
    rest = (found + turned - tilt(astronaut) + 180) % 360 - 180
    assert abs(rest) < 3


def test_an_upright_face_is_left_as_it_was_found(astronaut: Image.Image) -> None:
    from refinestyle_hub.faces.detect import plain, search
    from refinestyle_hub.faces.dlib_models import default_models

    (first, *_), (again, *_) = search(plain(astronaut), True, default_models()), find_faces(astronaut)
    assert np.array_equal(first.landmarks, again.landmarks)


@pytest.mark.parametrize(("second", "kept"), [(0.56, True), (0.9, False)])
def test_a_faint_upright_face_is_left_unless_it_is_seen_more_clearly(
    astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch, second: float, kept: bool
) -> None:
    (sure, *_) = find_faces(astronaut)
    first = replace(sure, score=0.76)
    tilted = Face(sure.box, sure.landmarks @ TURN_BY_20, second, -20.0)
    monkeypatch.setattr("refinestyle_hub.faces.detect._turned", lambda *_: SimpleNamespace(faces=lambda _: [tilted]))
    assert (straightened(astronaut, first, None) is first) == kept  # type: ignore[arg-type]
