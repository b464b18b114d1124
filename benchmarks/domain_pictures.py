"""Pictures of a style of our own: people whom a generator drew, through a filter of `domain_filters.py`.

    python benchmarks/domain_pictures.py ffhq-1024 pencil --out pictures/pencil

They are free of anybody's rights in a person, and can be made again from the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from domain_filters import FILTERS

from refinestyle_hub.generators.base import Generator
from refinestyle_hub.images import to_images
from refinestyle_hub.pipeline import RefineStylePipeline


def pictures(generator: Generator, style: str, count: int, seed: int, side: int) -> torch.Tensor:
    """``count`` people of ``seed`` in a style, [count, 3, side, side] in [-1, 1]; drawn one by one."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        codes = generator.sample(count, rng, 0.8)
        return torch.cat([FILTERS[style](generator(one, resolution=side), rng).clamp(-1, 1) for one in codes.split(1)])


def main() -> None:
    """Write PNG files 00.png, 01.png and so on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("style", choices=FILTERS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    args = parser.parse_args()
    generator = RefineStylePipeline.from_pretrained(args.model).generator
    args.out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(to_images(pictures(generator, args.style, args.count, args.seed, args.side))):
        image.save(args.out / f"{number:02d}.png")


if __name__ == "__main__":
    main()
