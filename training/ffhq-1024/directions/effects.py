"""What each linear direction does in pictures, when it moves one group of layers alone.

    python effects.py --linear linear.npz --heads heads.npz --out effects [--limit 3]

For each attribute comes ``effects/NAME.npz``: readings in each group of layers of some drawn faces, of which every
other one moves by strength S and the others by -S; ``effects/none.npz`` holds the same faces as they were. A file that
is there is not measured again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from heads import Heads
from label import add_networks
from readings import SIZE, Readings, merged
from torch import Tensor

from refinestyle_hub import Generator


GROUPS = ((0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 16))  # rows of w+: 4 and 8 px, 8 and 16, ..., 128 px and more
STRENGTH = 2.0
SEEDS = range(9_000_000, 9_000_064)  # none of the drawn ones
UNLIKE = (5, 19, 18, 12)  # of them, a man, an older man, a woman and a girl who look least alike
SIGNS = (1, -1, 1, -1)  # to which side each of them moves
TRUNCATION = 0.7
BATCH = 4


class Studio:
    """The generator and the networks that read its pictures."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.generator = Generator.from_pretrained("ffhq-1024", subfolder="generator").eval()
        self.read = Readings(args.face_api, args.human, args.backbone)
        self.heads = Heads.load(args.heads)

    def faces(self, places: Iterable[int]) -> Tensor:
        """w+ [N, L, D] of faces that no label knows, by their places in ``SEEDS``."""
        z = [torch.randn(512, generator=torch.Generator().manual_seed(SEEDS[place])) for place in places]
        return self.generator.map(torch.stack(z), TRUNCATION)

    @torch.no_grad()
    def pictures(self, w_plus: Tensor) -> Tensor:
        """w+ [N, L, D] -> pictures [N, 3, 256, 256], 0..255."""
        drawn = [self.generator(w, resolution=SIZE) for w in w_plus.split(1)]
        return ((torch.cat(drawn).clamp(-1, 1) + 1) * 127.5).round()

    def readings(self, pictures: Tensor) -> dict[str, np.ndarray]:
        """Pictures [N, 3, 256, 256] -> readings by name, those of heads among them, each [N]."""
        parts = []
        for batch in pictures.split(BATCH):
            readings, features = self.read(batch)
            parts.append(readings | self.heads(features))
        return merged(parts)


def add_studio(parser: argparse.ArgumentParser) -> None:
    """What a ``Studio`` needs."""
    parser.add_argument("--heads", type=Path, required=True)
    add_networks(parser)


def moved(w_plus: Tensor, vector: Tensor, layers: tuple[int, int], strength: float | Tensor) -> Tensor:
    """w+ [N, L, D] with some rows moved by strength, one or [N], times a vector [D]."""
    moved = w_plus.clone()
    moved[:, slice(*layers)] += torch.as_tensor(strength).expand(len(moved))[:, None, None] * vector
    return moved


def main() -> None:
    """Measure every direction in every group of layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="how many directions to measure now")
    parser.add_argument("--threads", type=int, default=1)
    add_studio(parser)
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(args)
    faces = studio.faces(UNLIKE)
    with np.load(args.linear) as file:
        vectors = dict(zip(file["names"].tolist(), torch.from_numpy(file["vectors"]).float(), strict=True))
    jobs = {"none": faces} | {
        name: torch.cat([moved(faces, vector, group, STRENGTH * torch.tensor(SIGNS)) for group in GROUPS])
        for name, vector in vectors.items()
    }
    missing = [name for name in jobs if not (args.out / f"{name}.npz").exists()]
    for name in missing:
        found = studio.readings(studio.pictures(jobs[name]))
        target = args.out / f"{name}.npz"
        shaped = {key: values.reshape(-1, len(UNLIKE)) for key, values in found.items()}  # [groups, faces]
        np.savez(target.with_suffix(".part.npz"), **shaped)
        target.with_suffix(".part.npz").rename(target)
        print(name, flush=True)


if __name__ == "__main__":
    main()
