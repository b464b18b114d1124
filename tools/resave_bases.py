"""Writes the identity of each bundled generator anew into what was made for it: encoder, directions, domains.

Run it after the form of an identity has changed: ``python tools/resave_bases.py``. Nothing else in the files changes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from refinestyle_hub import Directions, Encoder, Generator, TokenSet


PRETRAINED = Path(__file__).parents[1] / "refinestyle_hub" / "pretrained"


def main() -> None:
    for model in sorted(path for path in PRETRAINED.iterdir() if (path / "model_index.json").is_file()):
        base = Generator.from_pretrained(model.name, subfolder="generator").fingerprint()
        encoder = Encoder.from_pretrained(model, subfolder="encoder", variant="fp16")
        encoder.config = replace(encoder.config, base=base)
        encoder.save_pretrained(model / "encoder", "fp16")
        directions = Directions.from_pretrained(model, subfolder="directions")
        Directions(directions, base).save_pretrained(model / "directions")
        for folder in sorted(model.glob("domains/*")):
            variant = "fp16" if (folder / "tokens.fp16.safetensors").is_file() else None
            replace(TokenSet.from_pretrained(folder, variant=variant), base=base).save_pretrained(folder, variant)


if __name__ == "__main__":
    main()
