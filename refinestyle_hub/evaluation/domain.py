"""How good a domain is: samples before and after it, compared with true pictures of the style.

Set distances say how near the samples come to the true pictures, diversity whether they still differ from each other,
drift how much of pose and expression was lost on the way. What cannot be measured is None, and a note says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..cards.facts import Metric
from ..errors import ConfigError, ShapeError
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..losses.perceptual import Perceptual
from ..losses.pixel import shrink
from ..tokens.token_set import TokenSet
from . import metrics
from .attributes import AttributeNet
from .drift import Faces, attribute_drift


__all__ = [
    "CLUSTERS",
    "FEATURES",
    "TRAINING_BYTES",
    "Draw",
    "MetricNets",
    "card_metrics",
    "compare",
    "evaluate_domain",
    "sample_codes",
]

Draw: TypeAlias = Callable[[Tensor], Tensor]  # w+ [n, L, D] -> pictures [n, 3, R, R]
OnBatch: TypeAlias = Callable[[int, int], None]  # samples done, and all of them
Levels: TypeAlias = list[Tensor]  # features [N, F] of one network at one or several depths

FEATURES = ("trunk_features", "attribute_features", "discriminator_features")
BATCH = 16
FINE = 256  # pixels: what the perceptual distance looks at, at most
SHOWN = 250  # samples whose diversity is measured: their feature maps are kept in memory
PAIRS = 500  # of samples in a cluster
CLUSTERS = 20  # at most
TRAINING_BYTES = 12  # of each number that is learnt: its gradient and Adam's two moments, fp32


@dataclass(frozen=True, eq=False)
class MetricNets:
    """The networks that measure. What an absent one would measure is left out."""

    attributes: AttributeNet | None = None
    discriminator: Discriminator | None = None
    perceptual: Perceptual | None = None
    trunk: Callable[[Tensor], Sequence[Tensor]] | None = None  # of any pictures, at FINE px -> maps [N, C, h, w]

    def levels(self, pictures: Tensor) -> dict[str, Levels]:
        """Features of pictures [N, 3, R, R] by network, at its depths; of maps their means."""
        found: dict[str, Levels] = {}
        if self.trunk is not None:
            found["trunk_features"] = [x.float().mean(dim=(2, 3)) for x in self.trunk(shrink(pictures, FINE))]
        if self.attributes is not None:
            found["attribute_features"] = [self.attributes.features(pictures)]
        if self.discriminator is not None:
            maps = self.discriminator.features(pictures)
            found["discriminator_features"] = [x.float().mean(dim=(2, 3)) for x in maps]
        return found


def evaluate_domain(
    generator: Generator,
    tokens: TokenSet,
    true: Tensor | Sequence[Tensor],
    nets: MetricNets,
    *,
    samples: int = 500,
    truncation: float = 1.0,
    seed: int = 0,
    references: Tensor | None = None,
    faces: int = 100,
    on_batch: OnBatch | None = None,
) -> dict[str, Any]:
    """``compare`` for a token set, with its size and the time that it costs.

    Args:
        samples: The number of pictures to draw, from seeded latents and with the generator's stored noise.
        truncation: 1 draws the samples as they are, 0 the mean face.

    Raises:
        ConfigError: There are fewer than two samples.
        ShapeError: The pictures have another size than the generator's.
        BaseMismatchError, LayerError: The tokens were made for another generator.
    """
    w_plus = sample_codes(generator, samples, truncation, seed)
    device = w_plus.device
    tokens = tokens.to(device)

    def draw(set_: TokenSet | None) -> Draw:
        return lambda w: generator(w, set_).clamp(-1, 1)

    report = compare(draw(None), draw(tokens), w_plus, true, nets, references=references, faces=faces,
                     seed=seed, on_batch=on_batch)  # fmt: skip
    parameters = sum(p.numel() for p in generator.parameters())
    return {
        **report,
        "truncation": truncation,
        "bytes": tokens.nbytes,
        "values": tokens.num_values,
        "share_of_generator": tokens.num_values / parameters,
        "training_bytes": TRAINING_BYTES * tokens.num_values,
        "seconds": {
            "picture": _seconds(draw(tokens), w_plus[:8]),
            "plain_picture": _seconds(draw(None), w_plus[:8]),
        },
    }


def sample_codes(generator: Generator, samples: int, truncation: float = 1.0, seed: int = 0) -> Tensor:
    """w+ [N, L, D] of seeded latents. Raises ConfigError for fewer than two."""
    if samples < 2:
        raise ConfigError(f"At least two samples are needed to compare sets of pictures, not {samples}.")
    z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator.map(z.to(generator.device), truncation)


@torch.no_grad()
def compare(
    plain: Draw,
    adapted: Draw,
    w_plus: Tensor,
    true: Tensor | Sequence[Tensor],
    nets: MetricNets,
    *,
    references: Tensor | None = None,
    faces: int = 100,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> dict[str, Any]:
    """Measure any change of a generator: a domain, or one that was fine-tuned.

    Args:
        plain: Draws w+ [n, L, D] as before the change, pictures [n, 3, R, R] in [-1, 1].
        adapted: Draws them as after the change.
        w_plus: The codes of the samples, [N, L, D].
        true: Pictures of the style, [M, 3, R, R]: a tensor, or a sequence of [3, R, R].
        nets: The networks that measure.
        references: Pictures that the change was learnt from, [K, 3, R, R]; the clusters of the diversity form around
            them. None takes the first of the true pictures, at most 20.
        faces: The number of samples whose landmarks are compared.
        seed: The seed of the estimates.
        on_batch: A function called after each batch with (samples done, samples in all).

    Returns:
        What JSON holds: by network the kernel distance (times 1000) and Frechet distance of the samples, and of
        those before the change; ``diversity``; ``landmarks`` and ``attributes`` that drifted; ``notes``.

    Raises:
        ShapeError: There is no true picture, or they have another size than the samples.
    """
    if not len(true):
        raise ShapeError("There is no true picture to compare with.")
    notes: list[str] = []
    device = w_plus.device
    goal = _gather([nets.levels(part.to(device)) for part in _batches(true)])
    before, after, maps = [], [], []
    readings: list[tuple[Tensor, Tensor]] = []
    looks = Faces(faces)
    for start in range(0, len(w_plus), BATCH):
        codes = w_plus[start : start + BATCH]
        source, sample = plain(codes), adapted(codes)
        if sample.shape[1:] != true[0].shape:
            raise ShapeError(f"The true pictures are {list(true[0].shape)}, the samples {list(sample.shape[1:])}.")
        before.append(nets.levels(source))
        after.append(nets.levels(sample))
        if nets.perceptual is not None and start < SHOWN:
            maps.append(_flat_maps(nets.perceptual, sample))
        if nets.attributes is not None:
            readings.append((nets.attributes(source).values, nets.attributes(sample).values))
        looks.add(source, sample)
        if on_batch is not None:
            on_batch(min(start + BATCH, len(w_plus)), len(w_plus))

    sets: dict[str, Any] = dict.fromkeys(FEATURES)
    for name in FEATURES:
        if name not in goal:
            notes.append(f"No {name.replace('_', ' ')}: the network is not at hand.")
            continue
        sets[name] = _distances(goal[name], _gather(before)[name], _gather(after)[name], notes, name)
    clusters = true[:CLUSTERS] if references is None else references
    return {
        "samples": len(w_plus),
        "true_pictures": len(true),
        "seed": seed,
        **sets,
        "diversity": _diversity(nets.perceptual, maps, clusters, references is not None, seed, notes),
        "landmarks": looks.report(notes),
        "attributes": attribute_drift(nets.attributes, readings),
        "notes": notes,
    }


# --- Sets -----------------------------------------------------------------------------------------------------------


def _batches(pictures: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        yield part if isinstance(part, Tensor) else torch.stack(list(part))


def _gather(parts: Sequence[Mapping[str, Levels]]) -> dict[str, Levels]:
    """Features of batches -> of the whole set."""
    return {name: [torch.cat(level) for level in zip(*(p[name] for p in parts), strict=True)] for name in parts[0]}


def _distances(goal: Levels, before: Levels, after: Levels, notes: list[str], name: str) -> dict[str, Any] | None:
    """Kernel and Frechet distance to the goal, of the samples before and after."""
    what = name.replace("_", " ")
    if len(goal[0]) < 2:
        notes.append(f"No distances in {what}: an unbiased estimate needs at least two true pictures.")
        return None
    scales = [level.square().mean().sqrt().clamp(min=1e-12) for level in goal]
    true, old, new = (
        torch.cat([x / s for x, s in zip(set_, scales, strict=True)], 1) for set_ in (goal, before, after)
    )
    count, width = true.shape
    if count <= width:
        notes.append(
            f"{count} true pictures do not span {width} {what}: the Frechet distance is mostly its own bias, good for "
            "comparisons at the same numbers alone. The kernel distance is unbiased."
        )
    kernel, plain = metrics.kernel_distance(true, new), metrics.kernel_distance(true, old)
    return {
        "kernel_x1000": 1000 * kernel.mean,
        "kernel_x1000_std": 1000 * kernel.std,
        "frechet": metrics.frechet_distance(true, new),
        "before_kernel_x1000": 1000 * plain.mean,
        "before_frechet": metrics.frechet_distance(true, old),
        "gap_closed": 1 - kernel.mean / plain.mean if plain.mean > 0 else None,
    }


# --- Diversity ------------------------------------------------------------------------------------------------------


def _flat_maps(perceptual: Perceptual, pictures: Tensor) -> Tensor:
    """Pictures -> [N, F] whose squared differences sum to the perceptual distance; in half precision: F is large."""
    maps = perceptual.embed(shrink(pictures, FINE))
    return torch.cat([(m / (m.shape[2] * m.shape[3]) ** 0.5).flatten(1) for m in maps], dim=1).half()


def _diversity(
    perceptual: Perceptual | None,
    maps: Sequence[Tensor],
    clusters: Tensor | Sequence[Tensor],
    known: bool,
    seed: int,
    notes: list[str],
) -> dict[str, Any] | None:
    """Intra-cluster diversity (CDC) of the samples."""
    if perceptual is None:
        notes.append("No diversity: the perceptual distance is not at hand.")
        return None
    items = torch.cat([*maps])[:SHOWN]
    centres = torch.cat([_flat_maps(perceptual, part.to(items.device)) for part in _batches(clusters)])
    whole = torch.cat([items, centres])

    def distance(a: Tensor, b: Tensor) -> Tensor:  # of rows of the whole, by number
        pairs = zip(a.split(16), b.split(16), strict=True)
        return torch.cat([(whole[i].float() - whole[j].float()).square().sum(1) for i, j in pairs])

    numbers = torch.arange(len(whole), device=whole.device)
    own, around = numbers[: len(items)], numbers[len(items) :]
    try:
        value = metrics.intra_cluster_diversity(own, around, distance, PAIRS, seed)
    except ShapeError:
        notes.append("No diversity: no reference has two samples near it. Draw more samples.")
        return None
    nearest = torch.stack([distance(own, centre.expand_as(own)) for centre in around], 1).argmin(1)
    return {
        "intra_perceptual": value,
        "perceptual": perceptual.name,
        "samples": len(items),
        "clusters": torch.bincount(nearest, minlength=len(around)).tolist(),
        "around": "the references" if known else "the first true pictures",
    }


# --- Cost and card --------------------------------------------------------------------------------------------------


def _seconds(draw: Draw, codes: Tensor) -> float:
    """Seconds of one picture in a batch: the best of three runs, after one to warm up."""
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            draw(codes).cpu()  # waits for a GPU
            times.append(time.perf_counter() - start)
    return min(times[1:]) / len(codes)


def card_metrics(report: Mapping[str, Any], dataset: str, command: str = "") -> tuple[Metric, ...]:
    """The metrics of a report that belong on the card of the domain; kernel distances first."""
    found: list[Metric] = []

    def add(name: str, part: str, key: str, samples: str = "", unit: str = "", version: str = "") -> None:
        values = report[part] or {}
        if values.get(key) is not None:
            count = values[samples] if samples else report["samples"]
            found.append(Metric(name, values[key], dataset, unit, count, report["seed"], version, command))

    for part in FEATURES:
        what = part.replace("_", " ")
        add(f"Kernel distance in {what}, x1000", part, "kernel_x1000")
        add(f"Share of the gap closed, {what}", part, "gap_closed")
        add(f"Frechet distance in {what}", part, "frechet")
    perceptual = (report["diversity"] or {}).get("perceptual", "")
    add("Intra-perceptual diversity", "diversity", "intra_perceptual", "samples", version=perceptual)
    add("Identity distance", "landmarks", "identity", "pictures", version="dlib")
    add("Landmark drift", "landmarks", "drift", "pictures", "eye distances", "dlib")
    add("Share of pictures with landmarks", "landmarks", "share", "pictures", version="dlib")
    add("Drift of pose and expression", "attributes", "content_deviations", unit="sd")
    return tuple(found)
