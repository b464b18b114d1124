"""Choose the layers of each direction, and make it leave the other attributes alone.

    python combine.py --linear scale.npz --effects effects --out combined.npz

The layers are the shortest range that holds most of what a direction was seen to do to its own attribute in pictures.
The vector is a combination of all linear directions that moves the prediction of one attribute by one deviation, those
of the others little, and w little: least squares over all labelled faces, which know the others better than the few
faces of the pictures do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

import numpy as np
from attributes import ATTRIBUTES, Scale, read_attributes
from effects import GROUPS, SIGNS, STRENGTH
from numpy.typing import NDArray


Floats: TypeAlias = NDArray[np.float64]

RANGES = [(a, b) for a in range(len(GROUPS)) for b in range(a + 1, len(GROUPS) + 1)]  # of groups
MOST = 0.7  # share of the effect that the layers must hold
OWN = 4.0  # weight of the wanted effect; that of an unwanted one is 1
LENGTH = 0.03  # weight of the squared length in deviations of w
LONGEST = 3.0  # deviations of w for strength 1: an attribute that needs more gets a smaller unit


def arrays(path: Path) -> dict[str, Floats]:
    """All arrays of a .npz file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def measured(folder: Path, linear: dict[str, Floats]) -> Floats:
    """Change of each direction's own attribute in deviations for strength 1, in each group of layers, [K, groups]."""
    names = linear["readings"].tolist()
    scale = Scale(*(dict(zip(names, linear[key].tolist(), strict=True)) for key in ("mean", "deviation")))

    def values(file: str, name: str) -> Floats:  # [groups, faces]
        return read_attributes(arrays(folder / f"{file}.npz"), scale)[name]

    steps = STRENGTH * np.array(SIGNS)
    changes = np.stack([((values(n, n) - values("none", n)) / steps).mean(axis=1) for n in ATTRIBUTES])
    return changes / linear["units"][:, None]


def layers_of(name: str, effects: Floats) -> tuple[tuple[int, int], float]:
    """The shortest range of layers with most of the effect of its groups, and the share that it holds."""
    effects = np.where([first >= ATTRIBUTES[name].first for first, _ in GROUPS], effects.clip(0), 0.0)
    shares = {groups: float(effects[slice(*groups)].sum() / effects.sum()) for groups in RANGES}
    enough = [groups for groups in RANGES if shares[groups] >= MOST]
    first, end = min(enough, key=lambda groups: (groups[1] - groups[0], -shares[groups]))
    return (GROUPS[first][0], GROUPS[end - 1][1]), shares[first, end]


def combination(own: int, effects: Floats, lengths: Floats) -> Floats:
    """Shares [K] of the directions in the one that moves the attribute ``own`` by one deviation.

    Args:
        own: Place of the attribute.
        effects: Of each direction on the prediction of each attribute [K, K].
        lengths: Inner products of the directions in deviations of w [K, K].
    """
    names = list(ATTRIBUTES)
    weights = np.ones(len(names))
    weights[[names.index(name) for name in ATTRIBUTES[names[own]].free]] = 0.0
    weights[own] = OWN
    wanted = np.eye(len(names))[own]
    shares: Floats = np.linalg.solve(effects * weights @ effects.T + LENGTH * lengths, effects @ (weights * wanted))
    return shares / (shares @ effects)[own]


def main() -> None:
    """Combine, print a table, write the vectors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--effects", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    linear = arrays(args.linear)
    seen = measured(args.effects, linear)
    vectors = linear["vectors"]
    lengths = linear["whitened"] @ linear["whitened"].T
    effects = lengths / lengths.diagonal()  # a direction is a regression vector by its squared length
    layers, found = [], []
    print("| attribute | layers | effect of the linear direction, by group | length | largest leaks, predicted |")
    print("| --- | --- | --- | ---: | --- |")
    for own, name in enumerate(ATTRIBUTES):
        (first, end), share = layers_of(name, seen[own])
        shares = combination(own, effects, lengths)
        length = float(np.sqrt(shares @ lengths @ shares)) / share
        found.append(shares @ vectors / share * min(1.0, LONGEST / length))
        layers.append((first, end))
        groups = " ".join(f"{value:.2f}" for value in seen[own])
        leaks = {other: abs(v) for other, v in zip(ATTRIBUTES, shares @ effects, strict=True) if other != name}
        told = ", ".join(f"{other} {leaks[other]:.2f}" for other in sorted(leaks, key=lambda o: -leaks[o])[:3])
        print(f"| {name} | {first}-{end - 1} | {groups} | {length:.2f} | {told} |")
    np.savez(args.out, names=np.array(list(ATTRIBUTES)), layers=np.array(layers), vectors=np.stack(found))


if __name__ == "__main__":
    main()
