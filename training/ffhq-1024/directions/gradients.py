"""How attributes and the person change with the codes, in drawn faces: gradients by w+.

    python gradients.py --linear scale.npz --heads heads.npz --out gradients.npz [--faces 80]

Of each face come gradients of all attributes but those of colours, in deviations, and of dlib's embedding in random
directions v of it: with J its Jacobian, the mean of (v J d)^2 is |J d|^2, the square of the distance that a small
offset d makes. Each is summed over the rows of a group of layers. The file grows, so the script can be stopped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES
from check import scale_of
from effects import GROUPS, TRUNCATION, Studio, add_studio
from numpy.typing import NDArray
from torch import Tensor

from refinestyle_hub.losses.identity_network import IdentityDistance


COLOURS = ("skin_tone", "hair_lightness", "light", "background", "warmth")  # their regions have no gradients
NAMES = tuple(name for name in ATTRIBUTES if name not in COLOURS)
FIRST_SEED = 9_300_000  # of faces that no label knows, nor a benchmark
PROBES = 6  # random directions of the embedding, for each face
SIZE = 256


class Differentiated:
    """Draws faces, and differentiates what is read off them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.studio = Studio(args)
        self.studio.generator.requires_grad_(False)
        self.identity = IdentityDistance.load()
        self.scale, self.units = scale_of(args.linear)
        self.heads = [torch.from_numpy(values) for values in self.studio.heads[1:]]

    def attributes(self, pictures: Tensor) -> Tensor:
        """Pictures [1, 3, 256, 256] in [-1, 1] -> attributes of ``NAMES`` in deviations."""
        readings, _, features = self.studio.read.smooth((pictures + 1) * 127.5)
        mean, scale, weights, bias = self.heads
        by_eye = ((features.double() - mean) / scale @ weights + bias)[0]
        values = {name: value[0] for name, value in readings.items()} | dict(
            zip(self.studio.heads.names, by_eye, strict=True)
        )
        standard = {
            name: (value - self.scale.mean[name]) / self.scale.deviation[name] for name, value in values.items()
        }
        units = dict(zip(ATTRIBUTES, self.units, strict=True))
        return torch.stack([ATTRIBUTES[name].read(standard) / units[name] for name in NAMES])

    def __call__(self, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Gradients of attributes [K, groups, D], and of the embedding in random directions [PROBES, groups, D]."""
        rng = torch.Generator().manual_seed(seed)
        w_plus = self.studio.generator.map(torch.randn(1, 512, generator=rng), TRUNCATION).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast; the cosine of the gradients is .97
            drawn = self.studio.generator(w_plus, resolution=SIZE)
        pictures = drawn.float().clamp(-1, 1)
        embedding = self.identity.embed(self.identity.chips(pictures))[0]
        probes = torch.randn(PROBES, len(embedding), generator=rng) @ embedding
        attributes, person = (
            torch.stack([torch.autograd.grad(value, w_plus, retain_graph=True)[0][0] for value in values])
            for values in (self.attributes(pictures), probes)
        )
        return grouped(attributes), grouped(person)


def grouped(gradients: Tensor) -> NDArray[np.float32]:
    """[K, L, D] -> [K, groups, D]."""
    return torch.stack([gradients[:, slice(*group)].sum(dim=1) for group in GROUPS], dim=1).numpy()


def main() -> None:
    """Measure the faces that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=80)
    parser.add_argument("--threads", type=int, default=1)
    add_studio(parser)
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(args.threads)
    differentiated = Differentiated(args)
    attributes, person = [], []
    if args.out.exists():
        with np.load(args.out) as file:
            attributes, person = list(file["attributes"]), list(file["person"])
    for face in range(len(person), args.faces):
        found = differentiated(FIRST_SEED + face)
        attributes.append(found[0])
        person.append(found[1])
        part = args.out.with_suffix(".part.npz")
        np.savez(part, names=np.array(NAMES), attributes=np.stack(attributes), person=np.stack(person))
        part.rename(args.out)
        print(face + 1, flush=True)


if __name__ == "__main__":
    main()
