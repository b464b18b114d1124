"""A picture of a face -> its w+ codes and tokens, by optimisation against a frozen generator.

Phase 1, ``optimise_codes``, finds w+ from the mean latent: the projection of Karras et al. 2020 (appendix D), in W and
W+ at once, and in coordinates in which w has unit variance (Wulff and Torralba 2020). Phase 2, ``optimise_tokens``,
finds tokens that close the remaining gap (RefineStyle, arXiv 2410.06104, on one picture), and may move w+ along.
An encoder's answer can take the place of phase 1, or be where it starts: w+ then moves beneath the encoder's tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..boundary.numbers import check_seed
from ..config import Fingerprint
from ..encoder.encoder import standard_coordinates
from ..errors import ConfigError, ShapeError, counted
from ..generators.base import Generator
from ..images import to_uint8
from ..losses.code_spread import code_spread
from ..losses.identity_network import IdentityDistance
from ..losses.perceptual import Perceptual
from ..losses.pixel import mse, shrink
from ..runtime.bf16 import in_bf16
from ..runtime.defaults import standard_defaults
from ..runtime.optim import warmup_cooldown
from ..runtime.precision import plain
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .inversion import Inversion
from .inversion_loss import Distance, InversionLoss, LossValues, perceptual_distances
from .inversion_settings import InversionSettings


__all__ = ["OnStep", "invert", "optimise_codes", "optimise_tokens"]

OnStep: TypeAlias = Callable[[int, int, Mapping[str, float]], "bool | None"]
Draw: TypeAlias = Callable[[Tensor, "TokenSet | Sequence[TokenSet | None] | None"], Tensor]
T = TypeVar("T")
W_STEPS = 100


@standard_defaults()
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
    on_pictures: Callable[[Tensor], object] | None = None,
    settings: InversionSettings | None = None,
    base: Fingerprint | None = None,
) -> list[Inversion]:
    """Find w+ and tokens with which ``generator`` draws ``crops``; several pictures share the steps.

    The same seed gives the same result on the same machine. The global random state is neither read nor changed.

    Args:
        generator: The generator, which is left as it is.
        crops: Pictures [N, 3, R, R] in [-1, 1], R being the generator's resolution.
        w_steps: Steps of phase 1, under ``start_tokens`` where these are given. None means 100, or 0 where ``start``
            is given.
        token_steps: Steps of phase 2; 0 finds w+ alone.
        start: w+ [N, L, D] to start from, such as an encoder's answer. None means the mean latent.
        start_tokens: One token set for each picture to start from. None means no residual.
        seed: The seed of the noise and of the tokens' start.
        perceptual: The perceptual distance to use. None loads one.
        on_step: A function called with (step, steps, {"mse", "perceptual"}) at each step. If it returns True, the
            search ends with the best so far.
        on_pictures: A function called before that with what is drawn now, [N, 3, S, S]; the first is the start. At
            the end it is called once more, with what the answers draw, [N, 3, R, R].
        settings: Weights and rates.
        base: The generator's fingerprint. None takes it, which needs a moment.

    Returns:
        For each picture an ``Inversion`` whose ``report`` holds mse and perceptual distance, with tokens and with w+
        alone; the name of the perceptual distance; steps done, seconds, seed; and why it stopped.

    Raises:
        ShapeError: Crops or starts have another size or number.
        ConfigError: A number of steps is negative.
        MissingDependencyError, ModelFileError: The perceptual distance or the identity network cannot be loaded.
    """
    began, generator, seed = time.monotonic(), plain(generator), check_seed(seed)
    crops = crops.clone().float()  # one that was made in inference mode could not be descended on
    settings, base = settings or InversionSettings(), base or generator.fingerprint()
    w_steps = (W_STEPS if start is None else 0) if w_steps is None else w_steps
    _check(generator, crops, start, start_tokens, w_steps, token_steps)
    frozen = _frozen(generator)
    perceptual = perceptual or Perceptual.load().to(crops.device)
    size = min(generator.config.resolution, settings.size)
    pixels: Distance = partial(mse, shrink(crops, size))
    half = settings.precision == "bf16"

    def draw(w_plus: Tensor, tokens: TokenSet | Sequence[TokenSet | None] | None) -> Tensor:
        with in_bf16(crops.device, half):
            pictures: Tensor = frozen(w_plus, tokens, resolution=size)
        return pictures.float()

    fine, coarse = perceptual_distances(crops, perceptual, frozen.compiled, half)
    rngs = [torch.Generator().manual_seed(seed) for _ in crops]  # so that no picture's answer depends on the others

    def report(first: int, step: int, metrics: Mapping[str, float]) -> bool:
        return on_step is not None and bool(on_step(first + step, w_steps + token_steps, metrics))

    mean = frozen.mean_latent.expand(len(crops), generator.num_ws, -1)
    w_plus = mean if start is None else start.detach().clone().float()
    tokens: Sequence[TokenSet | None] = start_tokens or [None] * len(crops)
    w_done, token_done, stopped = 0, 0, "finished"
    if w_steps:
        rate = settings.w_rate if start is None else settings.near_rate
        identity = _identity(crops, settings.w_identity)
        loss = InversionLoss(pixels, [coarse], settings.w_perceptual, on_pictures, identity)
        found, w_done, stopped = optimise_codes(
            frozen, draw, w_plus, start_tokens, loss, w_steps, rate, settings, rngs, partial(report, 0)
        )
        w_plus = torch.stack(found)
    if token_steps and stopped != "cancelled":
        scales, identity = [fine, coarse][: settings.scales], _identity(crops, settings.identity)
        loss = InversionLoss(pixels, scales, settings.perceptual, on_pictures, identity)
        pairs, token_done, stopped = optimise_tokens(
            frozen, draw, w_plus, start_tokens, loss, token_steps, settings, rngs, partial(report, w_steps)
        )
        w_plus = torch.stack([codes for codes, _ in pairs])
        tokens = [replace(one, base=base) for _, one in pairs]

    with torch.no_grad():
        drawn = frozen(w_plus).clamp(-1, 1)
        columns = {"w_plus_mse": mse(crops, drawn), "w_plus_perceptual": fine(drawn)}
        if any(one is not None for one in tokens):
            drawn = frozen(w_plus, tokens).clamp(-1, 1)
            columns |= {"mse": mse(crops, drawn), "perceptual": fine(drawn)}
        else:
            columns |= {"mse": columns["w_plus_mse"], "perceptual": columns["w_plus_perceptual"]}
        if on_pictures is not None:
            on_pictures(drawn)
    shared: dict[str, Any] = {
        "perceptual_backbone": perceptual.name,
        "w_steps": w_done,
        "token_steps": token_done,
        "stopped": stopped,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 3),
    }
    levels = to_uint8(crops).permute(0, 2, 3, 1)
    inversions = []
    for n in range(len(crops)):
        metrics = {name: float(values[n]) for name, values in columns.items()}
        inversions.append(Inversion(w_plus[n].clone(), tokens[n], levels[n], base=base, report=metrics | shared))
    return inversions


def _identity(crops: Tensor, weight: float) -> Callable[[int, Tensor], Tensor] | None:
    """The weighted distance of a step's pictures from the crops in the features of a face, if it has a weight."""
    if not weight:
        return None
    distance = IdentityDistance.load(crops.device).reference(crops)
    return lambda step, pictures: weight * distance(step, pictures)


