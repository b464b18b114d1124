"""Whether two pictures show one person, by dlib's embedding, and one face, by its landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .detect import confirmed, fit, plain, search
from .dlib_models import FaceModels, default_models


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
    pictures = [fit(plain(image), 512, 512) for image in (a, b)]  # landmarks are whole pixels: small ones are enlarged
    pixels = [np.asarray(one) for one in pictures]
    faces = [max(search(one, True, models), key=lambda face: face.width, default=None) for one in pictures]
    first, second = faces
    if first is None or second is None:
        return None
    descriptors = [
        models.descriptor(one, face.box, face.landmarks) for one, face in zip(pixels, (first, second), strict=True)
    ]
    box = confirmed(pictures[0], first, models).box  # for both: where one looks moves what one finds
    points = [models.landmarks(one, box) for one in pixels]
    apart = np.hypot(*(points[0] - points[1])[17:].T).mean() / np.hypot(*(points[0][45] - points[0][36]))
    return Likeness(float(np.linalg.norm(descriptors[0] - descriptors[1])), float(apart))


def identity_distance(a: Image.Image, b: Image.Image, *, models: FaceModels | None = None) -> float | None:
    """``likeness`` in the identity alone: how far apart two people are, or None."""
    found = likeness(a, b, models=models)
    return None if found is None else found.identity
