"""How much of a scene a linear readout of w tells, after the mapping was taught without every tenth picture.

    python benchmarks/taught_mapping.py --data portraits-128.zip

Rows: a readout of the codes z themselves, and of w of a mapping that was taught (``train/teach.py``).
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from refinestyle_hub.config import GeneratorConfig
from refinestyle_hub.generators.stylegan2 import Generator
from refinestyle_hub.train.anchors import Scenes, couple, scenes_of
from refinestyle_hub.train.data import open_pictures
from refinestyle_hub.train.teach import teach_mapping


def told(features: Tensor, scenes: Scenes, held: Tensor) -> dict[str, float]:
    """Readout fitted to the features [N, F] of the rest, judged on ``held`` [N]: R2 of numbers, share named right."""
    x = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    y = (scenes.vectors - scenes.vectors.mean(0)).double()
    read = x[held] @ torch.linalg.lstsq(x[~held], y[~held]).solution
    numbers, flags, words = scenes.columns()
    wanted, named = y[held], {scenes.names[i]: i for i in flags if i < len(scenes.names)}
    left = (read - wanted)[:, numbers].square().mean(0) / wanted[:, numbers].square().mean(0)
    report = {"numbers, R2": 1.0 - left.mean().item()}
    for name, i in named.items():
        middle = y[:, i].max() / 2 + y[:, i].min() / 2
        report[name] = ((read[:, i] > middle) == (wanted[:, i] > middle)).double().mean().item()
    for group in words:
        right = read[:, group].argmax(1) == scenes.vectors[held][:, group].argmax(1)
        report[scenes.names[group[0]].split("=")[0]] = right.double().mean().item()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()

    pictures = open_pictures(arguments.data, 128)
    scenes = scenes_of(arguments.data, pictures)
    codes = couple(scenes.vectors)
    held = torch.zeros(len(pictures), dtype=torch.bool)
    held[::10] = True
    held = held.repeat(2)  # and their mirror images
    generator = Generator(GeneratorConfig(128, z_dim=256, w_dim=256, mapping_layers=4))
    start = time.monotonic()
    teach_mapping(generator.mapping, codes[~held], Scenes(scenes.vectors[~held], scenes.names), arguments.steps)
    print(f"{int(held.sum())} of {len(held)} codes held out; taught in {time.monotonic() - start:.0f} s")
    free = torch.randn(len(codes), 256 - codes.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        w = generator.mapping(torch.cat([codes, free], dim=1))
    for name, features in (("z", codes), ("w", w)):
        print(name, ", ".join(f"{key} {value:.3f}" for key, value in told(features, scenes, held).items()))


if __name__ == "__main__":
    main()
