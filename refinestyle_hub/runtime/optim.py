"""What every optimisation shares: gradients of all processes, rates, an average of the weights, and Adam's state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


__all__ = [
    "adam_state",
    "ema_decay",
    "load_adam_state",
    "reduce_gradients",
    "set_learning_rate",
    "update_average",
    "warmup_cooldown",
    "warmup_cosine",
]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


# --- Gradients ------------------------------------------------------------------------------------------------------


def reduce_gradients(parameters: Iterable[Tensor], mean: Callable[[Tensor], Tensor]) -> None:
    """Replace each gradient by its mean over the processes, without values that are not finite.

    As in StyleGAN3's training loop (Karras et al. 2021): NaN becomes 0 and infinity 1e5, so that one bad sample does
    not end a run.

    Args:
        parameters: The same ones in every process. Those without a gradient are left out.
        mean: Returns the mean over the processes of a flat tensor.
    """
    moved = [p for p in parameters if p.grad is not None]
    flat = mean(torch.cat([p.grad.flatten() for p in moved if p.grad is not None]))
    torch.nan_to_num_(flat, nan=0.0, posinf=1e5, neginf=-1e5)
    for p, gradient in zip(moved, flat.split([p.numel() for p in moved]), strict=True):
        p.grad = gradient.view_as(p)


# --- Rates: functions of how much of a run is done, so that nothing about them has to be saved ----------------------


def warmup_cosine(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at ``progress`` from 0 to 1: a linear warm-up, then a cosine down to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def warmup_cooldown(progress: float, warmup: float) -> float:
    """Share of the peak rate at ``progress`` from 0 to 1: it rises over ``warmup``, and falls over the last third.

    It starts at a tenth, so that the first step moves something, and falls by a cosine.
    """
    rise = min(1.0, progress / max(warmup, 1e-9) + 0.1)
    return rise * (0.5 - 0.5 * math.cos(math.pi * min(1.0, 3 * (1 - progress))))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give each group of parameters ``share`` of the learning rate that the group was made with."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * share


# --- The average of the weights -------------------------------------------------------------------------------------


def ema_decay(batch: int, seen: int, halflife: float, ramp: float) -> float:
    """Decay of an average for a step of ``batch`` pictures; its half-life grows with the pictures seen.

    Source: ``ema_kimg`` and ``ema_rampup`` of StyleGAN2-ADA (Karras et al. 2020, arXiv 2006.06676).

    Args:
        halflife: Pictures after which a weight counts half, at most.
        ramp: The share of the pictures seen that the half-life is, at most.
    """
    return float(0.5 ** (batch / max(min(halflife, ramp * seen), 1e-8)))


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the parameters of ``average`` towards those of ``net``, and copy its buffers."""
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(net.parameters()), 0)
    for own, new in zip(average.buffers(), net.buffers(), strict=True):
        own.copy_(new)


# --- Adam's state as plain tensors by name --------------------------------------------------------------------------


def adam_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``<name>.step``, ``.exp_avg`` and ``.exp_avg_sq`` of every parameter that has moved; not copies."""
    return {
        f"{name}.{key}": value.detach()
        for name, p in parameters.items()
        for key, value in optimizer.state.get(p, {}).items()
    }


def load_adam_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Restore what ``adam_state`` gave; a parameter that has none begins without.

    Raises:
        KeyError: A parameter has only a part of its state.
    """
    optimizer.state.clear()
    for name, p in parameters.items():
        if any(f"{name}.{key}" in state for key in MOMENTS):
            own = {key: state[f"{name}.{key}"] for key in MOMENTS}
            optimizer.state[p] = {key: x.to("cpu" if key == "step" else p.device, copy=True) for key, x in own.items()}
