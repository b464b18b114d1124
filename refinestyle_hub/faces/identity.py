"""Whether two pictures show one person, by dlib's embedding, and one face, by its landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .detect import Face, confirmed, fit, plain, search
from .dlib_models import FaceModels, Pixels, default_models


__all__ = ["Likeness", "identity_distance", "likeness"]


@dataclass(frozen=True)
class Likeness:
    """How far apart the faces of two aligned pictures are.

    identity: Euclidean distance of dlib's identity embeddings. Photos of one person are likely under 0.6; two pictures
        of one moment are much nearer.
    landmarks: Mean distance of the 51 landmarks of brows, eyes, nose and mouth, as a share of the first face's
        distance between the outer corners of the eyes: the normalised mean error of face alignment. The embedding
        overlooks what this shows, such as a mouth in the wrong place.
    """

    identity: float
    landmarks: float


def likeness(a: Image.Image, b: Image.Image, *, models: FaceModels | None = None) -> Likeness | None:
    """Compare the faces of two pictures, aligned alike; of several faces in one the largest counts.

    None where no face could be measured in one of the pictures. Synthetic and stylised faces are outside of what the
    identity network was trained on.
    """
    models = models or default_models()
    faces, descriptors = [], []
    for image in (a, b):
        found = _largest(image, models)
        if found is None:
            return None
        pixels, face = found
        faces.append(face.landmarks)
        descriptors.append(models.descriptor(pixels, face.box, face.landmarks))
    eyes = np.hypot(*(faces[0][45] - faces[0][36]))
    apart = np.hypot(*(faces[0] - faces[1])[17:].T).mean() / eyes
    return Likeness(float(np.linalg.norm(descriptors[0] - descriptors[1])), float(apart))


def identity_distance(a: Image.Image, b: Image.Image, *, models: FaceModels | None = None) -> float | None:
    """``likeness`` in the identity alone: how far apart two people are, or None."""
    found = likeness(a, b, models=models)
    return None if found is None else found.identity


def _largest(image: Image.Image, models: FaceModels) -> tuple[Pixels, Face] | None:
    """The largest face of a picture, and the pixels in which it was found."""
    picture = fit(plain(image), 512, 512)  # landmarks are whole pixels: small pictures are enlarged
    face = max(search(picture, True, models), key=lambda face: face.width, default=None)
    return None if face is None else (np.asarray(picture), confirmed(picture, face, models))
