"""What trainings share: steps until all pictures are seen, a log, and a state that a run continues from."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ..boundary.paths import user_path
from ..errors import ConfigError
from ..runtime import processes
from ..runtime.optim import reduce_gradients
from . import checkpoint, runlog
from .dataset import Batch, Pictures, batches


__all__ = ["STATE", "Progress", "Run"]

M = TypeVar("M", bound=nn.Module)
STATE = "state.safetensors"
LOG_EVERY = 50  # steps between two lines of the log
Progress: TypeAlias = Callable[[int, int, dict[str, float]], None]  # pictures seen, pictures in all, metrics


class Settings(Protocol):
    """The settings that every training has."""

    @property
    def out(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def save_every(self) -> int: ...


class Run(ABC):
    """A training that can be stopped after any step, and continued as if it had not been stopped."""

    optimizers: Mapping[str, torch.optim.Optimizer]  # by the names of the networks that they move

    def __init__(self, settings: Settings, accelerator: Any, total: int, parts: int = 1) -> None:
        """Prepare a run of ``total`` pictures over all processes; each process takes a batch in ``parts``.

        Raises:
            ConfigError: The batch cannot be divided so.
        """
        self.settings, self.total, self.out = settings, total, user_path(settings.out)
        self.accelerator = processes.accelerator() if accelerator is None else accelerator
        if settings.batch % (parts * self.accelerator.num_processes):
            count = str(self.accelerator.num_processes) + (f" x {parts}" if parts > 1 else "")
            raise ConfigError(f"batch {settings.batch} must be divisible by the number of processes, {count}.")
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        self.seen = 0  # pictures, over all processes
        self.means = runlog.Means()
        self.mid_step = False  # from the first thing that a step changes to its end: not a state to continue from

    # -- what a training defines ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks whose state is saved, by name."""

    @abstractmethod
    def pictures_from(self, seen: int) -> Iterator[Batch]:
        """The pictures of this process, from where ``seen`` pictures had been seen."""

    @abstractmethod
    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """Make one step, add its pictures to ``seen``, and return its metrics."""

    @abstractmethod
    def validate(self, facts: Mapping[str, Any]) -> None:
        """Metrics and image grids, where they are due; ``facts`` are those of the step that was made."""

    @abstractmethod
    def finish(self) -> None:
        """Write what was trained."""

    def facts(self) -> dict[str, Any]:
        """What each line of the log says of the step that comes next, apart from its metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        """What JSON holds of the state, beyond what all runs save."""
        return {}

    def restore(self, path: Path, state: Mapping[str, Any]) -> set[str]:
        """Take what ``state`` gave, and return the names of networks that the run at ``path`` need not have.

        Raises:
            ConfigError: It is another run.
        """
        return set()

    # -- what they share --------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write everything that the run needs to continue."""
        common = {"seen": self.seen, "config": asdict(self.settings), "means": self.means.state()}  # type: ignore[call-overload]
        checkpoint.write(path, self.networks, self.optimizers, common | self.state())

    def load(self, path: Path) -> None:
        """Continue the run saved at ``path``.

        Raises:
            ConfigError: It is another run.
            ModelFileError: It is damaged, or its networks have other sizes.
        """
        tensors, state = checkpoint.read(path)
        new = self.restore(path, state)
        checkpoint.load_networks(tensors, {name: net for name, net in self.networks.items() if name not in new})
        checkpoint.load_optimizers(tensors, self.networks, self.optimizers)
        self.seen = state["seen"]
        self.means.load(state["means"])

    def resume(self) -> bool:
        """Continue the run in the output folder, if there is one."""
        state = self.out / STATE
        if found := state.exists():
            self.load(state)
        return found

    def batches_of(self, pictures: Pictures, size: int, seen: int, flip: bool = True) -> Iterator[Batch]:
        """This process's batches of ``size``, from where all processes had seen ``seen`` of the pictures."""
        how = {"seed": self.settings.seed, "rank": self.accelerator.process_index, "world": self.world}
        return batches(pictures, size, position=seen, flip=flip, **how)

    def to_device(self, net: M) -> M:
        """A network on the device, in the memory layout that is fastest for convolutions."""
        return net.to(self.device).to(memory_format=torch.channels_last)

    def every(self, steps: int) -> bool:
        """Whether the number of steps made is a multiple of ``steps``; never with 0."""
        return steps > 0 and (self.seen // self.settings.batch) % steps == 0

    def due(self, interval: int) -> bool:
        """Whether an interval of pictures has passed, or the run is over."""
        return self.seen % interval < self.settings.batch or self.seen >= self.total

    def mean_over_processes(self, x: Tensor) -> Tensor:
        """The mean of a tensor over the processes, the same in all of them."""
        if self.world == 1:
            return x
        mean: Tensor = self.accelerator.reduce(x, "mean")
        return mean

    def apply_gradients(self, optimizer: torch.optim.Optimizer, clip: float | None = None) -> None:
        """Average the gradients of all processes, clip their norm, and make a step of the optimiser."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        reduce_gradients(parameters, self.mean_over_processes)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        self.mid_step = True
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def run(self, progress: Progress | None = None) -> None:
        """Train to the end.

        An exception of ``progress`` stops the run after its state has been saved. So does one from elsewhere, such as
        Ctrl-C, except while the networks change: then the state that was saved before stays.
        """
        out, main = self.out, self.accelerator.is_main_process
        out.mkdir(parents=True, exist_ok=True)
        if main:
            runlog.rewind(out, self.seen)
        stream, saved = self.pictures_from(self.seen), self.seen
        try:
            while self.seen < self.total:
                start, facts = time.monotonic(), self.facts()
                own = self.step(stream)
                self.mid_step = False
                values = self.mean_over_processes(torch.tensor(list(own.values()), device=self.device))
                metrics = dict(zip(own, values.tolist(), strict=True))
                self.means.add(metrics, time.monotonic() - start)
                if self.every(LOG_EVERY):
                    line = {**facts, "seen": self.seen, **self.means.take(self.settings.batch)}
                    if main:
                        runlog.append(out, line)
                if main:
                    self.validate(facts)
                if main and self.due(self.settings.save_every):
                    self.save(out / STATE)
                    saved = self.seen
                if progress is not None:
                    progress(self.seen, self.total, metrics)
        finally:
            if main and saved != self.seen and not self.mid_step:
                self.save(out / STATE)
        self.accelerator.wait_for_everyone()
        if main:
            self.finish()
