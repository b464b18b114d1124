"""The intake of photos, and the faces that only the network finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw

from refinestyle_hub.errors import FaceNotFoundError, PictureError
from refinestyle_hub.faces.align import face_quad
from refinestyle_hub.faces.detect import find_faces
from refinestyle_hub.faces.photo import read_photo
from refinestyle_hub.images import load_picture


def test_a_half_hidden_face_is_found_by_the_network(astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find_faces(astronaut)[0]
    (left, top), (right, bottom) = whole.landmarks.min(0), whole.landmarks.max(0)
    third = left + 0.35 * (right - left)
    hidden = astronaut.copy()
    ImageDraw.Draw(hidden).rectangle((left - 8, top - 30, third, bottom + 8), fill=(90, 60, 50))
    (face,) = find_faces(hidden)
    assert face.score > 0.9
    assert np.abs(face_quad(face.landmarks) - face_quad(whole.landmarks)).max() < 0.15 * (whole.width * 2)
    with pytest.raises(FaceNotFoundError):
        find_faces(hidden, retries=False)
    ImageDraw.Draw(hidden).rectangle((left - 8, top - 30, right + 8, bottom + 8), fill=(90, 60, 50))
    with pytest.raises(FaceNotFoundError, match="No face found"):
        find_faces(hidden)


@pytest.mark.slow
def test_real_photos_in_which_the_first_detector_finds_nothing(shared_data: Path) -> None:
    photos = sorted((shared_data / "real" / "no-hog-face").glob("*.jpg"))
    found, refused = [], []
    for photo in photos:
        try:
            found.append(len(read_photo(load_picture(photo).reduce(2)).faces))  # the search is as thorough at 500 px
        except FaceNotFoundError as error:
            refused.append(str(error))
    assert found == [1] * 5
    assert len(refused) == 1
    assert "No face found" in refused[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["coffee", "chelsea", "rocket", "coins", "brick", "grass", "gravel", "page", "moon", "hubble_deep_field"],
)
def test_no_face_where_there_is_none(name: str) -> None:
    with pytest.raises(FaceNotFoundError):
        find_faces(load_picture(Image.fromarray(getattr(skimage.data, name)())))


def test_a_picture_without_a_face_is_taken_as_it_is_where_that_is_asked(astronaut: Image.Image) -> None:
    wall = Image.new("RGB", (64, 48), "grey")
    wall.paste("red", (8, 0, 56, 48))
    with pytest.raises(FaceNotFoundError):
        read_photo(wall)
    for crop in (read_photo(wall, "optional").crop(24), read_photo(wall, "none").crop(24)):
        assert crop.image.size == (24, 24)
        assert (np.asarray(crop.image)[:, 2:-2] == (255, 0, 0)).all(), "the central square"
        assert (crop.quad, crop.source_size) == (None, None)
    assert len(read_photo(astronaut, "optional").faces) == 1
    assert read_photo(astronaut, "none").faces == ()
    with pytest.raises(FaceNotFoundError, match="no face 1"):
        read_photo(astronaut).crop(64, 1)
    with pytest.raises(PictureError, match="million"):
        read_photo(astronaut, max_pixels=1000)