def _frozen(generator: Generator) -> Generator:
    """The generator itself, or with the same numbers one that is float32 and takes no gradients of its own."""
    config = generator.config.full_precision()  # in the fp16 blocks of a GPU the gradient of a mean of pixels vanishes
    ready = all(p.dtype == torch.float32 and not p.requires_grad for p in generator.parameters())
    if ready and config == generator.config:
        return generator
    frozen = type(generator).from_state(config, generator.state_dict()).float().requires_grad_(False)
    frozen.compiled = generator.compiled
    return frozen


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
    codes = (len(crops), config.num_ws, config.w_dim)
    if start is not None and start.shape != codes:
        raise ShapeError(f"start must be w+ {list(codes)}, not {list(start.shape)}.")
    if start_tokens is not None and len(start_tokens) != len(crops):
        raise ShapeError(f"start_tokens has {counted(len(start_tokens), 'set')} for {counted(len(crops), 'picture')}.")
    if w_steps < 0 or token_steps < 0:
        raise ConfigError(f"Steps must be 0 or more, not {w_steps} for w+ and {token_steps} for the tokens.")


class Optimised(NamedTuple, Generic[T]):
    """What a phase found."""

    answers: list[T]  # the best for each picture
    steps: int  # that were done
    stopped: str  # "finished", "plateau" or "cancelled"


