"""What a step costs before the discriminator takes part and with it, so that runs can be given the same wall clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from refinestyle_hub.adapt import Adaptation, AdaptSettings


__all__ = ["Costs", "step_costs"]

PROBE = 5  # steps of either kind whose median counts, after one to warm up


@dataclass(frozen=True)
class Costs:
    """Seconds of a step."""

    early: float
    late: float
    settings: AdaptSettings

    def seconds(self, steps: int) -> float:
        """Of a run."""
        starts = self.settings.adversarial_start(steps)
        return steps * (starts * self.early + (1 - starts) * self.late)

    def steps_in(self, seconds: float) -> int:
        """Most steps of a run that ends in time; 1 at least."""
        fitting = 1
        while self.seconds(fitting + 1) <= seconds:
            fitting += 1
        return fitting


def step_costs(make: Callable[..., Adaptation], settings: AdaptSettings) -> Costs:
    """Of runs ``make(steps=, settings=)``, on this machine now."""
    each = PROBE + 1
    probe = replace(settings, discriminator_start=0.5, discriminator_min_steps=0, check_every=2 * each + 1)
    run = make(steps=2 * each, settings=probe)
    run.step(0)  # looks for inversions, where they are wanted
    times = []
    for _ in range(2 * each):
        began = time.monotonic()
        run.step()
        times.append(time.monotonic() - began)
    times[-1] = times[-2]  # the last step of a run also looks at fixed samples
    return Costs(statistics.median(times[1:each]), statistics.median(times[each + 1 :]), settings)
