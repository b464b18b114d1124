"""Draw faces of ffhq-1024 into shards of 500, with the codes that drew them.

    python draw.py --out drawn --shards 20

A shard is ``shard-NNNNN.npz``: ``seed`` [500], ``truncation`` [500] (evenly from 0.7 to 1), ``w`` [500, 512] in half
precision (after truncation; all 16 rows of w+ are alike), and the pictures at 256 px as JPEG files, all in ``jpeg``,
each of which ends at ``ends``. A shard that is there is not drawn again.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from readings import SIZE

from refinestyle_hub import Generator


COUNT = 500
FIRST_SEED = 1_000_000
QUALITY = 92


@torch.no_grad()
def shard(generator: Generator, number: int) -> dict[str, np.ndarray]:
    """The arrays of a shard; its number determines them."""
    seeds = FIRST_SEED + number * COUNT + np.arange(COUNT)
    truncation = np.random.default_rng(number).uniform(0.7, 1, COUNT).astype(np.float32)
    z = torch.stack([torch.randn(512, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])
    mean = generator.mean_latent[0]
    w = mean + (generator.map(z)[:, 0] - mean) * torch.from_numpy(truncation)[:, None]
    files = []
    for code in w:
        picture = generator(code.expand(1, generator.num_ws, -1), resolution=SIZE)[0].clamp(-1, 1)
        pixels = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return {
        "seed": seeds,
        "truncation": truncation,
        "w": w.half().numpy(),
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(file) for file in files]),
    }


def main() -> None:
    """Draw what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    generator = Generator.from_pretrained("ffhq-1024", subfolder="generator").eval()
    for number in range(args.shards):
        target = args.out / f"shard-{number:05d}.npz"
        if not target.exists():
            with target.with_suffix(".part").open("wb") as file:
                np.savez(file, **shard(generator, number))
            target.with_suffix(".part").rename(target)


if __name__ == "__main__":
    main()
