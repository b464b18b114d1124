"""What the canvas and all panels share: the session, and how their events are queued."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.events import Dependency

from refinestyle_hub.boundary.numbers import MAX_SEED, whole
from refinestyle_hub.errors import ConfigError

from . import limits, messages
from .admission import DEVICE, KINDS, Stops, admit, queued_jobs


T = TypeVar("T", bound=gr.components.Component)

# Of what only sets the page or the session: without a queue, no message reaches the page.
HIDDEN: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
NEWEST: dict[str, Any] = {**HIDDEN, "trigger_mode": "always_last"}  # of many at a time, the last counts


def visible(value: Any = None) -> Any:
    """An update that shows a component with this value, or hides it where there is none."""
    return gr.update(value=value, visible=value is not None)


def as_path(component: T) -> T:
    """The handler gets the path of a file, or the paths of several. Gradio would open it, or refuse it by its name,
    and fail without a word or in words of its own: the loader is ours."""

    def preprocess(payload: Any) -> Any:
        files = [file.path for file in getattr(payload, "root", [payload])] if payload else []
        return files if getattr(component, "file_count", "") == "multiple" else files[0] if files else None

    component.preprocess = preprocess  # type: ignore[method-assign]
    return component


def number(label: str, low: int = 0, high: int = MAX_SEED, value: int = 0, **layout: Any) -> gr.Number:
    """Where a whole number comes in, the lowest of an empty field. Gradio would not say whose bounds they are."""
    made = gr.Number(value, precision=0, minimum=low, maximum=high, label=label, **layout)

    def preprocess(payload: Any) -> int:
        try:
            return low if payload is None else whole(payload, label, low, high)
        except ConfigError as error:
            raise messages.refuse(html.escape(str(error))) from None

    made.preprocess = preprocess  # type: ignore[method-assign]
    bounded = f"value => value === null ? value : Math.min({high}, Math.max({low}, Math.trunc(value)))"
    made.input(None, made, made, js=bounded, **HIDDEN)  # on the page: what preprocess refuses, Gradio does not show
    return made


def tiles(**layout: Any) -> gr.Gallery:
    """Pictures beside each other, once there are some: to look at, or to choose from."""
    how = {"visible": False, "interactive": False, "allow_preview": False, "buttons": [], "show_label": False}
    return gr.Gallery(**how, **layout)


def token_file(**layout: Any) -> gr.File:
    """Where a .safetensors file comes in."""
    return as_path(gr.File(file_count="single", type="filepath", **layout))


def style_files(**layout: Any) -> gr.File:
    """Where pictures of a style come in."""
    return as_path(gr.File(file_count="multiple", file_types=["image"], type="filepath", **layout))


def photo_file(**layout: Any) -> gr.Image:
    """Where a photo comes in."""
    return as_path(gr.Image(type="filepath", image_mode=None, **layout))


@dataclass(frozen=True)
class Page:
    """The app while it is built. Every value of a visitor is in the session, and nowhere else."""

    demo: gr.Blocks
    stops: Stops
    session: gr.State
    canvas: gr.HTML
    controls: list[gr.components.Component] = field(default_factory=list)  # they follow the look

    def line(self, name: str, **more: Any) -> dict[str, Any]:
        """The settings of an event that waits for its turn, by the kind of its work; it is no endpoint.

        What needs the accelerator is "draw", "invert" or "adapt": each has a line of its own, so that a picture does
        not wait behind inversions; on the device they take turns. What does not is "cpu" or "hub".
        """

        def validator(request: gr.Request, *values: Any) -> list[dict[str, Any]]:
            answer = admit(self.demo, request, len(values), name)
            if name in KINDS and answer[0]["is_valid"]:
                self.stops.clear(name, request)
            return answer

        limit = limits.ADAPT_JOBS if name == "adapt" else limits.GPU_JOBS if name in DEVICE else limits.SMALL_JOBS
        line = {"concurrency_id": name, "concurrency_limit": limit, "validator": validator}
        return {"api_visibility": "private", **line, **more}

    def hidden(self, name: str) -> dict[str, Any]:
        """The same for an event that shows no progress."""
        return self.line(name, show_progress="hidden")

    def show(self, *events: Dependency) -> None:
        """The look may be another one after these events: canvas.js asks for its picture, once for all quick ones."""
        changed = "() => document.dispatchEvent(new Event('changed'))"
        for event in events:
            event.success(None, None, None, js=changed, **HIDDEN)

    def stop(self, kind: str, told: Any) -> Callable[[gr.Request], Any]:
        """The handler of a Stop button: where the session has such a job, it ends early, and this is told."""

        def stop(request: gr.Request) -> Any:
            if not queued_jobs(self.demo, request.session_hash, {kind}):
                return gr.skip()
            self.stops.stop(kind, request)
            return told

        return stop

    def alive(self, session: Any, request: gr.Request) -> Any:
        """Tells the canvas if a photo of the session is being read, or waits for it."""
        # The time: Gradio drops a value that is the same as before.
        return {"alive": time.time_ns()} if queued_jobs(self.demo, request.session_hash, {"invert"}) else gr.skip()
