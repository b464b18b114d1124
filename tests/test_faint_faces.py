"""A face that was seen faintly: its landmarks are those that hold when the box is moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from refinestyle_hub.faces.detect import Face, confirmed, find_faces
from refinestyle_hub.faces.dlib_models import Floats, default_models


pytest.importorskip("dlib")


def apart(a: Floats, b: Floats) -> float:
    """Mean distance of brows, eyes, nose and mouth, by the eyes' distance in ``b``."""
    return float(np.hypot(*(a - b)[17:].T).mean() / np.hypot(*(b[45] - b[36])))


@pytest.fixture
def seen(astronaut: Image.Image) -> tuple[Face, Face]:
    """The face as it is, and faintly, in a box that lies 30 % too low: the mouth is then found on the chin."""
    (face,) = find_faces(astronaut)
    left, top, right, bottom = face.box
    down = round(0.3 * face.width)
    box = (left, top + down, right, bottom + down)
    return face, Face(box, default_models().landmarks(np.asarray(astronaut), box), 0.5)


def test_a_faint_box_that_is_off_gives_way_to_that_of_the_network(
    astronaut: Image.Image, seen: tuple[Face, Face]
) -> None:
    face, faint = seen
    assert apart(faint.landmarks, face.landmarks) > 0.15  # or there would be nothing to mend
    mended = confirmed(astronaut, faint, default_models())
    assert apart(mended.landmarks, face.landmarks) < 0.05  # two looks at one face differ by 0.02 to 0.03


def test_a_faint_box_that_fits_stays(astronaut: Image.Image, seen: tuple[Face, Face]) -> None:
    face = seen[0]
    kept = confirmed(astronaut, replace(face, score=0.5), default_models())
    assert apart(kept.landmarks, face.landmarks) < 0.05


def test_a_clear_face_is_left_as_it_is(astronaut: Image.Image, seen: tuple[Face, Face]) -> None:
    assert confirmed(astronaut, seen[0], default_models()) is seen[0]
