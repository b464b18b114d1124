"""The border to the accelerator: what runs there, for how long, and who may ask for it.

On ZeroGPU each call runs in a forked process: arguments and results are pickled, so they are values (CPU tensors,
arrays, numbers), and of exceptions only ``gr.Error`` comes through with its text, so every other becomes one there.
Everywhere else the calls are plain ones, and take turns: what lasts longer gives way about once a second, so that
nobody waits for a whole job of another.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import queue
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import gradio as gr
import numpy as np
import torch
from gradio.utils import get_upload_folder
from PIL import Image

from refinestyle_hub.adapt import Adaptation, AdaptState, Preview, References
from refinestyle_hub.images import to_images
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.inversion.optimise import OnStep
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet

from . import limits, messages
from .images import Pixels
from .session import Subject
from .threads import Threads
from .turns import Turns


try:
    import spaces

    gpu = spaces.GPU
except ImportError:
    if os.environ.get("SPACES_ZERO_GPU") == "true":
        raise

    def gpu(task: Any = None, **_: Any) -> Any:
        """Off Spaces: the function itself."""
        return task if callable(task) else lambda function: function


# --- What goes over the border --------------------------------------------------------------------------------------


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
T = TypeVar("T")
Who: TypeAlias = "Inversion | tuple[int, ...]"  # a face, or the seeds of several


@dataclass(frozen=True)
class Look:
    """How somebody is drawn: strengths by direction and by domain."""

    edits: Mapping[str, float] = field(default_factory=dict)
    domains: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """An adaptation between two chunks."""

    references: References
    steps: int
    tokens: int
    seed: int
    pace: float  # seconds for a step, as far as is known
    state: AdaptState | None = None  # None: nothing is done yet

    @property
    def done(self) -> int:
        """Steps so far."""
        return int(self.state.numbers["step"]) if self.state else 0


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some steps of an adaptation, and how it looks now."""

    run: Run
    plain: list[Pixels]  # fixed samples without the domain
    adapted: list[Pixels]  # the same with it, as it stands, or as it is kept
    face: Pixels | None  # the visitor's face with it


def _inversion_seconds(crop: Pixels, steps: int, tokens: bool, seed: int, flag: str) -> int:
    """What to ask ZeroGPU for; the longer, the later it comes."""
    megapixels: float = crop[..., 0].size / 2**20
    return min(round(10 + steps * (0.04 + 0.16 * megapixels)), 110)


def _adaptation_seconds(run: Run, count: int, face: Inversion | None, flag: str) -> int:
    return min(round(15 + 0.5 * len(run.references) + 1.3 * count * run.pace), 110)


