"""Invert the demo's example, the astronaut, so that a visit begins with a face: python tools/demo_example.py

Run it again whenever the encoder or the settings of inversions change.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from PIL import Image

from refinestyle_hub.faces.identity import likeness
from refinestyle_hub.pipeline import RefineStylePipeline


EXAMPLES = Path(__file__).parent.parent / "space" / "examples"
STEPS = 80  # nobody waits for it


def main(model: str = "ffhq-1024") -> None:
    """Write ``astronaut.safetensors``: w+, tokens and where the face is in the photo, and no pixel of it."""
    pipe = RefineStylePipeline.from_pretrained(model)
    face = pipe.invert(EXAMPLES / "astronaut.jpg", steps=STEPS)
    assert face.crop is not None
    found = likeness(Image.fromarray(face.crop.numpy()), pipe.render(face))
    assert found is not None
    face = replace(face, report={**face.report, **asdict(found)})
    face.save(EXAMPLES / "astronaut.safetensors")
    print(face.report)


if __name__ == "__main__":
    main()
