"""Who may ask for the accelerator: the Stop buttons, and how many jobs a session and an address may have."""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
import tempfile
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from . import limits, messages


KINDS = ("invert", "adapt")  # jobs that can be stopped
DEVICE = ("draw", *KINDS)  # queues (concurrency ids) of the jobs that need the accelerator


class Stops:
    """The Stop buttons: a flag file for each session and kind of job, which that job looks for."""

    def __init__(self) -> None:
        cache = Path(get_upload_folder())  # files there are swept, also after a crash
        cache.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="stops-", dir=cache))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def flag(self, session: str | None, kind: str) -> Path:
        """The file, whether it exists or not. The session's name is the client's own choice, so it is hashed."""
        return self.folder / f"{kind}-{hashlib.sha256(str(session).encode()).hexdigest()[:32]}"

    def stop(self, kind: str, request: gr.Request) -> None:
        """Ask the session's job to end."""
        self.folder.mkdir(exist_ok=True)  # the sweep may have removed it
        self.flag(request.session_hash, kind).touch()

    def clear(self, kind: str, request: gr.Request) -> None:
        """Forget what was asked before."""
        self.flag(request.session_hash, kind).unlink(missing_ok=True)

    def leave(self, request: gr.Request) -> None:
        """The page was closed, so all its jobs end."""
        for kind in KINDS:
            self.stop(kind, request)


def queued_events(demo: gr.Blocks) -> list[Any]:
    """All events that wait or run. They are read from Gradio's queue: a count of our own would miss cancelled ones."""
    queue = demo._queue
    waiting = [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]
    return waiting + [event for job in queue.active_jobs if job for event in job]


def queued_jobs(demo: gr.Blocks, session: str | None, lines: Collection[str] = DEVICE) -> int:
    """How many jobs of a session wait or run in some lines (concurrency ids)."""
    return sum(event.session_hash == session and event.concurrency_id in lines for event in queued_events(demo))


def address(request: Any) -> str | None:
    """The public address that a request comes from, or None if it comes from this machine or its network."""
    forwarded = request.headers.get("x-forwarded-for", "").split(",")[0].strip()  # by a Space's proxy
    host = forwarded or (request.client.host if request.client else "")
    try:
        return host if ipaddress.ip_address(host).is_global else None
    except ValueError:
        return None


def admit(demo: gr.Blocks, request: gr.Request, inputs: int, line: str) -> list[dict[str, Any]]:
    """The answer of a validator for an event with that many inputs: it is refused if the session has enough jobs.

    Clients choose the name of their session themselves, so each address has a limit as well.
    """
    session, origin = request.session_hash, address(request)
    most = {**dict.fromkeys(KINDS, limits.JOBS_PER_SESSION), "draw": limits.DRAWS_PER_SESSION}
    lines = KINDS if line in KINDS else (line,)  # inversions and adaptations are counted together
    free = queued_jobs(demo, session, lines) < most.get(line, limits.SMALL_JOBS_PER_SESSION)
    free = free and not (line == "adapt" and queued_jobs(demo, session, {line}))  # the longest: one of a session
    neighbours = sum(address(event.request) == origin for event in queued_events(demo)) if origin else 0
    roomy = neighbours < limits.JOBS_PER_ADDRESS
    answer = gr.validate(free and roomy, messages.BUSY if roomy else messages.CROWDED)
    return [answer] + [gr.validate(True, "") for _ in range(inputs - 1)]
