"""Heads for what no network in a package reads: glasses, beard, hair, hat, make-up, learnt from labels by eye.

    python heads.py --labels labels --drawn drawn --eye by_eye.csv --out heads.npz

A head is a ridge regression on the backbone's features. How strongly it is damped is chosen by leaving one face out at
a time, in closed form; the accuracies printed are those of ten folds that the head did not see.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


__all__ = ["Heads", "by_eye", "features_by_seed"]

Floats: TypeAlias = NDArray[np.float64]

ATTRIBUTES = ("glasses", "beard", "hair_length", "fringe", "bald", "hat", "makeup", "curls")
DAMPINGS = np.geomspace(0.003, 3.0, 13)  # shares of the kernel's mean eigenvalue
FOLDS = 10


class Heads(NamedTuple):
    """Linear maps from standardised features to attributes."""

    names: tuple[str, ...]
    mean: Floats  # [F]
    scale: Floats  # [F]
    weights: Floats  # [F, K]
    bias: Floats  # [K]

    def __call__(self, features: NDArray[np.float16]) -> dict[str, Floats]:
        """Features [N, F] -> attribute -> [N], in the units of the labels by eye."""
        values = (features.astype(np.float64) - self.mean) / self.scale @ self.weights + self.bias
        return {name: values[:, place] for place, name in enumerate(self.names)}

    def save(self, path: Path) -> None:
        """Single precision is enough."""
        arrays = {name: getattr(self, name).astype(np.float32) for name in ("mean", "scale", "weights", "bias")}
        np.savez_compressed(path, names=np.array(self.names), **arrays)

    @classmethod
    def load(cls, path: Path) -> Heads:
        """As it was saved."""
        with np.load(path) as file:
            arrays = [file[name].astype(np.float64) for name in ("mean", "scale", "weights", "bias")]
            return cls(tuple(file["names"].tolist()), *arrays)


def by_eye(path: Path) -> dict[int, dict[str, float]]:
    """Seed -> attribute -> what was seen."""
    with path.open(newline="") as file:
        return {int(row["seed"]): {name: float(row[name]) for name in ATTRIBUTES} for row in csv.DictReader(file)}


def features_by_seed(drawn: Path, labels: Path) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Seeds [N] and features [N, F] of all faces that have been read."""
    seeds, features = [], []
    for path in sorted(labels.glob("shard-*.npz")):
        with np.load(drawn / path.name) as shard, np.load(path) as file:
            seeds.append(shard["seed"])
            features.append(file["features"])
    return np.concatenate(seeds), np.concatenate(features)


def fit(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Ridge regressions of y [N, K] on features x [N, F]: weights [F, K] and biases [K].

    In the dual form, each with the damping that predicts faces best that are left out one at a time.
    """
    mean, middle = x.mean(0), y.mean(0)
    x, y = x - mean, y - middle
    values, vectors = np.linalg.eigh(x @ x.T)
    seen = vectors.T @ y
    best = np.full(y.shape[1], np.inf)
    weights = np.zeros((x.shape[1], y.shape[1]))
    for damping in DAMPINGS * values.mean():
        gains = 1 / (values.clip(0) + damping)
        dual = vectors @ (gains[:, None] * seen)  # [N, K]
        errors = np.square(dual / (np.square(vectors) @ gains)[:, None]).mean(0)
        better = errors < best
        best[better], weights[:, better] = errors[better], x.T @ dual[:, better]
    return weights, middle - mean @ weights


def held_out(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """What heads that were fitted to the other nine tenths answer, [N, K]."""
    answers = np.empty_like(y)
    for fold in np.array_split(rng.permutation(len(y)), FOLDS):
        rest = np.setdiff1d(np.arange(len(y)), fold)
        weights, bias = fit(x[rest], y[rest])
        answers[fold] = x[fold] @ weights + bias
    return answers


def scores(y: Floats, answers: Floats) -> Mapping[str, float]:
    """Accuracy of "seen at all" at the threshold that keeps its share, that of guessing, area under the curve, r."""
    seen = y > 0 if (y > 0).mean() < 0.6 else y > 1  # hair length: longer than short
    positive, negative = answers[seen], answers[~seen]
    threshold = np.quantile(answers, 1 - seen.mean())
    return {
        "share": float(seen.mean()),
        "accuracy": float(((answers > threshold) == seen).mean()),
        "guess": float(max(seen.mean(), 1 - seen.mean())),
        "area": float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()),
        "r": float(np.corrcoef(y, answers)[0, 1]),
    }


def main() -> None:
    """Fit all heads, print how well they do on faces that they have not seen, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawn", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--eye", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    seen = by_eye(args.eye)
    seeds, features = features_by_seed(args.drawn, args.labels)
    rows = np.array([seed in seen for seed in seeds.tolist()])
    mean, scale = features.astype(np.float32).mean(0), features.astype(np.float32).std(0) + 1e-3
    x = (features[rows].astype(np.float64) - mean) / scale
    y = np.array([[seen[seed][name] for name in ATTRIBUTES] for seed in seeds[rows].tolist()])
    answers = held_out(x, y, np.random.default_rng(0))
    print(f"{len(x)} faces by eye; accuracies on held-out tenths\n")
    print("| attribute | share | accuracy | always the commoner answer | area under the curve | r |")
    print("| --- |" + " ---: |" * 5)
    for place, name in enumerate(ATTRIBUTES):
        row = scores(y[:, place], answers[:, place])
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    Heads(ATTRIBUTES, mean, scale, *fit(x, y)).save(args.out)


if __name__ == "__main__":
    main()
