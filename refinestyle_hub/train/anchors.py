"""Anchors: latent codes for pictures whose scene is known.

A synthetic portrait comes with the parameters it was rendered from. A flow (rectified flow, Liu et al. 2023,
arXiv 2209.03003) between N(0, I) and the distribution of those parameters gives every picture a code z that is
distributed like the generator's prior. During training the generator must redraw these anchors (a reconstruction term)
while random z are judged by the discriminator as usual: the pictures keep the structure of the data from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .data import Pictures, label_rows, other_side, parameters_of, picture_key


__all__ = ["Scenes", "couple", "scene_vectors", "scenes_of"]

LATERAL = ("yaw", "gaze.0", "light.0")  # angles to one side, in the portraits' labels


@dataclass(frozen=True)
class Scenes:
    """What the anchors show: [2 N, K], one row for each picture, then for each mirror image."""

    vectors: Tensor
    names: Sequence[str]  # of the first columns; the words of one label are columns "<label>=<word>"

    def columns(self) -> tuple[list[int], list[int], list[list[int]]]:
        """Columns by kind: numbers, flags (two values), and the group of each label of words."""
        words: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            if "=" in name:
                words.setdefault(name.split("=")[0], []).append(i)
        taken = {i for group in words.values() for i in group}
        others = [i for i in range(self.vectors.shape[1]) if i not in taken]
        flags = [i for i in others if len(self.vectors[:, i].unique()) == 2]
        return [i for i in others if i not in flags], flags, list(words.values())

    def to(self, device: torch.device) -> Scenes:
        return Scenes(self.vectors.to(device), self.names)


def scenes_of(source: str | Path, pictures: Pictures) -> Scenes:
    """The scenes of the pictures of ``source``.

    Raises:
        ConfigError: ``source`` has no labels.jsonl and parameters.npz, or not for every picture.
    """
    rows, parameters = label_rows(source), parameters_of(source)
    if rows is None or parameters is None:
        raise ConfigError(f"Anchors need labels.jsonl and parameters.npz in or beside {source}: one is missing.")
    places = {key: i for i, key in enumerate(rows)}
    chosen = [places[picture_key(name)] for name in pictures.names]
    labels = list(rows.values())
    vectors, names = scene_vectors(
        [labels[i] for i in chosen], {k: v if k.endswith("_names") else v[chosen] for k, v in parameters.items()}
    )
    side = torch.ones(len(vectors), 1)  # hair is parted on one side, which no label says
    both = [torch.cat([vectors, side], dim=1), torch.cat([mirrored(vectors, names, LATERAL), -side], dim=1)]
    return Scenes(torch.cat(both), names)


def scene_vectors(
    labels: Sequence[dict[str, object]], parameters: dict[str, np.ndarray], ignore: Sequence[str] = ("id", "split")
) -> tuple[Tensor, list[str]]:
    """One vector per picture: numbers, flags and lists as they are, words one-hot, then the rows of ``parameters``.

    Returns:
        ``(vectors [N, K] float32, names)``; a list ``gaze`` gives ``gaze.0``, ``gaze.1``, a word ``hair: afro`` gives
        ``hair=afro``, and an array with ``<array>_names`` gives those.
    """
    columns: dict[str, list[float]] = {}
    words: dict[str, set[str]] = {}
    for key, value in labels[0].items():
        if isinstance(value, str) and key not in ignore:
            words[key] = {str(row[key]) for row in labels}

    def put(name: str, value: object) -> None:
        if isinstance(value, (list, tuple)):
            for i, v in enumerate(value):
                put(f"{name}.{i}", v)
        else:
            columns.setdefault(name, []).append(float(value))  # type: ignore[arg-type]

    for row in labels:
        for key, value in row.items():
            if key in words:
                for word in sorted(words[key]):
                    put(f"{key}={word}", row[key] == word)
            elif key not in ignore:
                put(key, value)
    names = list(columns)
    parts = [torch.tensor([columns[n] for n in names], dtype=torch.float32).t()]
    for key, array in parameters.items():
        if not key.endswith("_names"):
            parts.append(torch.from_numpy(array.astype(np.float32)))
            names += [str(name) for name in parameters[f"{key}_names"]]
    return torch.cat(parts, dim=1), names


def mirrored(vectors: Tensor, names: Sequence[str], signed: Sequence[str]) -> Tensor:
    """Scene vectors [N, K] of the pictures flipped left to right: partners swap, ``signed`` names change sign."""
    place = {name: i for i, name in enumerate(names)}
    order = torch.tensor([place.get(other_side(name), i) for i, name in enumerate(names)])
    sign = torch.tensor([-1.0 if name in signed else 1.0 for name in names])
    return vectors[:, order] * sign


def normal_scores(values: Tensor, rng: torch.Generator) -> Tensor:
    """Replace each column of [N, K] by the normal quantile of its rank; ties (flags, words) are broken at random."""
    jitter = torch.rand(values.shape, generator=rng) * 1e-5 * values.std(0).clamp_min(1e-6)
    ranks = (values + jitter).argsort(0).argsort(0)
    scores: Tensor = torch.special.ndtri((ranks + 0.5) / len(values))
    return scores.float()


class Flow(nn.Module):
    """Velocity field v(x, t) of the straight paths between noise (t = 0) and data (t = 1)."""

    def __init__(self, size: int, width: int = 512) -> None:
        super().__init__()
        self.linear = nn.Linear(size + 1, size)
        self.inner = nn.Sequential(
            nn.Linear(size + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # x [N, K], t [N, 1] -> [N, K]
        xt = torch.cat([x, t], dim=1)
        velocity: Tensor = self.linear(xt) + self.inner(xt)
        return velocity

    @torch.no_grad()
    def to_noise(self, x: Tensor, steps: int = 40) -> Tensor:
        """Follow the flow back from data to noise by Heun's method."""
        h = 1.0 / steps
        for i in range(steps, 0, -1):
            t = x.new_full((len(x), 1), i * h)
            v = self(x, t)
            x = x - h * 0.5 * (v + self(x - h * v, t - h))
        return x


def couple(
    vectors: Tensor,
    steps: int = 3000,
    batch: int = 512,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Codes [N, K], close to N(0, I), of scene vectors [N, K]; deterministic by ``seed``."""
    rng = torch.Generator().manual_seed(seed)
    data = normal_scores(vectors, rng)  # each column is normal by itself; the flow undoes their dependence
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = Flow(data.shape[1])
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        x1 = data[torch.randint(len(data), (batch,), generator=rng)]
        x0 = torch.randn(x1.shape, generator=rng)
        t = torch.rand(batch, 1, generator=rng)
        loss = F.mse_loss(flow(x0 + t * (x1 - x0), t), x1 - x0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None and step % 100 == 0:
            progress(step, loss.item())
    return normal_scores(flow.to_noise(data), rng)
