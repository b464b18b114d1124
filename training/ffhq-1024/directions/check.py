"""What combined directions do in pictures of other faces.

    python check.py --combined combined.npz --linear linear.npz --heads heads.npz --out checks.npz [--faces 8]

Writes, for each direction, the change of every attribute in deviations for strength 1: half the difference between
both strengths, by the strength, mean over the faces. With ``--sheets`` come the pictures, a row for each strength.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES, Scale, read_attributes
from effects import Studio, add_studio, moved

from refinestyle_hub.images.pixels import contact_sheet, save_png, to_images


STRENGTH = 2.0
PLACES = (0, 7, 9, 21, 1, 11, 15, 23, 3, 14, 20, 22)  # in ``SEEDS``; people whom effects.py has not seen


def scale_of(linear: Path) -> tuple[Scale, np.ndarray]:
    """The scale of readings, and the deviation of each attribute [K]."""
    with np.load(linear) as file:
        names = file["readings"].tolist()
        scale = Scale(*(dict(zip(names, file[key].tolist(), strict=True)) for key in ("mean", "deviation")))
        return scale, file["units"]


def main() -> None:
    """Measure every direction, in a file that grows, so that it can be stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--combined", type=Path, required=True)
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--sheets", type=Path, help="folder for the pictures")
    parser.add_argument("--limit", type=int, default=None, help="how many directions to measure now")
    parser.add_argument("--threads", type=int, default=1)
    add_studio(parser)
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(args.threads)
    scale, units = scale_of(args.linear)
    done = {}
    if args.out.exists():
        with np.load(args.out) as file:
            done = {name: file[name] for name in file.files}
    with np.load(args.combined) as file:
        names, layers = file["names"].tolist(), [tuple(pair) for pair in file["layers"].tolist()]
        vectors = torch.from_numpy(file["vectors"]).float()
    missing = [place for place, name in enumerate(names) if name not in done][: args.limit]
    studio = Studio(args)
    faces = studio.faces(PLACES[: args.faces])
    for place in missing:
        edits = [moved(faces, vectors[place], layers[place], sign * STRENGTH) for sign in (-1, 1)]
        pictures = studio.pictures(torch.cat(edits))
        if args.sheets:
            args.sheets.mkdir(parents=True, exist_ok=True)
            save_png(contact_sheet(to_images(pictures / 127.5 - 1), len(faces)), args.sheets / f"{names[place]}.png")
        found = read_attributes(studio.readings(pictures), scale)
        values = np.stack([found[name] for name in ATTRIBUTES], axis=-1).reshape(2, len(faces), -1) / units
        done[names[place]] = (values[1] - values[0]).mean(0) / (2 * STRENGTH)
        np.savez(args.out.with_suffix(".part.npz"), **done)
        args.out.with_suffix(".part.npz").rename(args.out)
        print(names[place], round(float(done[names[place]][place]), 2), flush=True)


if __name__ == "__main__":
    main()
