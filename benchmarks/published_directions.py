"""The directions of ffhq-1024 beside published ones for StyleGAN2 FFHQ, at equal effect.

    python benchmarks/published_directions.py FOLDER --drawn 32 --face-api ... --human ... --backbone ...

FOLDER holds published files, those of a source in a subfolder of its name (``e4e/smile.pt``, ``stit/age.npy``,
GANSpace's ``.pt`` with its ``.csv``). ``NAMES`` says which of our attributes a published name means; files of other
names are passed over. Directions for the first StyleGAN have another latent space and do not belong there. The
instruments are those of ``directions.py``.

Every direction, ours too, is applied on both sides with the strength that moves its attribute by one deviation over
drawn faces, whatever its own unit is. What is left of a deviation, a third at most, is divided out. Columns:

- length: of the offset in w, mean over the codes that move (w is 7 from its mean, on average)
- leak: mean over the other attributes of the absolute mean change, in deviations; the largest of them by name
- pictures: the same, but of the absolute change of each picture
- identity: dlib's distance from the face as it was (0.6: another person)
- found: share of the edited pictures in which dlib finds a face

Rows are kept in ``--out`` and not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from directions import Faces, Instruments, Measure, Seen, add_instruments, drawn_faces

from refinestyle_hub import RefineStylePipeline
from refinestyle_hub.convert.direction_files import read_directions
from refinestyle_hub.editing.directions import Direction
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json


NAMES = {  # published name -> our attribute, where they differ
    "pose": "yaw",
    "angle_horizontal": "yaw",
    "angle_pitch": "pitch",
    "head_angle_up": "pitch",
    "eyeglasses": "glasses",
    "smiling": "smile",
    "heavy_makeup": "makeup",
    "lipstick": "makeup",
    "eye_eyebrow_distance": "brows",
    "eye_openness": "eyes_open",
    "lip_ratio": "lips",
    "nose_ratio": "nose",
    "width": "face_width",
    "face_roundness": "face_width",
    "trimmed_beard": "beard",
    "curly_hair": "curls",
    "white_hair": "hair_lightness",
    "light_lr": "light",
}
START = 2.5  # length in w of the first try
LONGEST = 12.0  # length in w at which a search ends
NEAR, FAR = 0.08, 0.3  # distance of the effect's logarithm from one deviation: at which a search ends, and at most
TRIES = 6
COLUMNS = ("length", "leak", "pictures", "identity", "found")


def moving_length(direction: Direction, num_ws: int) -> float:
    """Mean length of the offset over the codes that it moves."""
    lengths = direction.offset(num_ws).norm(dim=1)
    return float(lengths[lengths > 0].mean())


def published(folder: Path, names: Sequence[str], num_ws: int) -> Iterator[tuple[str, str, Direction]]:
    """Source, attribute and direction of each published file that means an attribute of ours."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".npy", ".pt", ".npz"):
            continue
        table = next(path.parent.glob("*.csv"), None)
        for name, direction in read_directions(path, table=table).items():
            if (own := NAMES.get(name, name)) in names:
                source = path.parent.relative_to(folder).as_posix()
                yield f"{source}/{name}" if table else f"{source}/{path.stem}", own, direction.fit(num_ws)


