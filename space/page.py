"""What all tabs share: the session's values, and how their events are queued."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from . import limits
from .admission import DEVICE, KINDS, Stops, admit, queued_jobs
from .session import Shelf


__all__ = ["HIDDEN", "Page", "token_file"]

HIDDEN: dict[str, Any] = {"api_visibility": "private", "queue": False}  # an event of the layout alone


def _state(value: Any = None) -> Any:
    return field(default_factory=lambda: gr.State(value, time_to_live=limits.STATE_SECONDS))


def token_file(**layout: Any) -> gr.File:
    """Where a .safetensors file comes in; its handler gets the path."""
    file = gr.File(file_count="single", file_types=[".safetensors"], type="filepath", **layout)
    # Gradio would refuse files by their names, in words of its own: the loader is ours.
    file.preprocess = lambda payload: payload and getattr(payload, "root", [payload])[0].path  # type: ignore
    return file


@dataclass(frozen=True)
class Page:
    """The app while it is built. Every value of a visitor is in one of the states, and nowhere else."""

    demo: gr.Blocks
    stops: Stops
    tabs: gr.Tabs
    subject: gr.State = _state()  # Subject or None
    edits: gr.State = _state({})  # direction -> strength
    shelf: gr.State = _state(Shelf())
    mix: gr.State = _state({})  # domain -> strength

    def line(self, name: str) -> dict[str, Any]:
        """The settings of an event that waits for its turn, by the kind of its work.

        What needs the accelerator is "draw", "invert" or "adapt": each has a line of its own, so that a picture does
        not wait behind inversions; on the device they take turns. What does not is "cpu" or "hub".
        """
        first: Callable[[str, gr.Request], None] | None = self.stops.clear if name in KINDS else None

        def validator(request: gr.Request, *values: Any) -> list[dict[str, Any]]:
            answer = admit(self.demo, request, len(values), name)
            if first is not None and answer[0]["is_valid"]:
                first(name, request)
            return answer

        limit = limits.ADAPT_JOBS if name == "adapt" else limits.GPU_JOBS if name in DEVICE else limits.SMALL_JOBS
        return {"concurrency_id": name, "concurrency_limit": limit, "validator": validator}

    def while_waiting(self, line: str, handler: Callable[[gr.Request], Any]) -> Callable[[gr.Request], Any]:
        """The handler where the session has a job in that line; else nothing happens."""

        @functools.wraps(handler)
        def handled(request: gr.Request) -> Any:
            return handler(request) if queued_jobs(self.demo, request.session_hash, {line}) else gr.skip()

        return handled

    def open(self, tab: str) -> Callable[[], Any]:
        """A handler that goes to a tab."""
        return lambda: gr.update(selected=tab)
