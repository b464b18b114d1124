"""The boundary to the accelerator: what runs there, and for how long.

On ZeroGPU each call runs in a forked process: arguments and results are pickled, so they are values (CPU tensors,
arrays, numbers), and of exceptions only ``gr.Error`` comes through with its text, so every other becomes one there.
Everywhere else the calls are plain ones that take turns: a long job gives way about once a second, so that nobody
waits until the whole job of another has ended.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import spaces
import torch
from PIL import Image

from refinestyle_hub.adapt import Adaptation, AdaptState, Preview, References
from refinestyle_hub.images import to_images, to_tensor
from refinestyle_hub.inversion.crops import codes_of
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.runtime.allocator import give_back_memory
from refinestyle_hub.runtime.bf16 import in_bf16
from refinestyle_hub.tokens.token_set import TokenSet

from . import limits, messages
from .images import Pixels
from .turns import Turns


# --- The values that cross the boundary ------------------------------------------------------------------------------


@dataclass(frozen=True)
class InversionStep:
    """The progress of an inversion, whose step 0 is where it starts: a face that one can edit meanwhile."""

    step: int
    steps: int
    metrics: Mapping[str, float]
    picture: Pixels  # what is drawn now
    start: Inversion | None = None  # of step 0


@dataclass(frozen=True, eq=False)
class InversionResult:
    """A finished or stopped inversion, and the picture that it draws."""

    inversion: Inversion
    reconstruction: Pixels


InversionUpdate: TypeAlias = "InversionStep | InversionResult"
Faces: TypeAlias = "Inversion | tuple[int, ...]"  # an inverted face, or the seeds of random ones
T = TypeVar("T")


@dataclass(frozen=True)
class RenderSpec:
    """How a face is drawn: strengths by direction and by domain."""

    edits: Mapping[str, float] = field(default_factory=dict)
    domains: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class AdaptRun:
    """An adaptation between two turns on the accelerator."""

    references: References
    steps: int
    tokens: int
    seed: int
    step_seconds: float  # measured, or an estimate before the first step
    face: Inversion | None = None  # the visitor's, to be shown
    state: AdaptState | None = None  # None before the first step

    @property
    def done(self) -> int:
        """The number of steps taken so far."""
        return int(self.state.numbers["step"]) if self.state else 0


@dataclass(frozen=True, eq=False)
class AdaptProgress:
    """An adaptation after one more turn, and what it draws now."""

    run: AdaptRun
    plain: list[Pixels]  # fixed samples without the domain, then the visitor's face
    adapted: list[Pixels]  # the same with it, in its present or in its best state


@dataclass(eq=False)
class Warm:
    """An adaptation as its last turn left it in this process: the next turn need not build it anew."""

    adaptation: Adaptation
    plain: list[Pixels]  # what it starts from: fixed samples, then the visitor's face
    state: AdaptState | None = None  # of the run that goes on with it


def inversion_seconds(crop: Pixels, steps: int, tokens: bool, seed: int, flag: str) -> int:
    """What to ask ZeroGPU for: the more seconds, the later the turn comes."""
    return min(round(10 + steps * (0.04 + 0.16 * crop[..., 0].size / 2**20)), 110)


def adaptation_seconds(run: AdaptRun, count: int, flag: str) -> int:
    """What to ask ZeroGPU for, with ``count`` more steps to take."""
    return min(round(15 + 0.5 * len(run.references) + 1.3 * count * run.step_seconds), 110)


RIGHTS = "The maker says that they may use these pictures."  # no adaptation starts without this


class Jobs:
    """The accelerator's work for one pipeline; ``gpu`` is ``spaces.GPU`` or a decorator like it."""

    def __init__(self, pipe: RefineStylePipeline, gpu: Callable[..., Any] = spaces.GPU) -> None:
        self.pipe = pipe
        self.turns = Turns()
        self.invert: Callable[..., Iterator[InversionUpdate]] = gpu(duration=inversion_seconds)(self._invert)
        self.draw: Callable[..., list[list[Pixels]]] = gpu(duration=10)(self._draw)
        self.adapt: Callable[..., AdaptProgress] = gpu(duration=adaptation_seconds)(self._adapt)
        self.keep: Callable[..., tuple[TokenSet, AdaptProgress]] = gpu(duration=15)(self._keep)
        self._warm: Warm | None = None
        self.on_cpu = pipe.device.type == "cpu"  # ZeroGPU tells it in this thread alone
        fixed, each = (0.3, 25 if pipe.discriminator else 1) if self.on_cpu else (0.05, 0.15)
        self.step_seconds = fixed + each * self.size**2 / 2**20  # of an adaptation; an estimate, and measured later

    @property
    def size(self) -> int:
        """Height and width of what is drawn, pixels."""
        return self.pipe.generator.config.resolution

    def _draw(
        self, faces: Faces, specs: Sequence[RenderSpec], sets: Mapping[str, TokenSet], side: int = 0
    ) -> list[list[Pixels]]:
        """Every face by every spec: for each spec a list of pictures.

        A domain is looked up in ``sets``, then among the pipeline's own. ``side`` makes the pictures smaller, for a
        first look: then also in bfloat16. Specs are drawn one after another: in a batch, each picture would carry the
        domains of all.
        """
        pipe, side = self.pipe, min(side or self.size, self.size)
        draw: Callable[..., Any] = pipe.render if isinstance(faces, Inversion) else pipe.generate
        given = [faces] if isinstance(faces, Inversion) else faces

        def drawn(spec: RenderSpec) -> list[Pixels]:
            domains = {sets.get(name, name): strength for name, strength in spec.domains.items()}
            return list(draw(given, edits=spec.edits, domains=domains, resolution=side, output_type="np"))

        def work() -> list[list[Pixels]]:
            with in_bf16(pipe.device, side < self.size):
                return [drawn(spec) for spec in specs]

        return self._turn("draw", work)

    def _turn(self, kind: str, work: Callable[[], T]) -> T:
        with messages.explained():
            return self.turns.do(kind, work)

    # --- Inversion ---

    def _invert(self, crop: Pixels, steps: int, tokens: bool, seed: int, flag: str) -> Iterator[InversionUpdate]:
        """Invert an aligned crop [S, S, 3]; yields the start, then every ``CHUNK_SECONDS``, at last the result.

        It ends early, with the best so far, once the file ``flag`` exists (a file, because nothing else reaches a
        forked worker) or when the time is up; and with nothing when the generator is closed.
        """
        updates: queue.SimpleQueue[InversionStep | Future[InversionResult]] = queue.SimpleQueue()
        closed = threading.Event()
        began = turn = shown = time.monotonic()
        drawn: deque[torch.Tensor] = deque(maxlen=1)  # the pictures of the last step

        def on_step(step: int, steps: int, metrics: Mapping[str, float]) -> bool:
            nonlocal turn, shown
            if step == 1 or time.monotonic() > shown + limits.CHUNK_SECONDS:
                shown = time.monotonic()
                updates.put(InversionStep(step, steps, metrics, np.asarray(to_images(drawn[0])[0])))
            if time.monotonic() > turn + limits.CHUNK_SECONDS:
                self.turns.give_way()
                turn = time.monotonic()
            check_wanted()
            return time.monotonic() > began + limits.JOB_SECONDS or os.path.exists(flag)

        def check_wanted() -> None:
            if closed.is_set():  # nobody waits for it any more
                raise CancelledError

        def work() -> InversionResult:
            nonlocal began, turn
            check_wanted()
            began = turn = time.monotonic()
            pixels = to_tensor(Image.fromarray(crop)).to(self.pipe.device)
            encoder = self.pipe.encoder
            codes = codes_of(encoder, pixels, self.pipe.generator) if encoder else None
            updates.put(self._started(codes, steps))
            how: dict[str, Any] = {"steps": steps, "tokens": tokens, "start": codes, "seed": seed}
            try:
                (found,) = self.pipe.invert_crops(pixels, **how, on_step=on_step, on_pictures=drawn.append)
            finally:
                give_back_memory()
            here = replace(found, w_plus=found.w_plus.cpu(), tokens=found.tokens and found.tokens.to("cpu"))
            return InversionResult(here, np.asarray(to_images(drawn[0])[0]))

        ended = self.turns.start("invert", work)
        ended.add_done_callback(updates.put)
        try:
            with messages.explained():
                while isinstance(update := updates.get(), InversionStep):
                    yield update
                yield update.result()
        finally:
            closed.set()

    def _started(self, codes: torch.Tensor | None, steps: int) -> InversionStep:
        """The face of codes [1, L, D] that an encoder found, or the mean face: drawn small, and not measured."""
        generator = self.pipe.generator
        w_plus = generator.mean_latent.expand(generator.num_ws, -1) if codes is None else codes[0]
        start = Inversion(w_plus.cpu(), base=self.pipe.fingerprint)
        drawn = self.pipe.render(start, resolution=min(self.size, limits.DRAG_SIDE), output_type="np")
        return InversionStep(0, steps, {}, drawn, start)

    # --- Adaptation: one call is one turn, and its value holds all that the next one needs ---

    def _adapt(self, run: AdaptRun, count: int, flag: str) -> AdaptProgress:
        """Take up to ``count`` more steps; none begins once the file ``flag`` exists."""

        def work() -> AdaptProgress:
            warm = self._resumed(run)
            adaptation, warm.state = warm.adaptation, None  # a turn that breaks off leaves nothing to go on with
            last = adaptation.done + count
            while adaptation.done < last and not adaptation.finished and not os.path.exists(flag):
                adaptation.step()
            seconds = adaptation.seconds / adaptation.done if adaptation.done else run.step_seconds
            warm.state = adaptation.state()
            tokens = adaptation.best.now.token_set(adaptation.base)
            shown = self._previewed(adaptation, "now", run.face, {tokens: 1.0})
            return AdaptProgress(replace(run, state=warm.state, step_seconds=seconds), warm.plain, shown)

        return self._turn("adapt", work)

    def _keep(self, run: AdaptRun, name: str) -> tuple[TokenSet, AdaptProgress]:
        """The domain of a run in its best state, and what that draws."""

        def work() -> tuple[TokenSet, AdaptProgress]:
            warm = self._resumed(run)
            self._warm = None  # it has ended: others need the memory
            domain = warm.adaptation.token_set({"name": name, "rights": RIGHTS}).to("cpu")
            shown = self._previewed(warm.adaptation, "best", run.face, {domain: 1.0})
            return domain, AdaptProgress(run, warm.plain, shown)

        return self._turn("adapt", work)

    def _resumed(self, run: AdaptRun) -> Warm:
        """The run as its last turn left it, where that was the last turn here; else it is built from its state."""
        if self._warm is None or run.state is None or self._warm.state is not run.state:
            how: dict[str, Any] = {"steps": run.steps, "tokens": run.tokens, "seed": run.seed}
            adaptation = self.pipe.adaptation(run.references, state=run.state, **how)
            self._warm = Warm(adaptation, self._previewed(adaptation, "plain", run.face, {}))
        return self._warm

    def _previewed(
        self, adaptation: Adaptation, which: Preview, face: Inversion | None, domains: Mapping[Any, float]
    ) -> list[Pixels]:
        """Fixed samples, then the visitor's face."""
        samples = [np.asarray(image) for image in to_images(adaptation.preview(limits.PREVIEWS, which))]
        how: dict[str, Any] = {"resolution": min(self.size, limits.DRAG_SIDE), "output_type": "np"}
        return [*samples, *([self.pipe.render(face, domains=domains, **how)] if face else [])]
