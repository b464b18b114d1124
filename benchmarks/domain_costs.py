"""What a step costs on this machine now, so that runs of other parameters can be given the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from refinestyle_hub.adapt import Adaptation, AdaptSettings


__all__ = ["step_seconds", "steps_in"]

PROBE = 4  # steps to count, or a round of their kinds; as many before to warm up: the first of a kind takes longer


def step_seconds(make: Callable[..., Adaptation], settings: AdaptSettings, steps: int) -> float:
    """Mean processor time of a step of runs ``make(steps=, settings=)`` that are ``steps`` long.

    Where a discriminator takes part for a share of such a run, steps without it and with it count by their shares.
    """
    start = settings.adversarial_start(steps)
    parts = 1 if start == 1 else 2
    counted = settings.round_steps * max(1, PROBE // settings.round_steps)
    length = parts * 2 * counted
    probe = replace(settings, discriminator_start=1 / parts, discriminator_min_steps=0, check_every=2 * length)
    run = make(steps=length + 1, settings=probe if parts == 2 else replace(settings, check_every=2 * length))
    run.step(0)  # looks for inversions, where they are wanted
    times = []
    for _ in range(parts):
        run.step(counted)
        began = time.process_time()
        run.step(counted)
        times.append((time.process_time() - began) / counted)
    return times[0] if parts == 1 else start * times[0] + (1 - start) * times[1]


def steps_in(ours: float, theirs: float, steps: int) -> int:
    """How many of their steps cost as much as ``steps`` of ours; 1 at least."""
    return max(1, round(steps * ours / theirs))
