"""dlib's models: two face detectors, 68 landmarks, and an embedding of identity.

Licences. dlib is under the Boost licence. Its model files are never part of this package; they come from the package
``face-recognition-models``, from a folder or from the Hub. The identity network was released into the public domain by
its author. The landmark model is disputed: ``face-recognition-models`` declares all its files CC0 (MIT in its
metadata), but this one was trained on the iBUG 300-W data set, whose licence excludes commercial use, and its author
passes on a request by that data set's creators not to use the model in a commercial product (README of
davisking/dlib-models). Whoever brings aligned crops needs none of it.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..boundary.contents import check_contents, fetch_again, start_of
from ..boundary.paths import AnyPath, user_path
from ..errors import MissingDependencyError, ModelFileError, ModelNotFoundError
from ..hub.sources import Repo
from ..runtime.optional import optional
from ..storage.model_folder import is_repo_id


__all__ = ["WITHOUT_FACES", "WITHOUT_IDENTITY", "Box", "FaceModels", "Floats", "default_models"]

PACKAGES = ("dlib-bin", "face-recognition-models")
WITHOUT_FACES = "pass aligned=True"
ELSEWHERE = "Or name a folder or Hub repo with dlib's files in REFINESTYLE_FACE_MODELS, or "
WITHOUT_IDENTITY = "invert with tokens=False, steps=0, or with steps and identity and w_identity of the settings at 0"

Box = tuple[int, int, int, int]  # left, top, right, bottom
Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

LANDMARK_FILE = "shape_predictor_68_face_landmarks.dat"
IDENTITY_FILE = "dlib_face_recognition_resnet_model_v1.dat"
CNN_FILE = "mmod_human_face_detector.dat"


class FaceModels:
    """dlib's detector, landmark model and identity network, each read on first use.

    Safe to share between threads: dlib's objects keep scratch memory, so one lock guards them.

    Args:
        source: A folder or Hub repository with dlib's ``.dat`` files. None takes the package face-recognition-models.
    """

    def __init__(self, source: AnyPath | None = None) -> None:
        self.source = source
        self._lock = threading.RLock()

    def detect(self, pixels: Pixels) -> list[tuple[Box, float]]:
        """uint8 ``[H, W, 3]`` -> boxes with scores above 0; frontal faces from 80 pixels, best first."""
        with self._lock:
            boxes, scores, _ = self._detector.run(pixels, 0, 0.0)
        found = [((b.left(), b.top(), b.right(), b.bottom()), float(s)) for b, s in zip(boxes, scores, strict=True)]
        return sorted(found, key=lambda item: -item[1])

    def detect_by_cnn(self, pixels: Pixels) -> list[tuple[Box, float]]:
        """uint8 ``[H, W, 3]`` -> boxes with scores, best first, by a network that also finds half-turned faces.

        It takes about 10 s a megapixel on a processor core. The score of a clear face is about 1.
        """
        with self._lock:
            found = [(r.rect, r.confidence) for r in self._cnn(pixels, 0)]
        boxes = [((b.left(), b.top(), b.right(), b.bottom()), float(score)) for b, score in found]
        return sorted(boxes, key=lambda item: -item[1])

    def landmarks(self, pixels: Pixels, box: Box) -> Floats:
        """uint8 ``[H, W, 3]`` and a detected box -> the 68 points ``[68, 2]``, to whole pixels."""
        with self._lock:
            points = self._predictor(pixels, self._dlib.rectangle(*box)).parts()
        return np.array([(p.x, p.y) for p in points], dtype=np.float64)

    def descriptor(self, pixels: Pixels, box: Box, landmarks: Floats) -> Floats:
        """uint8 ``[H, W, 3]``, a detected box and its landmarks -> identity embedding ``[128]``."""
        points = [self._dlib.point(int(x), int(y)) for x, y in np.rint(landmarks)]
        with self._lock:
            shape = self._dlib.full_object_detection(self._dlib.rectangle(*box), points)
            return np.array(self._identity.compute_face_descriptor(pixels, shape), dtype=np.float64)

    @cached_property
    def identity_file(self) -> Path:
        """The file of the identity network; a Hub repository is asked for it once."""
        return _locate(IDENTITY_FILE, self.source)

    @cached_property
    def _dlib(self) -> Any:
        return optional("dlib", "Finding faces", *PACKAGES, otherwise=f"Or {WITHOUT_FACES}.")

    @cached_property
    def _detector(self) -> Any:
        return self._dlib.get_frontal_face_detector()

    @cached_property
    def _cnn(self) -> Any:
        return self._load(self._dlib.cnn_face_detection_model_v1, CNN_FILE)

    @cached_property
    def _predictor(self) -> Any:
        return self._load(self._dlib.shape_predictor, LANDMARK_FILE)

    @cached_property
    def _identity(self) -> Any:
        return self._load(self._dlib.face_recognition_model_v1, IDENTITY_FILE)

    def _load(self, reader: Any, name: str) -> Any:
        path = _locate(name, self.source)
        check_contents(path, start_of(path), "is not a dlib model")
        try:
            return reader(str(path))
        except RuntimeError as error:
            why = f"{path} is not a dlib model, or is damaged ({error})."
            raise ModelFileError(f"{why}\n{fetch_again(path)}", path=path) from error


def default_models() -> FaceModels:
    """The models that every function here uses: from REFINESTYLE_FACE_MODELS, else from face-recognition-models."""
    return _shared_models(os.environ.get("REFINESTYLE_FACE_MODELS") or None)


@lru_cache(maxsize=1)
def _shared_models(source: str | None) -> FaceModels:
    return FaceModels(source)


def _locate(name: str, source: AnyPath | None) -> Path:
    """The path of a dlib model file: from a folder, a Hub repository or the package of models."""
    if source is None:
        # The package is found but not imported: its __init__ needs pkg_resources, which new environments lack.
        spec = importlib.util.find_spec("face_recognition_models")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (path := Path(folder) / "models" / name).is_file():
                return path
        purpose, otherwise = "Finding faces", f"{ELSEWHERE}{WITHOUT_FACES}."
        if name == IDENTITY_FILE:
            purpose, otherwise = "Comparing people", f"{ELSEWHERE}{WITHOUT_IDENTITY}."
        raise MissingDependencyError(
            f"{purpose} needs dlib's models.\nInstall them: pip install {' '.join(PACKAGES)}\n{otherwise}"
        )
    if (path := user_path(source) / name).is_file():
        return path
    if not user_path(source).exists() and is_repo_id(str(source)):
        repo = Repo(str(source))
        if (found := repo.find(name)) is None:
            raise repo.missing(name)
        return found
    raise ModelNotFoundError(f"There is no {name} in {source} (a folder or a Hub repository with dlib's files).")
