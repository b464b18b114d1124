"""Lay drawn faces out on numbered sheets, to be labelled by eye.

    python sheets.py --drawn drawn --out sheets --first 0 --count 600

Sheet S holds the faces S * 30 to S * 30 + 29 of all faces in the order of shards, six in a row, each with its
place there. What is seen goes into ``by_eye.csv``: a line for each face, which is named by its seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from label import pictures_of
from PIL import Image, ImageDraw


COLUMNS, ROWS = 6, 5
TILE = 256


def sheet(pictures: np.ndarray) -> Image.Image:
    """Pictures [N, 256, 256, 3], at most 30, on one sheet."""
    page = Image.new("RGB", (COLUMNS * TILE, ROWS * TILE))
    for place, picture in enumerate(pictures):
        tile = Image.fromarray(picture)
        draw = ImageDraw.Draw(tile)
        draw.rectangle((0, 0, 22, 13), fill="black")
        draw.text((3, 1), str(place), fill="white")
        page.paste(tile, (place % COLUMNS * TILE, place // COLUMNS * TILE))
    return page


def main() -> None:
    """Write the sheets that a range of faces takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawn", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=600)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = range(args.first, args.first + args.count)
    seen = 0
    pages: dict[int, list[np.ndarray]] = {}
    for shard in sorted(args.drawn.glob("shard-*.npz")):
        if seen >= wanted.stop:
            break
        for picture in pictures_of(shard).permute(0, 2, 3, 1).numpy():
            if seen in wanted:
                pages.setdefault(seen // (COLUMNS * ROWS), []).append(picture)
            seen += 1
    for number, pictures in pages.items():
        sheet(np.stack(pictures)).save(args.out / f"sheet-{number:03d}.png")


if __name__ == "__main__":
    main()
