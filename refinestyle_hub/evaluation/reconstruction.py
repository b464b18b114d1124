"""How well pictures are inverted: several methods, measured by the same distances on the same pictures.

Each picture is inverted alone, so the seconds are those of one photo.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..encoder.encoder import Encoder
from ..encoder.heads import TokenHead
from ..errors import ConfigError, ShapeError, counted
from ..faces.identity import identity_distance
from ..images import to_images
from ..inversion.folder import way
from ..inversion.inversion_loss import FINE
from ..inversion.inversion_settings import STEPS, STEPS_AFTER_ENCODER
from ..losses.perceptual import Perceptual
from ..losses.pixel import mse, shrink
from ..pipeline import RefineStylePipeline
from ..storage.fingerprint import digest
from .attributes import AttributeNet
from .baselines import pivotal_tuning, project_w_plus
from .metrics import PairDistance, ms_ssim
from .record import Record


__all__ = [
    "LEGEND",
    "Method",
    "baselines",
    "by_content",
    "distances",
    "estimate",
    "evaluate_inversion",
    "evaluate_kept",
    "evaluate_picture",
    "head",
    "line",
    "our_methods",
    "setup",
    "summary",
    "table",
]

Invert: TypeAlias = Callable[[Tensor], tuple[Tensor, int]]  # [1, 3, R, R] -> what is drawn of it, numbers to keep
BATCH = 16  # pictures measured at once
RISING = frozenset({"ms_ssim", "cosine"})  # the more, the nearer
LEGEND = "Median over the pictures; in brackets what nine in ten reach."
SMALLEST = 99  # pixels of which four scales of MS-SSIM can be taken


@dataclass(frozen=True, eq=False)
class Method:
    """A method that inverts a picture."""

    name: str
    invert: Invert
    parameters: int = 0  # of the network that was trained for it, without the generator
    quick: bool = False  # so that a first picture, for which more is loaded, would weigh in its seconds


# --- Ways -----------------------------------------------------------------------------------------------------------


def our_methods(
    pipe: RefineStylePipeline, steps: Sequence[int] | None = None, name: str = "encoder", num_iters: Sequence[int] = ()
) -> list[Method]:
    """The encoder's w+ alone, its whole answer if it has tokens, and optimisation from there for each of ``steps``.

    Without an encoder: optimisation from the mean latent.

    Args:
        steps: Numbers of steps. None takes the pipeline's own number.
        num_iters: Also the answer of two stages after each of these numbers of refinement iterations.
    """
    generator, encoder = pipe.generator, pipe.encoder

    def optimised(count: int) -> Invert:
        def invert(crop: Tensor) -> tuple[Tensor, int]:
            found = pipe.invert_crops(crop, steps=count)[0]
            with torch.no_grad():
                drawn = generator(found.w_plus[None], found.tokens)
            return drawn, found.w_plus.numel() + (found.tokens.num_values if found.tokens else 0)

        return invert

    if encoder is None:
        counts = [STEPS] if steps is None else steps
        return [Method(f"tokens, {counted(count, 'step')}", optimised(count)) for count in counts]
    codes = generator.num_ws * generator.config.w_dim
    distance = encoder.load_distance()
    kept, whole = codes + token_values(encoder), sum(p.numel() for p in encoder.parameters())

    @torch.no_grad()
    def alone(crop: Tensor) -> tuple[Tensor, int]:
        return generator(encoder.codes(crop)), codes

    def answer(count: int | None) -> Invert:
        @torch.no_grad()
        def invert(crop: Tensor) -> tuple[Tensor, int]:
            w_plus, tokens = encoder(crop, generator, distance, count)
            return generator(w_plus, tokens), kept

        return invert

    first = sum(p.numel() for p in encoder.first.parameters())
    counts = [STEPS_AFTER_ENCODER] if steps is None else steps
    further = [Method(f"{name} + {counted(count, 'step')}", optimised(count), whole) for count in counts]
    answers = [Method(name, answer(None), whole, quick=True)] if encoder.config.network.layers else []
    answers += [
        Method(f"{name}, {counted(count, 'iteration')}", answer(count), whole, quick=True) for count in num_iters
    ]
    return [Method(f"{name}, w+ alone", alone, first, quick=True), *answers, *further]


def token_values(encoder: Encoder) -> int:
    """Numbers that an encoder gives for the tokens of one picture."""
    heads = (head for head in encoder.modules() if isinstance(head, TokenHead))
    return sum(head.rank * sum(p.out_features for p in (head.p, head.q, head.a) if p is not None) for head in heads)


def baselines(
    pipe: RefineStylePipeline, w_steps: Sequence[int] = (500,), tuning: Sequence[tuple[int, int]] = ((450, 350),)
) -> list[Method]:
    """w+ optimisation for each number of steps, and PTI for each pair of steps (pivot, generator)."""
    generator = pipe.generator

    def projected(steps: int) -> Invert:
        def invert(crop: Tensor) -> tuple[Tensor, int]:
            w_plus = project_w_plus(generator, crop, perceptual=pipe.perceptual, steps=steps)
            with torch.no_grad():
                return generator(w_plus), w_plus.numel()

        return invert

    def tuned(pivot: int, steps: int) -> Invert:
        def invert(crop: Tensor) -> tuple[Tensor, int]:
            w_plus, own = pivotal_tuning(
                generator, crop, perceptual=pipe.perceptual, pivot_steps=pivot, tuning_steps=steps
            )
            with torch.no_grad():
                return own(w_plus), w_plus.shape[2] + sum(p.numel() for p in own.synthesis_parameters())

        return invert

    found = [Method(f"w+, {counted(steps, 'step')}", projected(steps)) for steps in w_steps]
    return found + [Method(f"PTI, {pivot} + {counted(steps, 'step')}", tuned(pivot, steps)) for pivot, steps in tuning]


# --- Metrics --------------------------------------------------------------------------------------------------------


def distances(
    side: int,
    perceptual: Perceptual,
    unseen: Perceptual | None = None,
    attributes: AttributeNet | None = None,
    *,
    identity: bool = False,
) -> dict[str, PairDistance]:
    """The distances [N] by which pictures [N, 3, R, R] and their reconstructions are compared, at 256 px at most.

    Args:
        side: R, pixels; MS-SSIM is left out where its four scales do not fit.
        perceptual: The distance that was trained with.
        unseen: A distance that no loss used.
        attributes: Reads attributes. Their error is in standard deviations, mean over the attributes.
        identity: Also the distance of dlib's embeddings; NaN where no face is found in one of the two.
    """
    found: dict[str, PairDistance] = {"mse": _shrunk(mse)}
    for distance in (perceptual, unseen):
        if distance is not None:
            found[distance.name] = _shrunk(distance)
    if side >= SMALLEST:
        found["ms_ssim"] = _shrunk(ms_ssim)
    if attributes is not None:
        found["attributes"] = lambda x, y: attribute_error(attributes, x, y)
    if identity:
        found["identity"] = identity_distances
    return found


def _shrunk(distance: PairDistance) -> PairDistance:
    return lambda x, y: distance(shrink(x, FINE), shrink(y, FINE))


def identity_distances(x: Tensor, y: Tensor) -> Tensor:
    """``identity_distance`` of each pair, [N]; NaN where it is None."""
    pairs = zip(to_images(x), to_images(y), strict=True)
    found = [identity_distance(first, second) for first, second in pairs]
    return torch.tensor([math.nan if distance is None else distance for distance in found])


def attribute_error(net: AttributeNet, x: Tensor, y: Tensor) -> Tensor:
    """Mean difference of the attributes read off pictures, in standard deviations of the portraits, [N]."""
    count = net.config.num_attributes
    first, second = (net.to_units(net(pictures).values)[:, :count] for pictures in (x, y))
    return ((first - second).abs() / first.new_tensor(net.config.std[:count])).mean(dim=1)


@torch.no_grad()
def evaluate_inversion(
    methods: Sequence[Method],
    crops: Tensor,
    by: Mapping[str, PairDistance],
    *,
    warm: bool = False,
) -> list[dict[str, Any]]:
    """Invert every picture of [N, 3, R, R] by every method; ``warm`` says that they have run before.

    Returns:
        For each method its name; ``metrics``: of every distance and of the seconds mean, standard deviation and median
        over the pictures, ``worst_tenth``, which nine in ten reach, and the ``count`` of pictures where it could be
        taken (one that could be taken of no picture is left out); ``parameters`` that were trained; ``values`` to keep
        for each picture.

    Raises:
        ConfigError: Two methods have one name.
        ShapeError: There is no picture.
    """
    if len({method.name for method in methods}) < len(methods):
        raise ConfigError("Two methods have the same name; give the encoders names of their own.")
    if not len(crops):
        raise ShapeError("There is no picture to invert.")
    rows: list[dict[str, Any]] = []
    for method in methods:
        if not warm and (method.quick or not rows):
            with torch.enable_grad():
                method.invert(crops[:1])
        drawn, seconds, values = [], [], 0
        for crop in crops.split(1):
            start = time.perf_counter()
            with torch.enable_grad():
                picture, values = method.invert(crop)
            drawn.append(picture.clamp(-1, 1).cpu())  # waits for a GPU
            seconds.append(time.perf_counter() - start)
        pairs = list(zip(crops.split(BATCH), torch.cat(drawn).to(crops.device).split(BATCH), strict=True))
        found = {name: torch.cat([distance(x, y) for x, y in pairs]) for name, distance in by.items()}
        taken = {name: numbers[~numbers.isnan()] for name, numbers in found.items()}
        metrics = {name: estimate(name, numbers) for name, numbers in taken.items() if len(numbers)}
        metrics["seconds"] = estimate("seconds", torch.tensor(seconds))
        rows.append({"method": method.name, "parameters": method.parameters, "values": values, "metrics": metrics})
    return rows


def evaluate_picture(method: Method, crop: Tensor, by: Mapping[str, PairDistance], *, warm: bool) -> dict[str, Any]:
    """``evaluate_inversion`` of one method on one picture [1, 3, R, R]: of each metric the number alone."""
    (row,) = evaluate_inversion([method], crop, by, warm=warm)
    return {**row, "metrics": {name: found["mean"] for name, found in row["metrics"].items()}}


def summary(measured: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    """The row of a method, in the form of ``evaluate_inversion``, from those of its pictures; with these metrics."""
    found = {name: [one["metrics"][name] for one in measured if name in one["metrics"]] for name in metrics}
    taken = {name: estimate(name, torch.tensor(numbers)) for name, numbers in found.items() if numbers}
    return {**{key: measured[0][key] for key in ("method", "parameters", "values")}, "metrics": taken}


def by_content(crops: Tensor) -> dict[str, Tensor]:
    """The pictures of [N, 3, R, R], each [1, 3, R, R], by digests of their pixels; equal ones are one."""
    return {sha256(crop.numpy().tobytes()).hexdigest()[:16]: crop for crop in crops.split(1)}


def evaluate_kept(
    method: Method,
    crops: Mapping[str, Tensor],
    by: Mapping[str, PairDistance],
    record: Record,
    on_picture: Callable[[int], None],
) -> dict[str, Any]:
    """The row of a method on pictures [1, 3, R, R] by name.

    Each picture is kept in ``record`` once it is measured; what is there is not measured again. ``on_picture`` is
    called with the number of those that are done.
    """
    warm = not method.quick
    for done, (name, crop) in enumerate(crops.items(), 1):
        if name not in record.rows(method.name):
            record.add(method.name, name, evaluate_picture(method, crop, by, warm=warm))
            warm = True
        on_picture(done)
    rows = record.rows(method.name)
    return summary([rows[name] for name in crops], [*by, "seconds"])


def setup(
    pipe: RefineStylePipeline, by: Mapping[str, PairDistance], net: AttributeNet | None = None
) -> dict[str, Any]:
    """What the figures of one ``Record`` have in common. ``net``: what reads attributes."""
    return {
        "model": pipe.fingerprint.digest,
        **way(pipe.encoder, pipe.inversion),
        "metrics": list(by),
        "attributes": None if net is None else digest(net.state_dict()),
        "device": str(pipe.device),
    }


def estimate(name: str, numbers: Tensor) -> dict[str, float]:
    """Mean, standard deviation, median, and what nine in ten reach, of a distance [N]; and N."""
    numbers = numbers.cpu().double()
    found = {
        "mean": numbers.mean(),
        "std": numbers.std(correction=0),
        "median": numbers.quantile(0.5),
        "worst_tenth": numbers.quantile(0.1 if name in RISING else 0.9),
    }
    return {**{name: round(float(value), 6) for name, value in found.items()}, "count": len(numbers)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows for people, in Markdown: the median over the pictures, and what nine in ten of them reach."""
    columns = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    return "\n".join([head(columns), *(line(row, columns) for row in rows), "", LEGEND])


def head(columns: Sequence[str]) -> str:
    """The first two lines of a table."""
    names = f"| method | {' | '.join(columns)} | parameters | numbers a picture |"
    return f"{names}\n| --- |" + " ---: |" * (len(columns) + 2)


def line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The line of a row."""
    found = [row["metrics"].get(name) for name in columns]
    cells = [f"{one['median']:.3g} ({one['worst_tenth']:.3g})" if one else "none" for one in found]
    trained = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "none"
    return f"| {row['method']} | {' | '.join(cells)} | {trained} | {row['values']:,} |"
