"""Where dlib's models come from, and what is said when they are not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer

from refinestyle_hub.errors import HubConnectionError, MissingDependencyError, ModelFileError, ModelNotFoundError
from refinestyle_hub.faces.dlib_models import IDENTITY_FILE, LANDMARK_FILE, FaceModels, default_models


PIXELS = np.zeros((64, 64, 3), np.uint8)
BOX = (8, 8, 56, 56)


def packaged(name: str) -> Path:
    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "models" / name


def test_the_package_of_models_is_found_but_not_imported() -> None:
    assert FaceModels().landmarks(PIXELS, BOX).shape == (68, 2)
    assert "face_recognition_models" not in sys.modules


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, refinestyle_hub.faces.identity; assert not {'dlib', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink(packaged(LANDMARK_FILE), tmp_path / LANDMARK_FILE)
    expected = FaceModels().landmarks(PIXELS, BOX)
    models = FaceModels(tmp_path)
    assert np.array_equal(models.landmarks(PIXELS, BOX), expected)
    with pytest.raises(ModelNotFoundError, match=IDENTITY_FILE):
        models.descriptor(PIXELS, BOX, expected)
    monkeypatch.setenv("REFINESTYLE_FACE_MODELS", str(tmp_path))
    assert default_models().source == str(tmp_path)
    assert default_models() is default_models()


def test_models_from_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("someone/dlib", {LANDMARK_FILE: b"nonsense"})  # the real one takes 95 MB
    with pytest.raises(ModelFileError, match=f"snapshots.*{LANDMARK_FILE} is not a dlib model"):
        FaceModels("someone/dlib").landmarks(PIXELS, BOX)
    with pytest.raises(ModelNotFoundError, match=f"someone/dlib .* has no {IDENTITY_FILE}"):
        FaceModels("someone/dlib").descriptor(PIXELS, BOX, np.zeros((68, 2)))
    with pytest.raises(ModelNotFoundError, match="no model someone/else"):
        FaceModels("someone/else").landmarks(PIXELS, BOX)
    hub.fail(".*", status=503)
    with pytest.raises(HubConnectionError, match="cannot be reached"):
        FaceModels("someone/third").landmarks(PIXELS, BOX)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "pip install dlib-bin face-recognition-models"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "dlib", None)
        with pytest.raises(MissingDependencyError, match=advice):
            FaceModels().detect(PIXELS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=advice) as caught:
        FaceModels().landmarks(PIXELS, BOX)
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(
        MissingDependencyError, match=f"{advice}\n.*, or invert with tokens=False, steps=0, or with steps and identity"
    ) as caught:
        _ = FaceModels().identity_file
    assert "aligned" not in str(caught.value)  # an aligned crop is compared with its drawing, too


def test_a_damaged_model_file(tmp_path: Path) -> None:
    (tmp_path / LANDMARK_FILE).write_bytes(b"nonsense")
    with pytest.raises(ModelFileError, match=LANDMARK_FILE):
        FaceModels(tmp_path).landmarks(PIXELS, BOX)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open() -> None:
    models = FaceModels()
    before = len(os.listdir("/proc/self/fd"))
    points = models.landmarks(PIXELS, BOX)
    models.descriptor(PIXELS, BOX, points)
    assert len(os.listdir("/proc/self/fd")) == before