class Jobs:
    """The accelerator's work for one pipeline; ``gpu`` is ``spaces.GPU`` or a decorator like it."""

    def __init__(self, pipe: RefineStylePipeline, gpu: Callable[..., Any] = gpu) -> None:
        self.pipe = pipe
        self.turns = Turns()
        self.threads = Threads()
        self.invert: Callable[..., Iterator[Update]] = gpu(duration=_inversion_seconds)(self._invert)
        self.draw: Callable[..., list[list[Pixels]]] = gpu(duration=10)(self._draw)
        self.adapt: Callable[..., Chunk] = gpu(duration=_adaptation_seconds)(self._adapt)
        self.keep: Callable[..., tuple[TokenSet, Chunk]] = gpu(duration=15)(self._keep)
        megapixels = self.size**2 / 2**20
        fast = self.pipe.device.type != "cpu"
        self.pace = 0.05 + 0.15 * megapixels if fast else 0.3 + 25 * megapixels  # seconds of a step; measured later

    @property
    def size(self) -> int:
        """Height and width of what is drawn, pixels."""
        return self.pipe.generator.config.resolution

    def _draw(self, who: Who, looks: Sequence[Look], sets: Mapping[str, TokenSet]) -> list[list[Pixels]]:
        """Everybody in every look, drawn together: for each look a list of pictures.

        A domain is looked for among ``sets``, then among the pipeline's own.
        """
        count = 1 if isinstance(who, Inversion) else len(who)
        edits, domains = (
            {
                name: torch.tensor([part.get(name, 0.0) for part in parts]).repeat_interleave(count)
                for name in dict.fromkeys(name for part in parts for name in part)
            }
            for parts in ([look.edits for look in looks], [look.domains for look in looks])
        )
        styles: dict[str | TokenSet, Any] = {sets.get(name, name): strength for name, strength in domains.items()}

        def work() -> Any:
            if isinstance(who, Inversion):
                return self.pipe.render([who] * len(looks), edits=edits, domains=styles, output_type="np")
            return self.pipe.generate(who * len(looks), edits=edits, domains=styles, output_type="np")

        drawn = self._turn("draw", work)
        return [list(drawn[first : first + count]) for first in range(0, len(drawn), count)]

    def _turn(self, kind: str, work: Callable[[], T]) -> T:
        """Do it on the thread of its kind, when the kind has its turn."""

        def turn() -> T:
            with self.turns.of(kind):
                return work()

        with messages.explained():
            return self.threads.do(kind, turn)

    def subject(self, inversion: Inversion) -> Subject:
        """A face that came as a file: drawn, and shown for the photo as well where the file holds none."""
        ((drawn,),) = self.draw(inversion, [Look()], {})
        return Subject.of(inversion, drawn if inversion.crop is None else inversion.crop.numpy(), drawn)

    # --- Inversion ---

    def _invert(self, crop: Pixels, steps: int, tokens: bool, seed: int, flag: str) -> Iterator[Update]:
        """Invert an aligned crop [S, S, 3]; yields every ``CHUNK_SECONDS``, at last the result.

        It ends early, with the best so far, once the file ``flag`` exists (a file, because nothing else reaches a
        forked worker), when the time is up, or when the generator is closed.
        """
        updates: queue.SimpleQueue[Update | BaseException] = queue.SimpleQueue()
        closed = threading.Event()
        began = turn = time.monotonic()

        def on_step(step: int, steps: int, figures: Mapping[str, float]) -> bool:
            nonlocal turn
            updates.put(Step(step, steps, figures))
            if time.monotonic() > turn + limits.CHUNK_SECONDS:
                self.turns.give_way()
                turn = time.monotonic()
            return closed.is_set() or time.monotonic() > began + limits.JOB_SECONDS or os.path.exists(flag)

        def work() -> None:
            nonlocal began, turn
            try:
                with self.turns.of("invert"):
                    if closed.is_set():  # nobody waits for it any more
                        return
                    began = turn = time.monotonic()
                    updates.put(self._inverted(crop, steps, tokens, seed, on_step))
            except BaseException as error:  # it is raised again where the result is awaited
                updates.put(error)

        self.threads.start("invert", work)
        shown = time.monotonic()
        try:
            while True:
                update = updates.get()
                if isinstance(update, BaseException):
                    with messages.explained():
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

    # --- Adaptation: one call is one turn, and all that it needs to go on travels in its value ---

    def _adapt(self, run: Run, count: int, face: Inversion | None, flag: str) -> Chunk:
        """Up to ``count`` more steps; none is begun once the file ``flag`` exists."""
        return self._turn("adapt", lambda: self._adapted(run, count, face, flag))

    def _adapted(self, run: Run, count: int, face: Inversion | None, flag: str) -> Chunk:
        going = self._resumed(run)
        while count > 0 and not going.finished and not os.path.exists(flag):
            going.step()
            count -= 1
        pace = going.seconds / going.done if going.done else run.pace
        now = going.average.token_set(going.base)
        return self._shown(going, replace(run, state=going.state(), pace=pace), face, now, "now")

    def _keep(self, run: Run, name: str, face: Inversion | None) -> tuple[TokenSet, Chunk]:
        """The domain that came of a run, the best of its steps, and how that looks."""
        return self._turn("adapt", lambda: self._kept(run, name, face))

    def _kept(self, run: Run, name: str, face: Inversion | None) -> tuple[TokenSet, Chunk]:
        going = self._resumed(run)
        domain = going.token_set({"name": name, "rights": RIGHTS}).to("cpu")
        return domain, self._shown(going, run, face, domain, "best")

    def _shown(self, going: Adaptation, run: Run, face: Inversion | None, tokens: TokenSet, which: Preview) -> Chunk:
        plain, adapted = (
            [np.asarray(image) for image in to_images(going.preview(limits.PREVIEWS, kind))]
            for kind in ("plain", which)
        )
        drawn = None if face is None else self.pipe.render(face, domains={tokens: 1.0}, output_type="np")
        return Chunk(run, plain, adapted, drawn)

    def _resumed(self, run: Run) -> Adaptation:
        return self.pipe.adaptation(run.references, steps=run.steps, tokens=run.tokens, seed=run.seed, state=run.state)


