"""How strong a weave domains bring: patterns that recur over the whole picture every 2, 4, 8 or 16 pixels.

    python benchmarks/domain_weave.py ffhq-1024
    python benchmarks/domain_weave.py ffhq-1024 --domains refinestyle_hub/pretrained/ffhq-1024/domains other/domains

A number is the root mean square, in levels of 255, of what all cells of that many pixels gained in common by the
domain, on average over people whom the generator drew. One level is the smallest step of a pixel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub import RefineStylePipeline, TokenSet
from refinestyle_hub.generators.base import Generator


PERIODS = (2, 4, 8, 16)  # pixels


def weave(gained: Tensor) -> list[float]:
    """Root mean square of what recurs at each period, and at none below, of what a picture [3, R, R] gained."""
    found, below = [], fold(gained, 1)
    for period in PERIODS:
        cell = fold(gained, period)
        found.append(
            float((cell - below.repeat(1, *(period // side for side in below.shape[1:]))).square().mean().sqrt())
        )
        below = cell
    return found


def fold(picture: Tensor, period: int) -> Tensor:
    """The mean of the cells of a picture [3, R, R] -> [3, period, period]."""
    return F.pixel_unshuffle(picture, period).mean(dim=(1, 2)).view(len(picture), period, period)


@torch.no_grad()
def gained(generator: Generator, tokens: TokenSet, people: Iterable[Tensor]) -> Tensor:
    """What pictures of ``people``, each w+ [1, L, D], gain by a domain on average, in levels of 255: [3, R, R]."""
    pairs = [(generator(w_plus, tokens), generator(w_plus)) for w_plus in people]
    levels = [127.5 * (after.clamp(-1, 1) - before.clamp(-1, 1))[0] for after, before in pairs]
    return torch.stack(levels).mean(dim=0)


def domains(folder: Path) -> Iterable[tuple[str, TokenSet]]:
    """The token sets in a folder, by name."""
    for each in sorted(path for path in folder.iterdir() if path.is_dir()):
        half = (each / "tokens.fp16.safetensors").is_file()
        yield each.name, TokenSet.from_pretrained(each, variant="fp16" if half else None)


def main(argv: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument(
        "--domains", type=Path, nargs="*", default=[], help="folders of domains; none: the model's own"
    )
    parser.add_argument("--people", type=int, default=8)
    args = parser.parse_args(argv)
    pipe = RefineStylePipeline.from_pretrained(args.model)
    people = [pipe.generator.sample(1, torch.Generator().manual_seed(seed), 0.7) for seed in range(args.people)]
    if args.domains:
        sets = [(f"{folder}: {name}", tokens) for folder in args.domains for name, tokens in domains(folder)]
    else:
        sets = [(name, pipe.domain(name)) for name in pipe.domains]
    print(f"| | {' | '.join(f'{period} px' for period in PERIODS)} |")
    print(f"| --- {'| ---: ' * len(PERIODS)}|")
    for name, tokens in sets:
        numbers = weave(gained(pipe.generator, tokens, people))
        print(f"| {name} | {' | '.join(f'{number:.1f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
