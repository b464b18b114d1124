"""From labelled codes to one linear direction in w for each attribute, each for itself.

    python linear.py --drawn drawn --labels labels --heads heads.npz --out linear.npz

A direction is S b, the covariance of w times the regression vector of the attribute: of all offsets with that effect
the least unlikely one. The regression sees the first principal components of w, as many as predict other faces best.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from attributes import ATTRIBUTES, Scale, read_attributes
from heads import Heads
from numpy.typing import NDArray

from refinestyle_hub import Generator


COMPONENTS = (40, 60, 90, 130, 180, 250)
FOLDS = 5
SAMPLES = 20_000  # of w, for its covariance
OTHER = ("seed", "features")


def read_table(drawn: Path, labels: Path, heads: Heads) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """w [N, 512] and all readings, each [N], of the faces that have been read."""
    codes, parts = [], []
    for path in sorted(labels.glob("shard-*.npz")):
        with np.load(drawn / path.name) as shard, np.load(path) as file:
            codes.append(shard["w"].astype(np.float64))
            readings = {name: file[name].astype(np.float64) for name in file.files if name not in OTHER}
            parts.append(readings | heads(file["features"]))
    return np.concatenate(codes), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def components(generator: Generator, truncation: float = 0.85) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of w [D, D], a column each, strongest first, and its deviations along them [D]."""
    import torch

    with torch.no_grad():
        w = generator.sample(SAMPLES, torch.Generator().manual_seed(0), truncation=truncation)[:, 0]
    values, vectors = np.linalg.eigh(np.cov(w.double().numpy().T))
    return vectors[:, ::-1], np.sqrt(np.maximum(values[::-1], 0))


def fit(
    codes: NDArray[np.float64], values: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], int, float]:
    """Regression of values [N] on whitened codes [N, D]: the vector [D], how many components, r of left-out faces."""
    parts = np.array_split(rng.permutation(len(codes)), FOLDS)
    best = (-1.0, 0)
    for count in COMPONENTS:
        answers = np.empty(len(values))
        for part in parts:
            rest = np.setdiff1d(np.arange(len(codes)), part)
            answers[part] = codes[part, :count] @ _solve(codes[rest, :count], values[rest])
        best = max(best, (float(np.corrcoef(answers, values)[0, 1]), count))
    r, count = best
    vector = np.zeros(codes.shape[1])
    vector[:count] = _solve(codes[:, :count], values)
    return vector, count, r


def _solve(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.solve(x.T @ x + 0.02 * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean()))


def main() -> None:
    """Fit all, print how well each is predicted, and write them with what else the next steps need."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawn", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    w, readings = read_table(args.drawn, args.labels, Heads.load(args.heads))
    scale = Scale.of(readings)
    attributes = read_attributes(readings, scale)
    basis, deviations = components(Generator.from_pretrained("ffhq-1024", subfolder="generator"))
    whitened = (w - w.mean(0)) @ basis / np.maximum(deviations, 1e-6)
    rng = np.random.default_rng(0)
    found, units = [], []
    print(
        f"{len(w)} faces\n\n| attribute | components | r, left-out faces | deviation |\n| --- | ---: | ---: | ---: |"
    )
    for name in ATTRIBUTES:
        values = attributes[name]
        unit = float(values.std())
        vector, count, r = fit(whitened, values / unit, rng)
        vector /= vector @ vector  # so that the prediction rises by one deviation
        found.append(vector)
        units.append(unit)
        print(f"| {name} | {count} | {r:.2f} | {unit:.2f} |")
    arrays = {
        "vectors": np.stack(found) * deviations @ basis.T,  # of w, for one deviation
        "whitened": np.stack(found),  # the same along the components of w, in deviations
        "units": np.array(units),
        "mean": np.array(list(scale.mean.values())),
        "deviation": np.array(list(scale.deviation.values())),
    }
    names = {"names": np.array(list(ATTRIBUTES)), "readings": np.array(list(scale.mean)), "faces": np.array(len(w))}
    np.savez_compressed(args.out, **names, **{key: values.astype(np.float32) for key, values in arrays.items()})


if __name__ == "__main__":
    main()
