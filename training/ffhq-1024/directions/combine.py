"""Choose the layers of each direction, and make it leave the other attributes alone, by what was measured in pictures.

    python combine.py --linear linear.npz --effects effects --out combined.npz
    python combine.py ... --before combined.npz --checks checks.npz --out again.npz

In a range of layers every direction has a measured effect on every attribute. A combination of all of them is sought
that moves one attribute by one deviation, the others little, and w little: least squares. The range with the least of
both is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from attributes import ATTRIBUTES, Scale, read_attributes
from effects import GROUPS, SIGNS, STRENGTH
from numpy.typing import NDArray


Floats: TypeAlias = NDArray[np.float64]

RANGES = [(first, end) for first, _ in GROUPS for _, end in GROUPS if first < end]  # of layers
STRUCTURE = ("eye_size", "brow_slant", "chin", "cheek_width", "nose_length", "face_share", "person_share", "roll")
LOOSE = 0.25  # weight of a change of such readings: they have no direction, but say that a face becomes another
OWN = 4.0  # weight of the wanted effect; that of an unwanted one is 1
LENGTH = 0.06  # weight of the squared length in deviations of w: against long ways, and against fitting noise
WEAKEST = 0.2  # of the wanted effect, before it is scaled to one: layers that can do less cannot do it


class Combination(NamedTuple):
    """A direction for one attribute in one range of layers."""

    layers: tuple[int, int]
    shares: Floats  # [K], of the linear directions
    predicted: Floats  # [K + S], deviations for strength 1
    cost: float


def arrays(path: Path) -> dict[str, Floats]:
    """All arrays of a .npz file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def measured(folder: Path, linear: dict[str, Floats]) -> Floats:
    """Change in deviations for strength 1, [K directions, groups, K attributes and S readings of structure]."""
    names = linear["readings"].tolist()
    scale = Scale(*(dict(zip(names, linear[key].tolist(), strict=True)) for key in ("mean", "deviation")))

    def values(name: str) -> Floats:  # [groups, faces, K + S]
        readings = arrays(folder / f"{name}.npz")
        attributes = np.stack(list(read_attributes(readings, scale).values()), axis=-1) / linear["units"]
        structure = [(readings[other] - scale.mean[other]) / scale.deviation[other] for other in STRUCTURE]
        return np.concatenate([attributes, np.stack(structure, axis=-1)], axis=-1)

    steps = STRENGTH * np.array(SIGNS)[:, None]
    return np.stack([((values(name) - values("none")) / steps).mean(axis=1) for name in ATTRIBUTES])


def within(effects: Floats, layers: tuple[int, int]) -> Floats:
    """The effects in a range of layers, [K, K + S]: the groups' effects add up."""
    inside = [layers[0] <= first and end <= layers[1] for first, end in GROUPS]
    return effects[:, inside].sum(1)


def solve(own: int, layers: tuple[int, int], effects: Floats, lengths: Floats) -> Combination:
    """The combination that moves the attribute ``own`` by one deviation.

    Args:
        own: Place of the attribute.
        layers: Those that move.
        effects: Of each direction on each attribute in these layers [K, K + S].
        lengths: Inner products of the directions in deviations of w [K, K].
    """
    names = list(ATTRIBUTES)
    weights = np.r_[np.ones(len(names)), np.full(len(STRUCTURE), LOOSE)]
    weights[[names.index(name) for name in ATTRIBUTES[names[own]].free]] = 0.0
    weights[own] = OWN
    wanted = np.eye(len(weights))[own]
    share = (layers[1] - layers[0]) / GROUPS[-1][1]
    stay = LENGTH * (0.5 + 0.5 * share) * lengths  # the fewer layers move, the less of a face does
    shares = np.linalg.solve(effects * weights @ effects.T + stay, effects @ (weights * wanted))
    effect = shares @ effects
    if effect[own] < WEAKEST:
        return Combination(layers, shares, effect, np.inf)
    shares, effect = shares / effect[own], effect / effect[own]
    leak = effect - wanted
    return Combination(layers, shares, effect, float(weights * leak @ leak + shares @ stay @ shares))


def corrected(effects: Floats, shares: Floats, seen: Floats) -> Floats:
    """The effects [K, K + S] of some layers, brought to agree with what a combination was seen to do to attributes."""
    missed = np.zeros(effects.shape[1])
    missed[: len(seen)] = seen - (shares @ effects)[: len(seen)]
    return effects + np.outer(shares, missed) / (shares @ shares)


def main() -> None:
    """Combine, print a table, write the vectors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--linear", type=Path, required=True)
    parser.add_argument("--effects", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="earlier combinations, whose layers stay, and")
    parser.add_argument("--checks", type=Path, help="what check.py saw them do")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    linear = arrays(args.linear)
    effects = measured(args.effects, linear)
    vectors = linear["vectors"]
    whitened = vectors @ linear["basis"] / np.maximum(linear["deviations"], 1e-3 * linear["deviations"][0])
    lengths = whitened @ whitened.T
    if args.before:
        before, checks = arrays(args.before), arrays(args.checks)
    found = []
    print("| attribute | layers | effect of the linear direction, by group | length | largest leaks, predicted |")
    print("| --- | --- | --- | ---: | --- |")
    for own, name in enumerate(ATTRIBUTES):
        if args.before:
            layers, shares = tuple(before["layers"][own].tolist()), before["shares"][own]
            table = corrected(within(effects, layers), shares, checks[name])
            one = solve(own, layers, table, lengths)
        else:
            tried = [layers for layers in RANGES if layers[0] >= ATTRIBUTES[name].first]
            one = min((solve(own, layers, within(effects, layers), lengths) for layers in tried), key=lambda o: o.cost)
        groups = " ".join(f"{value:.2f}" for value in effects[own, :, own])
        length = float(np.sqrt(one.shares @ lengths @ one.shares))
        leaks = {
            other: abs(v) for other, v in zip((*ATTRIBUTES, *STRUCTURE), one.predicted, strict=True) if other != name
        }
        told = ", ".join(f"{other} {leaks[other]:.2f}" for other in sorted(leaks, key=lambda o: -leaks[o])[:3])
        print(f"| {name} | {one.layers[0]}-{one.layers[1] - 1} | {groups} | {length:.2f} | {told} |")
        found.append(one)
    np.savez(
        args.out,
        names=np.array(list(ATTRIBUTES)),
        layers=np.array([one.layers for one in found]),
        shares=np.stack([one.shares for one in found]),
        vectors=np.stack([one.shares @ vectors for one in found]),
    )


if __name__ == "__main__":
    main()
