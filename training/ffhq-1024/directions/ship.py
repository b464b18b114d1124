"""Write the directions that ``ffhq-1024`` ships with.

    python ship.py --combined again.npz --checks final.npz --linear scale.npz

Each is scaled by what it was seen to do, so that strength 1 is one deviation of its attribute over the drawn faces.
The model's index and card are brought up to date.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES

from refinestyle_hub import Generator
from refinestyle_hub.editing import Direction, Directions
from refinestyle_hub.editing.directions import DirectionInfo


WEAKEST = 0.3  # deviations for strength 1: what moves its attribute less is no direction
TOLD = 0.05  # deviations: smaller leaks are within what the measure can tell


def main() -> None:
    """Scale, name and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--combined", type=Path, required=True)
    parser.add_argument("--checks", type=Path, required=True)
    parser.add_argument("--faces", type=int, required=True, help="of the check, for the record")
    parser.add_argument("--samples", type=int, required=True, help="labelled faces, for the record")
    parser.add_argument("--drop", default="", help="names that do not ship, by commas")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with np.load(args.combined) as file:
        vectors, layers = file["vectors"], file["layers"].tolist()
    with np.load(args.checks) as file:
        checks = {name: file[name] for name in file.files}
    found = {}
    for place, (name, attribute) in enumerate(ATTRIBUTES.items()):
        effect = checks[name]
        if name in args.drop.split(",") or effect[place] < WEAKEST:
            print(f"{name} does not ship: it moves its attribute by {effect[place]:.2f}")
            continue
        effect, vector = effect / effect[place], vectors[place] / effect[place]
        told = {other: round(float(value), 3) for other, value in zip(ATTRIBUTES, effect, strict=True)}
        info = DirectionInfo(
            layers=tuple(layers[place]),
            unit=f"one standard deviation of {name} over drawn faces",
            effect=told,
            leak={other: abs(value) for other, value in told.items() if other != name and abs(value) >= TOLD},
            source=f"linear fit to {args.samples} drawn faces, corrected and measured on {args.faces} others",
            group=attribute.group,
            negative=attribute.negative,
            positive=attribute.positive,
        )
        found[name] = Direction(torch.from_numpy(vector).float()[None], replace(info, licence="other"))
    base = Generator.from_pretrained("ffhq-1024", subfolder="generator").fingerprint()
    Directions(found, base).save_pretrained(args.out)
    print(f"{len(found)} directions in {args.out}")


if __name__ == "__main__":
    main()
