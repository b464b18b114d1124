"""Takes a grid of two pixels out of a model's domains: ``python tools/level_domains.py ffhq-1024``.

A generator that draws wavelet bands draws a grid over the whole picture where a domain moves the mean of its fine
bands: seen at full size as a faint weave, and as coloured checks where a browser shrinks the picture. The losses of an
adaptation hardly see it. Here the bias of toRGB moves that mean back to the generator's own; the tokens stay as they
are, and so does the mean of each 2 x 2 square of pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub import Generator, TokenSet
from refinestyle_hub.generators.mobile import MobileStyleGANGenerator
from refinestyle_hub.runtime.allocator import keep_memory


PRETRAINED = Path(__file__).parents[1] / "refinestyle_hub" / "pretrained"
SEEDS = range(6)


@torch.no_grad()
def levelled(generator: Generator, tokens: TokenSet, seeds: Sequence[int] = SEEDS) -> TokenSet:
    """The domain without its grid, as far as drawn people have it in common; another generator's as it is."""
    name = generator.config.layers[-1].name  # draws the bands
    if not isinstance(generator, MobileStyleGANGenerator) or name not in tokens.layers:
        return tokens
    bias = tokens.layers[name].bias
    if bias is None:
        return tokens

    def shifted(by: Tensor) -> TokenSet:
        return replace(tokens, layers={**tokens.layers, name: replace(tokens.layers[name], bias=bias + by)})

    people = [generator.sample(1, torch.Generator().manual_seed(seed), 0.7) for seed in seeds]

    def grid(domain: TokenSet | None, people: Sequence[Tensor]) -> Tensor:
        """How far each pixel of a 2 x 2 square of a colour is from their mean, on average: [3 * 4]."""
        squares = [F.pixel_unshuffle(generator(w_plus, domain), 2).mean(dim=(0, 2, 3)) for w_plus in people]
        means = torch.stack(squares).mean(dim=0).view(3, 4)
        return (means - means.mean(dim=1, keepdim=True)).flatten()

    # a picture is linear in this bias, whoever it shows: what each number of it does to the grid
    first = grid(tokens, people[:1])
    does = torch.stack([grid(shifted(one), people[:1]) - first for one in torch.eye(len(bias))], dim=1)
    over = grid(tokens, people) - grid(None, people)
    return shifted(-torch.linalg.lstsq(does, over[:, None], driver="gelsd").solution[:, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name")
    name = parser.parse_args().model
    keep_memory()
    generator = Generator.from_pretrained(name)
    for folder in sorted((PRETRAINED / name / "domains").iterdir()):
        variant = "fp16" if (folder / "tokens.fp16.safetensors").is_file() else None
        levelled(generator, TokenSet.from_pretrained(folder, variant=variant)).save_pretrained(folder, variant)
        print(folder.name)


if __name__ == "__main__":
    main()
