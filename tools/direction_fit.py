"""Fit and measure the editing directions that a model ships with.

Labels of generated samples come from a network that reads attributes off pictures, so no labelled photos are needed.
The linear directions (`editing.find_from_labels`) are then corrected by what they do in pictures, and state it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from refinestyle_hub.editing.directions import Direction, Directions
from refinestyle_hub.editing.discover import find_from_labels
from refinestyle_hub.encoder.encoder import standard_coordinates
from refinestyle_hub.errors import DirectionError
from refinestyle_hub.generators.base import Generator


__all__ = ["SHIPPED", "Samples", "fit_directions", "measure", "sample"]

ReadAttributes: TypeAlias = Callable[[Tensor], Mapping[str, Tensor]]  # pictures [N, 3, H, W] -> name -> [N]
OnStep: TypeAlias = Callable[[int, int], None]  # pictures labelled, pictures to label

# Direction -> attribute, as `AttributeNet.read` names it.
SHIPPED = {
    "smile": "smile",
    "mouth_open": "mouth_open",
    "brow": "brow",
    "age": "age",
    "gender": "gender",
    "yaw": "yaw",
    "pitch": "pitch",
    "glasses": "glasses",
    "beard": "beard",
    "hair_length": "hair_length",
    "hair_lightness": "hair_lightness",
    "skin_tone": "skin_tone",
    "light": "light_azimuth",
}
# Direction -> the group that it is shown with, and what its two ends say.
SHOWN = {
    "smile": ("Expression", "sad", "happy"),
    "mouth_open": ("Expression", "closed", "open"),
    "brow": ("Expression", "lowered", "raised"),
    "age": ("Person", "younger", "older"),
    "gender": ("Person", "masculine", "feminine"),
    "skin_tone": ("Person", "lighter", "darker"),
    "beard": ("Person", "shaved", "full"),
    "glasses": ("Person", "without", "with"),
    "hair_length": ("Hair", "shorter", "longer"),
    "hair_lightness": ("Hair", "darker", "lighter"),
    "yaw": ("Pose and light", "to the left", "to the right"),
    "pitch": ("Pose and light", "down", "up"),
    "light": ("Pose and light", "from the left", "from the right"),
}
BACKGROUND = ("background_red", "background_green", "background_blue")
GROUPS = 3  # layers that share a code in a sample: coarse, middle, fine
BATCH = 16
CORRECTIONS = 2
WEAKEST = 0.25  # a direction that hardly moves its attribute is made at most four times longer in one correction
LONGEST = 2.0  # standard deviations of w for one unit, which is a smaller one where an attribute hardly varies
LEAST = 0.1  # standard deviations that a unit must move its attribute by


@dataclass(frozen=True)
class Samples:
    """Codes drawn at random and what their pictures show."""

    w_plus: Tensor  # [N, L, D], on the CPU whatever draws them, as are the labels
    labels: Mapping[str, Tensor]  # attribute -> [N]


@torch.no_grad()
def sample(generator: Generator, read: ReadAttributes, n: int, *, seed: int = 0, truncation: float = 1.0) -> Samples:
    """Draw and label ``n`` samples whose coarse, middle and fine layers have codes of their own.

    Independent codes (the style mixing of the generator's training) are what tells a linear model which layers an
    attribute lives in.
    """
    rng = torch.Generator().manual_seed(seed)
    device = _device(generator)
    layers = generator.num_ws
    group = torch.arange(layers) * GROUPS // layers  # [L]
    z = torch.randn(n * GROUPS, generator.config.z_dim, generator=rng).to(device)
    codes = generator.map(z, truncation)[:, 0].reshape(n, GROUPS, -1)
    w_plus = codes.cpu()[:, group]  # [N, L, D]
    labels: dict[str, list[Tensor]] = {}
    for batch in w_plus.split(BATCH):
        for name, values in read(generator(batch.to(device)).clamp(-1, 1)).items():
            labels.setdefault(name, []).append(values.float().cpu())
    return Samples(w_plus, {name: torch.cat(parts) for name, parts in labels.items()})


@torch.no_grad()
def measure(generator: Generator, read: ReadAttributes, direction: Direction, w_plus: Tensor) -> dict[str, float]:
    """Mean change of every attribute for one unit: half the difference between strength 1 and -1, over ``w_plus``."""
    offset = direction.offset(w_plus.shape[1]).to(_device(generator))
    change: dict[str, float] = {}
    for batch in w_plus.to(_device(generator)).split(BATCH):
        more, less = (read(generator(batch + sign * offset).clamp(-1, 1)) for sign in (1, -1))
        for name in more:
            change[name] = change.get(name, 0.0) + float((more[name] - less[name]).sum()) / 2 / len(w_plus)
    return change


def fit_directions(
    generator: Generator,
    read: ReadAttributes,
    n: int = 8000,
    *,
    attributes: Mapping[str, str] = SHIPPED,
    held: Sequence[str] = BACKGROUND,
    measured: int = 128,
    seed: int = 0,
    licence: str = "",
    on_step: OnStep | None = None,
) -> Directions:
    """Directions in w+ that each move one attribute by one standard deviation and leave the others of the set alone.

    A linear fit gives a first set. Where pictures do not follow it, the matrix of measured effects is inverted: the
    corrected directions are combinations of the first ones whose measured effects on each other are nearly nought.
    A direction longer than 2 standard deviations of w is cut to that: its unit is smaller, as its effect states.

    Args:
        generator: The generator, which only draws.
        read: Reads attributes of pictures, such as ``AttributeNet.read``; the colour of the upper corners is read as
            well.
        n: The number of samples for the fit.
        attributes: The attribute that each direction moves, by direction.
        held: Attributes without a direction of their own that all directions leave alone.
        measured: The number of other samples, on which effects are measured.
        licence: The licence that is kept with every direction.
        on_step: A function called after each batch with (pictures drawn, pictures to draw).

    Returns:
        Directions (a warning names those that were not found) whose ``info`` states the measured effect on every
        attribute for strength 1, in the attribute's units, and the leak: by how many standard deviations another
        attribute moves, beyond its correlation with the direction's own attribute over the samples.

    Raises:
        DirectionError: ``read`` does not give an attribute, or it never changes.
    """
    moved = {**attributes, **{name: name for name in held}}
    total = n + measured + 2 * measured * (CORRECTIONS * len(moved) + len(attributes))
    read = _counting(_with_background(read), total, on_step)
    samples = sample(generator, read, n, seed=seed)
    if missing := sorted(set(moved.values()) - set(samples.labels)):
        raise DirectionError(f"These attributes are not read off pictures: {', '.join(missing)}.")
    deviations = {name: float(values.std()) for name, values in samples.labels.items()}
    constant = {name for name, deviation in deviations.items() if deviation < 1e-9}  # nothing to hold, nor to leak to
    moved = {name: a for name, a in moved.items() if name in attributes or a not in constant}
    found = find_from_labels(samples.w_plus, {name: samples.labels[a] for name, a in moved.items()})
    _, standardise = standard_coordinates(generator, torch.Generator().manual_seed(seed))
    standardise = standardise.cpu()
    directions = [_shortened(d, standardise) for d in found.values()]

    probe = sample(generator, read, measured, seed=seed + 1).w_plus
    for _ in range(CORRECTIONS):
        effects = [measure(generator, read, d, probe) for d in directions]
        matrix = torch.tensor([[e[a] / deviations[a] for a in moved.values()] for e in effects])  # [K, K]
        matrix.diagonal().clamp_(min=WEAKEST)
        vectors = torch.stack([d.vector for d in directions]).flatten(1)  # [K, L D]
        vectors = torch.linalg.solve(matrix, vectors).reshape(-1, *probe.shape[1:])
        directions = [_shortened(replace(d, vector=v), standardise) for d, v in zip(directions, vectors, strict=True)]

    result = {}
    for (name, attribute), direction in zip(attributes.items(), directions[: len(attributes)], strict=True):
        effect = measure(generator, read, direction, probe)
        part = effect[attribute] / deviations[attribute]
        if part < LEAST:
            warnings.warn(f"The generator hardly varies {attribute}: no direction for {name}.", stacklevel=2)
            continue
        group, negative, positive = SHOWN.get(name, ("", "", ""))
        info = replace(
            direction.info,
            group=group,
            negative=negative,
            positive=positive,
            unit=f"{part:.2g} standard deviations of {attribute} over samples ({effect[attribute]:.3g})",
            effect={a: _rounded(e) for a, e in effect.items()},
            leak=_leak(attribute, {a: e for a, e in effect.items() if a not in constant}, samples.labels),
            source=f"linear fit to {n} samples, corrected and measured on {measured} others",
            licence=licence,
        )
        result[name] = replace(direction, info=info)
    return Directions(result, base=generator.fingerprint())


def _device(generator: Generator) -> torch.device:
    return generator.device


def _with_background(read: ReadAttributes) -> ReadAttributes:
    """``read``, and the mean colour of the upper corners, 0..1: what no attribute should change."""

    def extended(pictures: Tensor) -> Mapping[str, Tensor]:
        height, width = pictures.shape[2] // 8, pictures.shape[3] // 8
        corners = torch.cat([pictures[..., :height, :width], pictures[..., :height, -width:]], dim=3)
        colour = corners.mean(dim=(2, 3)) / 2 + 0.5  # [N, 3]
        return {**read(pictures), **dict(zip(BACKGROUND, colour.unbind(dim=1), strict=True))}

    return extended


def _shortened(direction: Direction, standardise: Tensor) -> Direction:
    """Cut to ``LONGEST`` standard deviations of w, in which each group of layers is a dimension set of its own."""
    length = float((direction.vector @ standardise).square().sum(dim=1).mean().mul(GROUPS).sqrt())
    return replace(direction, vector=direction.vector * min(1.0, LONGEST / max(length, 1e-6)))


def _leak(attribute: str, effect: Mapping[str, float], labels: Mapping[str, Tensor]) -> dict[str, float]:
    """Change of the other attributes in standard deviations, less what their correlation with this one explains."""
    own = labels[attribute]
    moved = abs(effect[attribute]) / float(own.std())
    leak = {}
    for name in effect.keys() - {attribute}:
        correlation = abs(float(torch.corrcoef(torch.stack([own, labels[name]]))[0, 1]))
        leak[name] = _rounded(max(abs(effect[name]) / float(labels[name].std()) - correlation * moved, 0.0))
    return leak


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _counting(read: ReadAttributes, total: int, on_step: OnStep | None) -> ReadAttributes:
    """``read``, which tells ``on_step`` how many pictures it has seen."""
    if on_step is None:
        return read
    seen = 0

    def counted(pictures: Tensor) -> Mapping[str, Tensor]:
        nonlocal seen
        seen += len(pictures)
        on_step(seen, total)
        return read(pictures)

    return counted
