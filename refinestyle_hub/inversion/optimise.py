"""A picture of a face -> its w+ codes and tokens, by optimisation against a frozen generator.

Phase 1 finds w+ from the mean latent: the projection of Karras et al. 2020 (appendix D), in W and W+ at once, and in
coordinates in which w has unit variance (Wulff and Torralba 2020). Phase 2 keeps w+ and finds tokens that close the
remaining gap (RefineStyle, arXiv 2410.06104, on one picture). An encoder's answer can take the place of phase 1, or
be where it starts: w+ then moves beneath the encoder's tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..encoder.encoder import standard_coordinates
from ..errors import ConfigError, ShapeError
from ..generators.stylegan2 import Generator
from ..losses.code_spread import code_spread
from ..losses.perceptual import Perceptual
from ..losses.pixel import mse, shrink
from ..storage.fingerprint import fingerprint
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .inversion import Inversion


__all__ = ["Inversion", "InversionSettings", "OnStep", "invert", "planned_steps"]

OnStep: TypeAlias = Callable[[int, int, Mapping[str, float]], "bool | None"]
Distance: TypeAlias = Callable[[Tensor], Tensor]  # pictures [N, 3, R, R] -> [N]
FINE, SMALLEST = 256, 32  # pixels: what the perceptual distance looks at, at most and at least
T = TypeVar("T")
W_STEPS = 100
STEPS, NEAR_STEPS = 270, 50  # of both phases, from the mean latent and from an encoder's answer
W_SHARE = 0.4  # of them, for w+


@dataclass(frozen=True)
class InversionSettings:
    """Weights and rates of the optimisation; the mean squared error of the pixels has weight 1.

    Published weights (0.8 for the perceptual distance, next to no prior) suit generators of photos. Where a picture
    lies outside of the generator's domain they buy distance with scratches that no face has, and codes far from each
    other that draw no face at all; these do not.
    """

    perceptual: float = 0.1  # on the perceptual distance, where tokens are sought
    w_perceptual: float = 0.3  # the same where w+ is
    w_rate: float = 0.2  # Adam's, in standard deviations of w, from the mean latent
    near_rate: float = 0.03  # the same from a start that was given: what an encoder found is not to be lost
    w_warmup: float = 0.05  # share of the steps in which it rises
    w_noise: float = 0.05  # on w at first, in standard deviations; gone after half of the steps
    prior: float = 0.2  # on the squared distance from the mean latent, in standard deviations, per number
    spread: float = 10.0  # the same for the codes' distance from each other
    token_rate: float = 0.01  # Adam's, in the unit of `TokenParameters`
    token_warmup: float = 0.3  # share of the steps in which it rises: Adam's first steps are blind, and break a face
    norm: float = 1e-2  # on the squared norm of the residuals relative to the kernels', mean over layers
    rank: int = 8  # T
    layers: str | tuple[str, ...] = "*.conv*"  # that get tokens
    patience: int = 40  # a phase ends when so many steps together gain less than 1 %


def planned_steps(
    steps: int | None, w_steps: int | None, *, tokens: bool = True, started: bool = False
) -> tuple[int, int]:
    """How many steps go to w+ and how many to tokens.

    Args:
        steps: both together; None: 270, or 50 where the search has ``started`` from an encoder's answer.
        w_steps: of them, those for w+; None: 40 %, or none where it has started, or all of them without ``tokens``.

    Raises ConfigError where they do not add up.
    """
    if not tokens and steps is None:
        steps = w_steps
    steps = (NEAR_STEPS if started else STEPS) if steps is None else steps
    if w_steps is None:
        w_steps = steps if not tokens else 0 if started else round(steps * W_SHARE)
    if not tokens and w_steps != steps:
        raise ConfigError(f"Without tokens all steps move w+: w_steps cannot be {w_steps} of {steps}.")
    if 0 <= steps < w_steps:
        raise ConfigError(f"w_steps are a part of the steps: {w_steps} of {steps} cannot be.")
    return w_steps, steps - w_steps


@torch.inference_mode(False)
@torch.enable_grad()
def invert(
    generator: Generator,
    crops: Tensor,
    *,
    w_steps: int | None = None,
    token_steps: int = 140,
    start: Tensor | None = None,
    start_tokens: Sequence[TokenSet] | None = None,
    seed: int = 0,
    perceptual: Perceptual | None = None,
    on_step: OnStep | None = None,
    settings: InversionSettings | None = None,
) -> list[Inversion]:
    """Find w+ and tokens with which ``generator`` draws ``crops``; several pictures share the steps.

    The same seed gives the same result on the same machine. The global random state is neither read nor changed.

    Args:
        generator: left as it is.
        crops: [N, 3, R, R] in [-1, 1], R being the generator's resolution.
        w_steps: of phase 1, under ``start_tokens`` where these are given; None: 100, or 0 where ``start`` is given.
        token_steps: of phase 2; 0: w+ alone.
        start: w+ [N, L, D] to start from, such as an encoder's answer; None: the mean latent.
        start_tokens: to start from, one set for each picture; None: no residual.
        seed: of the noise and of the tokens' start.
        perceptual: which distance to use; None loads one.
        on_step: called with (step, steps, {"mse", "perceptual"}) at each step; True stops, and the best so far is
            returned.
        settings: weights and rates.

    Returns:
        For each picture an ``Inversion`` whose ``report`` holds mse and perceptual distance, with tokens and with w+
        alone; the name of the perceptual distance; steps done, seconds, seed; and why it stopped.

    Raises:
        ShapeError: crops or starts of another size or number.
        ConfigError: a negative number of steps.
        MissingDependencyError, ModelFileError: the perceptual distance cannot be loaded.
    """
    began = time.monotonic()
    crops = crops.clone()  # one that was made in inference mode could not be descended on
    s = settings or InversionSettings()
    w_steps = (W_STEPS if start is None else 0) if w_steps is None else w_steps
    _check(generator, crops, start, start_tokens, w_steps, token_steps)
    # The same numbers, without gradients of their own; the caller's generator keeps its flags.
    frozen = Generator.from_state(generator.config, generator.state_dict()).float().requires_grad_(False)
    perceptual = perceptual or Perceptual.load().to(crops.device)
    pixels: Distance = partial(mse, crops)
    fine, coarse = _perceptual_distances(crops, perceptual)
    rngs = [torch.Generator().manual_seed(seed) for _ in crops]  # so that no picture's answer depends on the others
    watch = _Watch(on_step, w_steps + token_steps)

    mean = frozen.mapping.w_avg.expand(len(crops), generator.config.num_layers, -1)
    w_plus = mean if start is None else start.detach().clone().float()
    if w_steps:
        codes = _Codes(frozen, w_plus, start_tokens, s, rngs)
        pace = _Pace(s.w_rate if start is None else s.near_rate, s.w_warmup, s.w_perceptual, s.patience)
        w_plus = torch.stack(_descend(codes, pace, w_steps, pixels, [coarse], watch))
    w_done, watch.base = watch.done, w_steps
    tokens: Sequence[TokenSet | None] = start_tokens or [None] * len(crops)
    if token_steps and watch.stopped != "cancelled":
        watch.stopped = "finished"  # what the report gives is the reason of the last phase
        refinement = _Tokens(frozen, w_plus, start_tokens, s, rngs)
        pace = _Pace(s.token_rate, s.token_warmup, s.perceptual, s.patience)
        found = _descend(refinement, pace, token_steps, pixels, [fine, coarse], watch)
        tokens = found

    with torch.no_grad():
        plain = frozen(w_plus).clamp(-1, 1)
        full = frozen(w_plus, tokens).clamp(-1, 1)
        columns = {
            "mse": pixels(full),
            "perceptual": fine(full),
            "w_plus_mse": pixels(plain),
            "w_plus_perceptual": fine(plain),
        }
    shared: dict[str, Any] = {
        "perceptual_backbone": perceptual.name,
        "w_steps": w_done,
        "token_steps": watch.done - w_done,
        "stopped": watch.stopped,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 3),
    }
    base = fingerprint(generator)
    levels = crops.detach().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    inversions = []
    for n in range(len(crops)):
        figures = {name: float(values[n]) for name, values in columns.items()}
        inversions.append(Inversion(w_plus[n].clone(), tokens[n], levels[n], base=base, report=figures | shared))
    return inversions


def _check(
    generator: Generator,
    crops: Tensor,
    start: Tensor | None,
    start_tokens: Sequence[TokenSet] | None,
    w_steps: int,
    token_steps: int,
) -> None:
    config = generator.config
    side = config.resolution
    if crops.dim() != 4 or crops.shape[1:] != (3, side, side) or not len(crops):
        raise ShapeError(f"This generator inverts pictures [N, 3, {side}, {side}], not {list(crops.shape)}.")
    codes = (len(crops), config.num_layers, config.w_dim)
    if start is not None and start.shape != codes:
        raise ShapeError(f"start must be w+ {list(codes)}, not {list(start.shape)}.")
    if start_tokens is not None and len(start_tokens) != len(crops):
        raise ShapeError(f"start_tokens has {len(start_tokens)} sets for {len(crops)} pictures.")
    if w_steps < 0 or token_steps < 0:
        raise ConfigError(f"Steps must be 0 or more, not {w_steps} for w+ and {token_steps} for the tokens.")


def _perceptual_distances(crops: Tensor, perceptual: Perceptual) -> list[Distance]:
    """Distances from ``crops``, fine (as they are, up to 256 px) and coarse (at half that size).

    For w+ the coarse one will do, at a quarter of the cost. Tokens need both: each scale alone is satisfied by
    patterns that the other finds wrong.
    """

    def at(size: int) -> Distance:
        distance = perceptual.reference(shrink(crops, size))
        return lambda pictures: distance(shrink(pictures, size))

    side = min(crops.shape[-1], FINE)
    return [at(side), at(max(side // 2, SMALLEST))]


# --- The two phases: what is optimised, how it is drawn, what it costs ----------------------------------------------


class _Phase(Protocol[T]):
    @property
    def leaves(self) -> Sequence[Tensor]:
        """What is optimised."""

    def settled(self, progress: float) -> bool:
        """Whether ``draw`` shows what was found, without noise."""

    def draw(self, progress: float) -> Tensor:
        """Pictures [N, 3, R, R]."""

    def penalty(self) -> Tensor:
        """Regularisers [N]."""

    def found(self) -> list[T]:
        """The present answer for each of the N pictures."""


class _Codes:
    """w+ = start + (common + each) basis: moves of all codes together and of each, in standard deviations of w."""

    def __init__(
        self,
        generator: Generator,
        start: Tensor,
        tokens: Sequence[TokenSet] | None,
        settings: InversionSettings,
        rngs: Sequence[torch.Generator],
    ) -> None:
        self.generator, self.start, self.tokens, self.settings, self.rngs = generator, start, tokens, settings, rngs
        mean = generator.mapping.w_avg
        self.basis, inverse = standard_coordinates(generator, torch.Generator().manual_seed(0))
        self.offset = (start - mean) @ inverse  # [N, L, D], of the start from the mean
        self.common = mean.new_zeros(len(start), 1, start.shape[2]).requires_grad_()
        self.each = mean.new_zeros(start.shape).requires_grad_()
        self.leaves: list[Tensor] = [self.common, self.each]

    def settled(self, progress: float) -> bool:
        return progress >= 0.5 or self.settings.w_noise == 0

    def draw(self, progress: float) -> Tensor:
        move = self.common + self.each
        if not self.settled(progress):
            amount = self.settings.w_noise * (1 - 2 * progress) ** 2
            noise = [torch.randn(move.shape[1:], generator=rng) for rng in self.rngs]
            move = move + amount * torch.stack(noise).to(move)
        pictures: Tensor = self.generator(self.start + move @ self.basis, self.tokens)
        return pictures

    def penalty(self) -> Tensor:
        place = self.offset + self.common + self.each
        width = place.shape[2]
        far = place.square().mean(dim=(1, 2))
        penalty: Tensor = self.settings.prior * far + self.settings.spread * code_spread(place) / width
        return penalty

    def found(self) -> list[Tensor]:
        with torch.no_grad():
            return list(self.start + (self.common + self.each) @ self.basis)


class _Tokens:
    """Post-modulation tokens of each picture, on top of fixed w+."""

    def __init__(
        self,
        generator: Generator,
        w_plus: Tensor,
        start: Sequence[TokenSet] | None,
        settings: InversionSettings,
        rngs: Sequence[torch.Generator],
    ) -> None:
        self.generator, self.w_plus, self.settings = generator, w_plus, settings
        stats = generator.kernel_stats()
        if start is not None:
            self.sets = [TokenParameters.from_token_set(stats, tokens) for tokens in start]
        else:
            self.sets = [
                TokenParameters(stats, settings.rank, settings.layers, "post", rng=rng).to(w_plus.device)
                for rng in rngs
            ]
        self.leaves: list[Tensor] = [leaf for each in self.sets for leaf in each.parameters()]
        self.base = fingerprint(generator)

    def settled(self, progress: float) -> bool:
        return True

    def draw(self, progress: float) -> Tensor:
        sets = [each.token_set() for each in self.sets]
        pictures: Tensor = self.generator(self.w_plus, sets[0] if len(sets) == 1 else sets)
        return pictures

    def penalty(self) -> Tensor:
        norms = torch.stack([each.residual_norm().square().mean() for each in self.sets])
        return self.settings.norm * norms

    def found(self) -> list[TokenSet]:
        return [each.token_set(self.base).detach() for each in self.sets]


# --- The loop -------------------------------------------------------------------------------------------------------


class _Watch:
    """Tells the caller how far it is, and remembers why to stop."""

    def __init__(self, on_step: OnStep | None, total: int) -> None:
        self.on_step, self.total = on_step, total
        self.base = 0  # steps planned for the phases before
        self.done = 0  # steps done
        self.stopped = "finished"

    def step(self, step: int, squares: Tensor, distances: Tensor) -> bool:
        """Whether to go on."""
        self.done += 1
        figures = {"mse": float(squares.detach().mean()), "perceptual": float(distances.detach().mean())}
        if self.on_step is not None and self.on_step(self.base + step, self.total, figures):
            self.stopped = "cancelled"
        return self.stopped != "cancelled"


class _Pace(NamedTuple):
    """What ``_descend`` takes from the settings of a phase."""

    rate: float
    warmup: float
    perceptual: float
    patience: int


def _rate(progress: float, warmup: float) -> float:
    """Share of the peak rate: up over the warm-up, down by a cosine over the last third."""
    return min(1.0, progress / max(warmup, 1e-9) + 0.1) * (
        0.5 - 0.5 * math.cos(math.pi * min(1.0, 3 * (1 - progress)))
    )


def _descend(
    phase: _Phase[T], pace: _Pace, steps: int, pixels: Distance, perceptual: Sequence[Distance], watch: _Watch
) -> list[T]:
    """Adam on the leaves of a phase; the best answer for each picture.

    Each step descends one of the perceptual distances, in turn, for they are most of its cost; an answer is judged by
    the mean of what each gave last.
    """
    adam = torch.optim.Adam(phase.leaves, betas=(0.9, 0.99))
    best = phase.found()
    lowest: Tensor | None = None  # [N], total of each of the best
    latest: list[Tensor] = []  # [N] of each perceptual distance
    checkpoint, since = math.inf, 0
    for step in range(steps + 1):
        progress = step / steps
        pictures = phase.draw(progress)
        squares = pixels(pictures)
        near, rest = perceptual[step % len(perceptual)](pictures), squares + phase.penalty()  # [N]
        if not latest:
            with torch.no_grad():
                latest = [distance(pictures) for distance in perceptual]
        latest[step % len(perceptual)] = near.detach()
        distances = torch.stack(latest).mean(dim=0)
        total = rest.detach() + pace.perceptual * distances
        if lowest is None or not phase.settled(progress):
            better = torch.ones(len(total), dtype=torch.bool)
            lowest = total
        else:
            better = (total < lowest).cpu()
            lowest = torch.minimum(lowest, total)
        if better.any():
            best = [new if yes else old for new, old, yes in zip(phase.found(), best, better.tolist(), strict=True)]
        if float(lowest.sum()) < 0.99 * checkpoint:
            checkpoint, since = float(lowest.sum()), step
        elif phase.settled(progress) and step - since >= pace.patience:
            watch.stopped = "plateau"
            break
        if step == steps or not watch.step(step + 1, squares, distances):
            break
        for group in adam.param_groups:
            group["lr"] = pace.rate * _rate(progress, pace.warmup)
        adam.zero_grad()
        (rest + pace.perceptual * near).sum().backward()
        adam.step()
    return best
