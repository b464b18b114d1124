"""The example: a face that was inverted beforehand (``tools/demo_example.py``), so that a visit begins with one."""

from __future__ import annotations

import numpy as np

from refinestyle_hub.faces.align import cut
from refinestyle_hub.images import load_picture
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline

from .model import EXAMPLES, PHOTO
from .session import Subject


def astronaut(pipe: RefineStylePipeline) -> Subject | None:
    """The astronaut as the generator draws her; None for another generator."""
    face = Inversion.from_pretrained(EXAMPLES / "astronaut.safetensors")
    if face.base is None or face.base.digest != pipe.fingerprint.digest or face.quad is None:
        return None
    crop = cut(load_picture(PHOTO), face.quad.double().numpy(), pipe.generator.config.resolution)
    return Subject.of(face, np.asarray(crop.image), str(PHOTO))