class Comparison:
    """Brings directions to equal effect on some faces, and says what else they do."""

    def __init__(self, bench: Measure, faces: Faces) -> None:
        self.bench = bench
        self.faces = faces
        self.names = bench.instruments.names
        self.num_ws = bench.pipe.generator.config.num_ws
        self.plain = bench.plain(faces)

    def equal(self, name: str, direction: Direction) -> tuple[float, Seen] | None:
        """The strength (negative where the file points the other way) for one deviation, and both sides of the faces.

        None: it is out of reach, or what it does jumps past a deviation.
        """
        own, length = self.names.index(name), moving_length(direction, self.num_ws)
        told = direction.info.effect.get(name)  # ours say what strength 1 does
        strength = 1 / told if told else START / length
        nearest: tuple[float, float, Seen] | None = None
        for _ in range(TRIES):
            seen = self.bench.see(self.faces, direction, (-strength, strength), identities=True)
            effect = float((seen.attributes[1] - seen.attributes[0])[:, own].mean()) / 2
            away = abs(float(np.log(max(abs(effect), 1e-6))))
            if nearest is None or away < nearest[0]:
                turned = Seen(seen.attributes[::-1], seen.identities[::-1]) if effect < 0 else seen
                nearest = away, float(np.copysign(strength, effect)), turned
            if away < NEAR or (strength * length >= LONGEST and abs(effect) < 1):
                break
            strength = min(strength * float(np.clip(1 / max(abs(effect), 1e-6), 0.3, 2.5)), LONGEST / length)
        return nearest[1:] if nearest and nearest[0] < FAR else None

    def row(self, name: str, direction: Direction) -> dict[str, Any]:
        """One line of the table."""
        if (equal := self.equal(name, direction)) is None:
            return {"attribute": name, "strength": None}
        strength, seen = equal
        own = self.names.index(name)
        changes = seen.attributes - self.plain.attributes  # [2, N, K]
        mean = (changes[1] - changes[0]).mean(axis=0) / 2
        effect = float(mean[own])
        free = {name, *self.bench.instruments.free[name]}
        others = [k for k, other in enumerate(self.names) if other not in free]
        worst = max(others, key=lambda k: abs(mean[k]))
        pairs = [(a, b) for side in seen.identities for a, b in zip(side, self.plain.identities[0], strict=True)]
        distances = [float(np.linalg.norm(a - b)) for a, b in pairs if a is not None and b is not None]
        return {
            "attribute": name,
            "strength": strength,
            "effect": effect,
            "length": abs(strength) * moving_length(direction, self.num_ws) / effect,
            "leak": float(np.abs(mean[others]).mean()) / effect,
            "worst": self.names[worst],
            "worst_leak": float(mean[worst]) / effect,
            "pictures": float(np.abs(changes[:, :, others]).mean()) / effect,
            "identity": float(np.mean(distances)) / effect if distances else float("inf"),
            "found": float(np.mean([a is not None for side in seen.identities for a in side])),
            "leaks": {self.names[k]: round(float(mean[k]) / effect, 3) for k in others},
        }


def better(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool | None:
    """Whether ours leaks less and keeps the person better; None: theirs does not reach the effect."""
    if theirs["strength"] is None:
        return None
    return ours["strength"] is not None and all(ours[key] < theirs[key] for key in ("leak", "identity"))


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows by attribute, ours first, and in how many attributes ours are better than all others."""
    head = "| attribute | direction | length | leak | largest leak | pictures | identity | found | ours better |"
    lines = [head, "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- |"]
    verdicts: dict[str, bool] = {}
    for name in sorted({row["attribute"] for row in rows.values()}):
        ours = rows[f"ours/{name}"]
        for title, row in rows.items():
            if row["attribute"] == name:
                verdict = None if row is ours else better(ours, row)
                told = {True: "yes", False: "no", None: ""}[verdict]
                lines.append(f"| {name} | {title} | {line(row)} | {told} |")
                if verdict is not None:
                    verdicts[name] = verdicts.get(name, True) and verdict
    won = [name for name, verdict in verdicts.items() if verdict]
    lines.append(
        f"\nLess leak and less drift of identity than every published direction: {len(won)} of {len(verdicts)} "
        f"attributes ({', '.join(won)})."
    )
    return "\n".join(lines)


def line(row: Mapping[str, Any]) -> str:
    """The cells of a row."""
    if row["strength"] is None:
        return "| ".join(["out of reach", *[""] * 5])
    worst = f"{row['worst']} {row['worst_leak']:+.2f}"
    numbers = (f"{row['pictures']:.2f}", f"{row['identity']:.3f}", f"{row['found']:.0%}")
    return " | ".join((f"{row['length']:.1f}", f"{row['leak']:.3f}", worst, *numbers))


def main(argv: list[str] | None = None) -> None:
    """Measure what is not there yet, print the table, write ``published.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="published files, by source")
    parser.add_argument("--model", default="ffhq-1024", help="bundled name or folder")
    parser.add_argument("--drawn", type=int, default=32, help="drawn faces")
    parser.add_argument("--only", default="", help="attributes, by commas, in this order")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    add_instruments(parser)
    args = parser.parse_args(argv)
    if args.drawn < 1:
        parser.error("--drawn: one face or more.")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "published.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    pipe = RefineStylePipeline.from_pretrained(args.model)
    wanted = args.only.split(",") if args.only else list(pipe.directions)
    theirs = list(published(args.folder, wanted, pipe.generator.config.num_ws))
    shared = sorted({own for _, own, _ in theirs}, key=wanted.index)
    ours = [(f"ours/{name}", name, pipe.directions[name]) for name in shared]
    comparison = Comparison(Measure(pipe, Instruments(args)), drawn_faces(pipe, args.drawn))
    for title, name, direction in sorted(ours + theirs, key=lambda one: shared.index(one[1])):
        if title not in rows:
            rows[title] = comparison.row(name, direction)
            print(f"| {name} | {title} | {line(rows[title])} |", flush=True)
            write_folder(args.out, {"published.json": dump_json(rows)})
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
