"""What happens in Adapt: a few pictures of a style become a domain, turn by turn.

The docstring of ``adapt`` is what clients of the API read.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from refinestyle_hub.adapt import STEPS_WITHOUT_DISCRIMINATOR, lacks
from refinestyle_hub.images import to_images

from .. import limits, messages
from ..admission import Stops
from ..files import cache_file, picture_file
from ..images import Pixels, read_references, side_by_side
from ..jobs import AdaptProgress, AdaptRun, Jobs
from ..model import EXAMPLES
from ..page import visible
from ..session import Session, clean_name
from ..tokenfiles import domain_file


class AdaptHandlers:
    """The handlers of Adapt for one pipeline."""

    def __init__(self, jobs: Jobs, stops: Stops) -> None:
        self.jobs = jobs
        self.stops = stops

    @property
    def default_steps(self) -> int:
        """What a first try should not be longer than."""
        if self.jobs.pipe.discriminator is None:
            return STEPS_WITHOUT_DISCRIMINATOR
        return limits.DEFAULT_ADAPT_STEPS["cpu" if self.jobs.on_cpu else "cuda"]

    def example(self) -> list[str]:
        """Pictures for a first try, copied to where they may be served from."""
        return [cache_file(path.read_bytes(), path.name) for path in sorted((EXAMPLES / "style").glob("*.jpg"))]

    def check(self, pictures: list[str] | None) -> tuple[Any, Any]:
        """Pictures were added: show how they will be used, say what they lack, and name those that cannot be."""
        with messages.explained():
            if not pictures:
                return visible(), visible()
            references, refused = read_references(pictures, self.jobs.size)
            squares = [picture_file(np.asarray(image)) for image in to_images(references.pictures)]
            captions = ["face" if found else "as it is" for found in references.aligned]
            note = f"Pictures that can be used: {len(squares)} of {len(pictures)}."
            if alone := captions.count("as it is"):
                note += f" No face was found in {alone}, used unchanged."
            missing = html.escape(" ".join(lacks(references)))
            report = "\n\n".join(filter(None, [note, missing, messages.left_out(refused)]))
            return visible(list(zip(squares, captions, strict=True))), visible(report)

    def estimate(self, steps: int) -> str:
        """How long it will take, as far as is known."""
        seconds = steps * self.jobs.step_seconds
        if self.jobs.on_cpu:
            return f"About {_duration(seconds)} on this machine, longer while others use it; Stop keeps the best."
        return f"About {_duration(seconds)} of GPU time, in turns of {limits.TURN_SECONDS:.0f} s."

    def adapt(
        self, pictures: list[str] | None, name: str, rights: bool, steps: int, tokens: int, seed: int,
        session: Session, request: gr.Request,
    ) -> Iterator[tuple[Any, str, Any, Session]]:  # fmt: skip
        """Make a domain from 1 to 20 pictures of a style; later /stylise and /export calls of the session know it.

        Args:
            pictures: the files (JPEG, PNG or WebP; at most 10 MB and 64 megapixels each).
            name: of the domain: letters, digits, dash and underscore.
            rights: that you may use these pictures.
            steps: of optimisation.
            tokens: for each layer; more hold more detail.
            seed: the same seed gives the same result.

        Returns:
            Fixed samples without and with the domain, a line of text, and the domain as a .safetensors file.
        """
        with messages.explained():
            if not pictures:
                raise messages.refuse(messages.NO_PICTURES)
            if rights is not True:  # a client of the API may send a text, such as "no"
                raise messages.refuse(messages.NO_RIGHTS)
            session.shelf.check_room()
            references, refused = read_references(pictures, self.jobs.size)
            yield gr.skip(), f"Starting. Pictures: {len(references)}", gr.skip(), session
            face = subject.inversion if (subject := session.look.subject) else None
            run = AdaptRun(references, steps, tokens, seed, self.jobs.step_seconds, face)
            flag = str(self.stops.flag(request.session_hash, "adapt"))
            deadline = time.monotonic() + limits.ADAPT_SECONDS
            failure = ""
            while True:
                count = max(1, min(run.steps - run.done, round(limits.TURN_SECONDS / run.step_seconds)))
                try:
                    progress = self.jobs.adapt(run, count, flag)
                except gr.Error as error:  # on ZeroGPU, say, the visitor's minutes are used up
                    if not run.done:
                        raise
                    failure = str(error.message)
                    break
                run, self.jobs.step_seconds = progress.run, progress.run.step_seconds
                if run.done >= run.steps or os.path.exists(flag) or time.monotonic() > deadline:
                    break
                yield picture_file(_compared(progress)), _status(run), gr.skip(), session
            if not run.done:
                note = f"{messages.STOPPED.format(step=0, steps=run.steps)}: nothing is kept."
                yield gr.skip(), note, gr.skip(), session
                return
            domain, progress = self.jobs.keep(run, clean_name(name))
            kept = session.shelf.add(clean_name(name), domain, self.jobs.pipe.domains)
            session.put(replace(session.look, domains={kept: 1.0}))
            note = _report(run, kept, failure, refused)
            yield picture_file(_compared(progress)), note, domain_file(domain, kept), session


def _compared(progress: AdaptProgress) -> Pixels:
    """Two rows: without the domain, and with it."""
    return side_by_side(progress.plain + progress.adapted, len(progress.plain), limits.THUMB)


def _status(run: AdaptRun) -> str:
    left = (run.steps - run.done) * run.step_seconds
    return f"step {run.done}/{run.steps} · {run.step_seconds:.2f} s a step · about {_duration(left)} left"


def _report(run: AdaptRun, name: str, failure: str, refused: Mapping[str, str]) -> str:
    assert run.state is not None
    ended = (messages.STOPPED if run.done < run.steps else "{step} steps").format(step=run.done, steps=run.steps)
    line = (
        f"**{html.escape(name)}** is ready, and on the canvas · {ended} · "
        f"{_duration(run.state.numbers['seconds'])} of work. It stays for this session; download it to keep it."
    )
    return "\n\n".join(filter(None, [line, failure, messages.left_out(refused)]))


def _duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
