"""Turn some directions to where they keep the person, by gradients in pictures.

    python person.py --linear scale.npz --gradients gradients.npz --combined combined.npz --only smile,gender --out ...

Such a direction moves its attribute by one deviation in the mean of the faces. Of all that do, it is the one with the
least sum of squares: of the distance of the embeddings, of what the other attributes do in the pictures, of what the
labels predict that they do, and of its length. Of all ranges of layers it takes the one where that sum is least.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attributes import ATTRIBUTES
from combine import LENGTH, LONGEST, RANGES, Floats, arrays
from effects import GROUPS
from linear import components

from refinestyle_hub import Generator


PERSON = 7.0  # weight of the squared distance of the embeddings, in dlib's units; that of a leak in the pictures is 1
FOLDS = 4  # of faces, for the choice of layers
PREDICTED = 0.1  # weight of a predicted leak, where the pictures tell it too


class LeftOut(NamedTuple):
    """Sum of squares, distance of the embeddings and leaks for one deviation of effect."""

    cost: float
    distance: float
    leaks: dict[str, float]


class Space:
    """Offsets along the components of w, in its deviations there: x [D] stands for ``basis (deviations x)``."""

    def __init__(self, linear: dict[str, Floats], gradients: dict[str, Floats]) -> None:
        self.basis, self.deviations = components(Generator.from_pretrained("ffhq-1024", subfolder="generator"))
        whitened = linear["whitened"]
        self.predictions = whitened / np.square(whitened).sum(axis=1, keepdims=True)  # [attributes, D]
        self.names = gradients["names"].tolist()
        self.attributes, self.person = (  # [faces, attributes or probes, groups, D]
            gradients[key].astype(np.float64) @ self.basis * self.deviations for key in ("attributes", "person")
        )
        self.folds = np.arange(len(self.person)) % FOLDS

    def best(self, own: str, groups: slice, fold: int | None = None) -> Floats:
        """The offset [D] for one deviation in some groups of layers, by all faces or all but those of a fold."""
        faces = self.folds != fold
        seen = dict(zip(self.names, self.attributes[faces][:, :, groups].sum(axis=2).mean(axis=0), strict=True))
        person = self.person[faces][:, :, groups].sum(axis=2).reshape(-1, len(self.basis))
        others = self.others(own)
        leaks = [seen[name] for name in others if name in seen]
        for name, row in zip(ATTRIBUTES, self.predictions, strict=True):
            if name in others:
                leaks.append(row * (np.sqrt(PREDICTED) if name in seen else 1.0))
        rows = np.concatenate([leaks, person * np.sqrt(PERSON / len(person))])
        x = np.linalg.solve(rows.T @ rows + LENGTH * np.eye(len(self.basis)), seen[own])
        return x / (seen[own] @ x)

    def others(self, own: str) -> list[str]:
        """Attributes that an attribute shall not move."""
        return [name for name in ATTRIBUTES if name not in (own, *ATTRIBUTES[own].free)]

    def left_out(self, own: str, groups: slice) -> LeftOut:
        """What offsets for one deviation do to faces that they were not fitted to, each face left out once."""
        distances, changes, lengths = [], [], []
        for fold in range(FOLDS):
            x, faces = self.best(own, groups, fold), self.folds == fold
            person, seen = (part[faces][:, :, groups].sum(axis=2) @ x for part in (self.person, self.attributes))
            distances.append(np.square(person).mean())
            changes.append(seen.mean(axis=0))
            lengths.append(x @ x)
        means = dict(zip(self.names, np.mean(changes, axis=0).tolist(), strict=True))
        leaks = {name: means[name] / means[own] for name in self.others(own) if name in means}
        distance, length = (float(np.mean(squares)) / means[own] ** 2 for squares in (distances, lengths))
        cost = PERSON * distance + sum(leak**2 for leak in leaks.values()) + LENGTH * length
        return LeftOut(cost, float(np.sqrt(distance)), leaks)


def main() -> None:
    """Replace the directions asked for, and print a table of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--gradients", type=Path, required=True)
    parser.add_argument("--combined", type=Path, required=True)
    parser.add_argument("--only", required=True, help="directions to replace, by commas")
    parser.add_argument("--out", type=Path, required=True, help="all directions, in the layout of --combined")
    args = parser.parse_args()
    space, combined = Space(arrays(args.linear), arrays(args.gradients)), arrays(args.combined)
    names = combined["names"].tolist()
    print(
        "| attribute | layers | length | identity | largest leaks, left-out faces |\n| --- | --- | ---: | ---: | --- |"
    )
    for own in args.only.split(","):
        within = [groups for groups in RANGES if GROUPS[groups[0]][0] >= ATTRIBUTES[own].first]
        tried = {groups: space.left_out(own, slice(*groups)) for groups in within}
        chosen = min(tried, key=lambda groups: tried[groups].cost)
        _, distance, leaks = tried[chosen]
        x = space.best(own, slice(*chosen))
        place, length = names.index(own), float(np.linalg.norm(x))
        first, end = GROUPS[chosen[0]][0], GROUPS[chosen[1] - 1][1]
        combined["vectors"][place] = space.basis @ (space.deviations * x) * min(1.0, LONGEST / length)
        combined["layers"][place] = first, end
        told = ", ".join(
            f"{name} {leaks[name]:+.2f}" for name in sorted(leaks, key=lambda name: -abs(leaks[name]))[:3]
        )
        print(f"| {own} | {first}-{end - 1} | {length:.2f} | {distance:.3f} | {told} |")
    turned = np.isin(names, args.only.split(","))
    combined["turned"] = np.where(turned, len(space.person), 0)  # by the gradients of how many faces
    np.savez(args.out, **combined)


if __name__ == "__main__":
    main()
