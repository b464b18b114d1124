"""What trainings have in common: steps until all pictures are seen, a log, and a state that can be continued."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from . import runlog
from .data import Batch


__all__ = ["STATE", "Progress", "Run"]

STATE = "state.safetensors"
LINE = 50  # steps between two lines of the log
Progress: TypeAlias = Callable[[int, int, dict[str, float]], None]  # pictures seen, pictures in all, figures


class Settings(Protocol):
    """What every training is told."""

    @property
    def out(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def save_every(self) -> int: ...


class Run(ABC):
    """A training that can be stopped after any step and continued as if it had not been."""

    def __init__(self, settings: Settings, accelerator: Any, total: int) -> None:
        self.settings, self.accelerator, self.total = settings, accelerator, total
        self.device, self.world = accelerator.device, accelerator.num_processes
        self.seen = 0  # pictures, over all processes
        self.means = runlog.Means()
        self.torn = False  # between the first thing that a step changes and its end: nothing that could be continued

    # -- what a training is -----------------------------------------------------------------------------------------

    @abstractmethod
    def pictures_from(self, seen: int) -> Iterator[Batch]:
        """The portraits of this process, on from where ``seen`` pictures had been seen."""

    @abstractmethod
    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """One step, which counts its pictures as seen; its figures."""

    @abstractmethod
    def look(self, facts: Mapping[str, Any]) -> None:
        """Sheets and figures to judge the run by, where they are due; ``facts`` of the step that was made."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Everything the run needs, with the state of ``means``."""

    @abstractmethod
    def finish(self) -> None:
        """Write what was trained."""

    def facts(self) -> dict[str, Any]:
        """What each line of the log says beside the figures, of the step that comes next."""
        return {}

    # -- what they share --------------------------------------------------------------------------------------------

    def place(self, net: Any) -> Any:
        """A network on the device, in the layout that convolutions like."""
        return net.to(self.device, memory_format=torch.channels_last)

    def every(self, steps: int) -> bool:
        """Whether so many steps, or a multiple, have been made; never with 0."""
        return steps > 0 and (self.seen // self.settings.batch) % steps == 0

    def due(self, interval: int) -> bool:
        """Whether an interval of pictures has passed, or the run is over."""
        return self.seen % interval < self.settings.batch or self.seen >= self.total

    def mean_over_processes(self, x: Tensor) -> Tensor:
        """The same in all of them."""
        if self.world == 1:
            return x
        mean: Tensor = self.accelerator.reduce(x, "mean")
        return mean

    def run(self, progress: Progress | None = None) -> None:
        """Train to the end; an exception of ``progress`` stops the run after its state has been saved.

        One that comes from elsewhere, such as Ctrl-C, does too, but for the moments in which the networks change: then
        the state saved before stays.
        """
        out, main = Path(self.settings.out), self.accelerator.is_main_process
        out.mkdir(parents=True, exist_ok=True)
        if main:
            runlog.rewind(out, self.seen)
        stream, saved = self.pictures_from(self.seen), self.seen
        try:
            while self.seen < self.total:
                start, facts = time.monotonic(), self.facts()
                own = self.step(stream)
                self.torn = False
                values = self.mean_over_processes(torch.tensor(list(own.values()), device=self.device))
                figures = dict(zip(own, values.tolist(), strict=True))
                self.means.add(figures, time.monotonic() - start)
                if self.every(LINE):
                    line = {**facts, "seen": self.seen, **self.means.take(self.settings.batch)}
                    if main:
                        runlog.append(out, line)
                if main:
                    self.look(facts)
                if main and self.due(self.settings.save_every):
                    self.save(out / STATE)
                    saved = self.seen
                if progress is not None:
                    progress(self.seen, self.total, figures)
        finally:
            if main and saved != self.seen and not self.torn:
                self.save(out / STATE)
        self.accelerator.wait_for_everyone()
        if main:
            self.finish()