def optimise_codes(
    generator: Generator,
    draw: Draw,
    start: Tensor,
    tokens: Sequence[TokenSet] | None,
    loss: InversionLoss,
    steps: int,
    rate: float,
    settings: InversionSettings,
    rngs: Sequence[torch.Generator],
    on_step: Callable[[int, Mapping[str, float]], bool],
) -> Optimised[Tensor]:
    """Find w+ = start + (common + each) basis: moves of all codes together and of each, in standard deviations of w.

    Args:
        start: w+ [N, L, D].
        tokens: One set for each picture, which stays as it is.
        rngs: One for each picture, for the noise.

    Returns:
        w+ [L, D] of each picture.
    """
    mean = generator.mean_latent
    basis, inverse = standard_coordinates(generator, torch.Generator().manual_seed(0))
    offset = (start - mean) @ inverse  # [N, L, D], of the start from the mean
    common = mean.new_zeros(len(start), 1, start.shape[2]).requires_grad_()
    each = mean.new_zeros(start.shape).requires_grad_()

    def evaluate(step: int) -> LossValues:
        move, progress = common + each, step / steps
        if progress < 0.5 and settings.w_noise:
            noise = [torch.randn(move.shape[1:], generator=rng) for rng in rngs]
            move = move + settings.w_noise * (1 - 2 * progress) ** 2 * torch.stack(noise).to(move)
        pictures = draw(start + move @ basis, tokens)
        standard = offset + common + each  # w+ in standard deviations from the mean
        prior = settings.prior * standard.square().mean(dim=(1, 2))
        return loss(step, pictures, prior + settings.spread * code_spread(standard) / standard.shape[2])

    def answers() -> list[Tensor]:
        return list((start + (common + each) @ basis).detach())

    noisy = math.ceil(steps / 2) if settings.w_noise else 0
    rates = [(rate, [common, each])]
    return _adam(rates, evaluate, answers, steps, settings.w_warmup, settings, on_step, noisy=noisy)


def optimise_tokens(
    generator: Generator,
    draw: Draw,
    w_plus: Tensor,
    start: Sequence[TokenSet] | None,
    loss: InversionLoss,
    steps: int,
    settings: InversionSettings,
    rngs: Sequence[torch.Generator],
    on_step: Callable[[int, Mapping[str, float]], bool],
) -> Optimised[tuple[Tensor, TokenSet]]:
    """Find post-modulation tokens of each picture, and the w+ [L, D] beneath them, which stays unless it has a rate.

    Args:
        w_plus: [N, L, D], where w+ begins.
        start: One set for each picture. None means new tokens by ``settings``, with P = 0.
        rngs: One for each picture, for new tokens.
    """
    stats = generator.kernel_stats()
    if start is not None:
        sets = [TokenParameters.from_token_set(stats, tokens) for tokens in start]
    else:
        new = partial(TokenParameters, stats, settings.rank, settings.layers, "post")
        sets = [new(rng=rng).to(w_plus.device) for rng in rngs]

    basis, move = None, torch.zeros_like(w_plus)
    if settings.code_rate:
        basis, _ = standard_coordinates(generator, torch.Generator().manual_seed(0))
        move.requires_grad_()

    def codes() -> Tensor:
        return w_plus if basis is None else w_plus + move @ basis

    def evaluate(step: int) -> LossValues:
        now = [parameters.token_set() for parameters in sets]
        pictures = draw(codes(), now[0] if len(now) == 1 else now)
        if not settings.norm:
            return loss(step, pictures, pictures.new_zeros(len(sets)))
        norms = torch.stack([parameters.residual_norm().square().mean() for parameters in sets])
        return loss(step, pictures, settings.norm * norms)

    def answers() -> list[tuple[Tensor, TokenSet]]:
        found = [parameters.token_set().detach() for parameters in sets]
        return list(zip(codes().detach(), found, strict=True))

    rates: list[tuple[float, Sequence[Tensor]]] = [
        (settings.token_rate, [leaf for parameters in sets for leaf in parameters.parameters()])
    ]
    if basis is not None:
        rates.append((settings.code_rate, [move]))
    return _adam(rates, evaluate, answers, steps, settings.token_warmup, settings, on_step)


def _adam(
    rates: Sequence[tuple[float, Sequence[Tensor]]],
    evaluate: Callable[[int], LossValues],
    answers: Callable[[], list[T]],
    steps: int,
    warmup: float,
    settings: InversionSettings,
    on_step: Callable[[int, Mapping[str, float]], bool],
    noisy: int = 0,
) -> Optimised[T]:
    """Adam with a rate for each list of leaves. It keeps the best answer for each picture, or in the first ``noisy``
    steps the last one."""
    adam = torch.optim.Adam([{"params": leaves} for _, leaves in rates], betas=(settings.momentum, 0.99))
    best, lowest = answers(), torch.tensor(math.inf)  # [N], the total of each of the best
    checkpoint, since = math.inf, 0
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):  # the last is only compared
            loss, total, metrics = evaluate(step)
        better = torch.ones_like(total, dtype=torch.bool) if step < max(noisy, 1) else total < lowest
        lowest = torch.where(better, total, lowest)
        if better.any():
            best = [new if yes else old for new, old, yes in zip(answers(), best, better.tolist(), strict=True)]
        if float(lowest.sum()) < 0.99 * checkpoint:
            checkpoint, since = float(lowest.sum()), step
        elif step >= noisy and step - since >= settings.patience:
            return Optimised(best, step, "plateau")
        if step == steps:
            break
        if on_step(step + 1, metrics):
            return Optimised(best, step + 1, "cancelled")
        for (rate, _), group in zip(rates, adam.param_groups, strict=True):
            group["lr"] = rate * warmup_cooldown(step / steps, warmup)
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
    return Optimised(best, steps, "finished")
