"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import skimage.data
from PIL import Image


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the portraits, labels, domains and photos (DESIGN.md, section 5)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("REFINESTYLE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; name its folder in REFINESTYLE_DATA")
    return folder


@pytest.fixture
def astronaut() -> Image.Image:
    """A real photo, 512 x 512: Eileen Collins, NASA, public domain."""
    return Image.fromarray(skimage.data.astronaut())
