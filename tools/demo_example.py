"""Invert the demo's example, the astronaut, so that a visit begins with a face: python tools/demo_example.py

Run it again whenever the encoder or the settings of inversions change.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from refinestyle_hub.pipeline import RefineStylePipeline


EXAMPLES = Path(__file__).parent.parent / "space" / "examples"
STEPS = 30


def main(model: str = "ffhq-1024") -> None:
    """Write ``astronaut.safetensors``: w+, tokens and where the face is in the photo, and no pixel of it."""
    pipe = RefineStylePipeline.from_pretrained(model)
    face = pipe.invert(EXAMPLES / "astronaut.jpg", steps=STEPS)
    face.save(EXAMPLES / "astronaut.safetensors")
    print({name: face.report[name] for name in ("perceptual", "mse", "w_steps", "token_steps", "seconds")})
    pipe.render(replace(face, crop=None)).save("/tmp/demo/astro.png")


if __name__ == "__main__":
    main()
