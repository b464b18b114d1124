"""Whether two pictures show one person, by dlib's embedding."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .detect import fit, plain, search
from .dlib_models import FaceModels, default_models


__all__ = ["identity_distance"]


def identity_distance(a: Image.Image, b: Image.Image, *, models: FaceModels | None = None) -> float | None:
    """How far apart two faces are: Euclidean distance of dlib's identity embeddings (under 0.6: likely one person).

    None where no face could be measured in one of the pictures. Made for aligned pictures; of several faces the
    largest counts. Synthetic and stylised faces are outside of what the network was trained on.
    """
    models = models or default_models()
    descriptors = []
    for image in (a, b):
        picture = fit(plain(image), 512, 512)  # landmarks are whole pixels: small pictures are enlarged
        faces = search(picture, True, models)
        if not faces:
            return None
        face = max(faces, key=lambda face: face.width)
        descriptors.append(models.descriptor(np.asarray(picture), face.box, face.landmarks))
    return float(np.linalg.norm(descriptors[0] - descriptors[1]))
