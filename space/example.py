"""The example: a face that was inverted beforehand (``tools/demo_example.py``), so that a visit begins with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refinestyle_hub.errors import RefineStyleHubError
from refinestyle_hub.faces.photo import read_photo
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline

from .session import Subject


EXAMPLES = Path(__file__).parent / "examples"


def astronaut(pipe: RefineStylePipeline) -> Subject | None:
    """The astronaut as the generator draws her; None for another generator, or without face models."""
    file, photo = EXAMPLES / "astronaut.safetensors", EXAMPLES / "astronaut.jpg"
    try:
        face = Inversion.from_pretrained(file)
        if face.base is None or face.base.digest != pipe.fingerprint.digest:
            return None
        crop = read_photo(photo).crop(pipe.generator.config.resolution)
    except RefineStyleHubError:
        return None
    return Subject.of(face, np.asarray(crop.image), str(photo))