# --- Who may ask ----------------------------------------------------------------------------------------------------


RIGHTS = "The maker says that they may use these pictures."  # no run starts without
KINDS = ("invert", "adapt")  # jobs that last
DEVICE = ("draw", *KINDS)  # lines of those that need the accelerator


class Stops:
    """Who pressed Stop: a file for each session and kind of job, which that job looks for."""

    def __init__(self) -> None:
        cache = Path(get_upload_folder())  # there the files are swept, also after a crash
        cache.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="stops-", dir=cache))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def flag(self, session: str | None, kind: str) -> Path:
        """The file, whether it exists or not. The session's name is the client's own choice, so it is hashed."""
        return self.folder / f"{kind}-{hashlib.sha256(str(session).encode()).hexdigest()[:32]}"

    def stop(self, kind: str, request: gr.Request) -> None:
        """Ask the session's job to end."""
        self.folder.mkdir(exist_ok=True)  # it may have been swept
        self.flag(request.session_hash, kind).touch()

    def clear(self, kind: str, request: gr.Request) -> None:
        """Forget what was asked before."""
        self.flag(request.session_hash, kind).unlink(missing_ok=True)

    def leave(self, request: gr.Request) -> None:
        """The page was closed: all its jobs end."""
        for kind in KINDS:
            self.stop(kind, request)


def held(demo: gr.Blocks) -> list[Any]:
    """All events that wait or run. Read from the queue itself: a count of our own would leak on a cancel."""
    lines = demo._queue
    waits = [event for q in lines.event_queue_per_concurrency_id.values() for event in q.queue]
    return waits + [event for job in lines.active_jobs if job for event in job]


def waiting(demo: gr.Blocks, session: str | None, lines: Collection[str] = DEVICE) -> int:
    """How many jobs of a session wait or run in some lines (concurrency ids)."""
    return sum(event.session_hash == session and event.concurrency_id in lines for event in held(demo))


def address(request: Any) -> str | None:
    """Whence a request comes: None from this machine or its network. The proxy of a Space names it in a header."""
    forwarded = request.headers.get("x-forwarded-for", "").split(",")[0].strip()
    host = forwarded or (request.client.host if request.client else "")
    try:
        return host if ipaddress.ip_address(host).is_global else None
    except ValueError:
        return None


def admit(demo: gr.Blocks, request: gr.Request, inputs: int, line: str) -> list[dict[str, Any]]:
    """A validator's answer for an event with so many inputs: refused when the session has enough jobs already.

    A session's name is the client's own choice, so an address has a limit as well.
    """
    session, place = request.session_hash, address(request)
    if line in DEVICE:
        free = waiting(demo, session) < limits.JOBS_PER_SESSION
    else:
        free = waiting(demo, session, {line}) < limits.SMALL_JOBS_PER_SESSION
    if line == "adapt":  # the longest: one of a session
        free = free and not waiting(demo, session, {line})
    crowd = sum(address(event.request) == place for event in held(demo)) if place else 0
    roomy = crowd < limits.JOBS_PER_ADDRESS
    answer = gr.validate(free and roomy, messages.BUSY if roomy else messages.CROWDED)
    return [answer] + [gr.validate(True, "") for _ in range(inputs - 1)]
