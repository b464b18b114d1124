"""What commands print: reports on stdout, progress on stderr."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Protocol, TypeAlias

import typer

from ..storage.atomic import write_file


__all__ = [
    "AsJson",
    "Tick",
    "accept_any_text",
    "emit",
    "interruptible",
    "note",
    "plain",
    "progress",
    "say",
    "write_json",
]

STOPS = (signal.SIGINT, signal.SIGTERM)
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print a machine-readable report on stdout.")]


def accept_any_text() -> None:
    """Let stdout and stderr show what their encoding lacks as escapes: names of files may hold anything."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """The lines of a text for a terminal: names of files and cards of strangers may hold escape sequences."""
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.split("\n"))


def emit(report: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print ``report`` as JSON or ``text`` for people, on stdout."""
    print(_dumps(report) if as_json else plain(text))


def say(text: str, as_json: bool) -> None:
    """Print a part of what a command finds at once: on stdout, or on stderr where that is for a report as JSON."""
    print(plain(text), file=sys.stderr if as_json else sys.stdout, flush=True)


def note(text: str) -> None:
    """Say on stderr what is good to know before a long piece of work."""
    print(plain(text), file=sys.stderr)


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write ``report``, atomically."""
    write_file(path, (_dumps(report) + "\n").encode())


def _dumps(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, allow_nan=False)


class Tick(Protocol):
    """Takes how much is done, metrics to show, and the total where it was not known before."""

    def __call__(self, done: int, metrics: Mapping[str, float], total: int | None = None) -> None: ...


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Tick]:
    """A progress bar on stderr, gone when the block ends; silent where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, metrics="")

        def tick(done: int, metrics: Mapping[str, float], total: int | None = None) -> None:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            bar.update(task, completed=done, total=total, metrics=shown)

        yield tick


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a question: was Ctrl-C pressed? So a run can end after a whole step. The second Ctrl-C does not wait.

    The signal by which schedulers and launchers end a process counts as one.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        for one in STOPS:
            signal.signal(one, signal.default_int_handler)

    before = {one: signal.signal(one, note) for one in STOPS}
    try:
        yield lambda: bool(pressed)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
