"""Whether two pictures show one person, and one face."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from PIL import Image

from refinestyle_hub.faces.identity import Likeness, identity_distance, likeness
from refinestyle_hub.faces.photo import read_photo


def test_identity_distance(astronaut: Image.Image, shared_data: Path) -> None:
    crop = read_photo(astronaut).crop(128).image
    other_size = read_photo(astronaut.resize((800, 800), Image.Resampling.BICUBIC)).crop(256).image
    assert identity_distance(crop, crop) == 0
    same = identity_distance(crop, other_size)
    assert same is not None
    assert same < 0.25
    assert same == identity_distance(other_size, crop)
    with zipfile.ZipFile(shared_data / "portraits-128.zip") as archive:
        name = min(name for name in archive.namelist() if name.endswith(".jpg"))
        somebody = Image.open(io.BytesIO(archive.read(name)))
    different = identity_distance(crop, somebody)
    assert different is not None
    assert different > 0.6  # dlib's threshold for another person
    assert identity_distance(crop, Image.new("RGB", (128, 128))) is None
    assert identity_distance(Image.new("RGB", (128, 128)), crop) is None


def test_a_mouth_in_the_wrong_place_shows_in_the_landmarks(astronaut: Image.Image) -> None:
    crop = read_photo(astronaut).crop(512).image
    assert likeness(crop, crop) == Likeness(0.0, 0.0)
    mouth = crop.crop((190, 330, 320, 400))
    broken = crop.copy()
    broken.paste(crop.crop((190, 260, 320, 300)).resize(mouth.size), (190, 330))
    broken.paste(mouth, (190, 400))
    found = likeness(crop, broken)
    assert found is not None
    assert found.landmarks > 0.07  # faces that were drawn well are 0.02 to 0.05 apart
