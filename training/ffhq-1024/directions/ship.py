"""Write the directions that ``ffhq-1024`` ships with. ``facts.py`` then says what they do.

    python ship.py --combined combined.npz --checks checks.npz --linear scale.npz --faces 8

Each is scaled by what it was seen to do, so that strength 1 is one deviation of its attribute over the drawn faces.
What is there or not, such as glasses, does nothing on one side, and much at once on the other; so the scale stays near
that of the linear fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES

from refinestyle_hub import Generator
from refinestyle_hub.editing import Direction, Directions
from refinestyle_hub.editing.directions import DirectionInfo


FOLDER = Path(__file__).parents[3] / "refinestyle_hub" / "pretrained" / "ffhq-1024" / "directions"
SCALES = (0.75, 1.25)  # the least and the most that a check may change


def main() -> None:
    """Scale, name and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--combined", type=Path, required=True)
    parser.add_argument("--checks", type=Path, required=True)
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--faces", type=int, required=True, help="of the check, for the record")
    parser.add_argument("--drop", default="", help="names that do not ship, by commas")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    with np.load(args.combined) as file:
        vectors, layers = file["vectors"], file["layers"].tolist()
        turned = file["turned"].tolist() if "turned" in file else [0] * len(ATTRIBUTES)
    with np.load(args.checks) as file:
        checks = {name: file[name] for name in file.files}
    with np.load(args.linear) as file:
        samples = int(file["faces"])
    found = {}
    for place, (name, attribute) in enumerate(ATTRIBUTES.items()):
        if name in args.drop.split(","):
            continue
        scale = float(np.clip(1 / max(checks[name][place], 1e-6), *SCALES))
        effect = round(float(checks[name][place]) * scale, 3)
        info = DirectionInfo(
            layers=tuple(layers[place]),
            unit=f"{effect:.0%} of a standard deviation of {name} over drawn faces",
            effect={name: effect},
            limits=attribute.limits,
            gain=attribute.gain,
            source=f"linear fit to {samples} drawn faces, "
            + (f"turned by gradients in {turned[place]} others, " if turned[place] else "")
            + f"measured on {args.faces} others",
            licence="other",
            group=attribute.group,
            negative=attribute.negative,
            positive=attribute.positive,
        )
        found[name] = Direction(torch.from_numpy(vectors[place] * scale).float()[None], info)
        print(f"{name}: {checks[name][place]:.2f} seen, scaled by {scale:.2f}")
    base = Generator.from_pretrained("ffhq-1024", subfolder="generator").fingerprint()
    Directions(found, base).save_pretrained(args.out)


if __name__ == "__main__":
    main()
