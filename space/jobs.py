"""The border to the accelerator: what runs there, for how long, and who may ask for it.

On ZeroGPU each call runs in a forked process: arguments and results are pickled, so they are values (CPU tensors,
arrays, numbers), and of exceptions only ``gr.Error`` comes through with its text. Everywhere else the calls are plain
ones, and a lock keeps two of them from overlapping.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr
import torch
from PIL import Image

from refinestyle_hub.inversion import Inversion
from refinestyle_hub.invert import OnStep
from refinestyle_hub.pipeline import RefineStylePipeline

from . import limits, messages
from .images import Pixels


try:
    import spaces

    gpu = spaces.GPU
except ImportError:
    if os.environ.get("SPACES_ZERO_GPU") == "true":
        raise

    def gpu(task: Any = None, **_: Any) -> Any:
        """Off Spaces: the function itself."""
        return task if callable(task) else lambda function: function


@dataclass(frozen=True)
class Step:
    """How far an inversion is."""

    step: int
    steps: int
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished or stopped inversion, and what it draws."""

    inversion: Inversion
    reconstruction: Pixels
    likeness: Pixels  # by w+ alone


Update: TypeAlias = "Step | Result"


def _inversion_seconds(crop: Pixels, steps: int, tokens: bool, seed: int, flag: str) -> int:
    """What to ask ZeroGPU for; the longer, the later it comes."""
    megapixels: float = crop[..., 0].size / 2**20
    return min(round(10 + steps * (0.04 + 0.16 * megapixels)), 110)


class Jobs:
    """The accelerator's work for one pipeline; ``gpu`` is ``spaces.GPU`` or a decorator like it."""

    def __init__(self, pipe: RefineStylePipeline, gpu: Callable[..., Any] = gpu) -> None:
        self.pipe = pipe
        self.lock = threading.Lock()
        self.invert: Callable[..., Iterator[Update]] = gpu(duration=_inversion_seconds)(self._invert)
        self.draw: Callable[..., list[Pixels]] = gpu(duration=10)(self._draw)

    @property
    def size(self) -> int:
        """Height and width of what is drawn, pixels."""
        return self.pipe.generator.config.resolution

    def _draw(self, inversion: Inversion, edits: Sequence[Mapping[str, float]]) -> list[Pixels]:
        """The face with each of the ``edits``, drawn together."""
        names = {name for edit in edits for name in edit}
        strengths = {name: torch.tensor([edit.get(name, 0.0) for edit in edits]) for name in names}
        with self.lock:
            return list(self.pipe.render([inversion] * len(edits), edits=strengths, output_type="np"))

    def _invert(self, crop: Pixels, steps: int, tokens: bool, seed: int, flag: str) -> Iterator[Update]:
        """Invert an aligned crop [S, S, 3]; yields every ``CHUNK_SECONDS``, at last the result.

        It ends early, with the best so far, once the file ``flag`` exists (a file, because nothing else reaches a
        forked worker), when the time is up, or when the generator is closed.
        """
        updates: queue.SimpleQueue[Update | BaseException] = queue.SimpleQueue()
        closed = threading.Event()
        deadline = time.monotonic() + limits.JOB_SECONDS

        def on_step(step: int, steps: int, figures: Mapping[str, float]) -> bool:
            updates.put(Step(step, steps, figures))
            return closed.is_set() or time.monotonic() > deadline or os.path.exists(flag)

        def work() -> None:
            try:
                with self.lock:
                    updates.put(self._inverted(crop, steps, tokens, seed, on_step))
            except BaseException as error:  # it is raised again where the result is awaited
                updates.put(error)

        threading.Thread(target=work, daemon=True).start()
        shown = time.monotonic()
        try:
            while True:
                update = updates.get()
                if isinstance(update, BaseException):
                    raise update
                if isinstance(update, Result) or time.monotonic() > shown + limits.CHUNK_SECONDS:
                    shown = time.monotonic()
                    yield update
                if isinstance(update, Result):
                    return
        finally:
            closed.set()

    def _inverted(self, crop: Pixels, steps: int, tokens: bool, seed: int, on_step: OnStep) -> Result:
        inversion = self.pipe.invert(
            Image.fromarray(crop), aligned=True, steps=steps, tokens=tokens, seed=seed, on_step=on_step
        )
        refined, likeness = self.pipe.render([inversion] * 2, refine=[1.0, 0.0], output_type="np")
        found = inversion.tokens and inversion.tokens.to("cpu")
        return Result(replace(inversion, w_plus=inversion.w_plus.cpu(), tokens=found), refined, likeness)


class Stops:
    """Who pressed Stop: for each session a file that its jobs look for."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="refinestyle-stops-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def flag(self, session: str | None) -> Path:
        """The session's file, whether it exists or not. The name is the client's own choice, so it is hashed."""
        return self.folder / hashlib.sha256(str(session).encode()).hexdigest()[:32]

    def stop(self, request: gr.Request) -> None:
        """Ask the session's jobs to end. Requests that nobody can be waiting for any more are swept."""
        for file in self.folder.iterdir():
            if file.stat().st_mtime < time.time() - 10 * limits.JOB_SECONDS:
                file.unlink(missing_ok=True)
        self.flag(request.session_hash).touch()

    def clear(self, request: gr.Request) -> None:
        """Forget what was asked before."""
        self.flag(request.session_hash).unlink(missing_ok=True)


def waiting(demo: gr.Blocks, session: str | None) -> int:
    """How many jobs of a session wait or run. Reads the queue itself: a count of our own would leak on a cancel."""
    line = demo._queue
    waits = sum(e.session_hash == session for q in line.event_queue_per_concurrency_id.values() for e in q.queue)
    runs = sum(event.session_hash == session for job in line.active_jobs if job for event in job)
    return waits + runs


def admit(demo: gr.Blocks, request: gr.Request, inputs: int) -> list[dict[str, Any]]:
    """A validator's answer for an event with so many inputs: refused when the session has enough jobs already."""
    free = waiting(demo, request.session_hash) < limits.JOBS_PER_SESSION
    return [gr.validate(free, messages.BUSY)] + [gr.validate(True, "") for _ in range(inputs - 1)]
