"""One thread for each kind of work, which does all work of that kind.

Protects from: a process that grows with every visitor. PyTorch leaves helper threads, scratch memory and an arena of
the allocator to each thread that computes, and Gradio runs handlers on any of about forty threads.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias, TypeVar


T = TypeVar("T")
Line: TypeAlias = "queue.SimpleQueue[tuple[Callable[[], object], Future[object]] | None]"  # None: the end


class Threads:
    """Threads by kind. Each starts when it is first needed and ends with this object or with the process."""

    def __init__(self) -> None:
        # By process too: a fork inherits the queues, but not the threads.
        self._lines: dict[tuple[int, str], Line] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._lines)

    def do(self, kind: str, work: Callable[[], T]) -> T:
        """Wait for the work, and return its result or raise its exception."""
        return self.start(kind, work).result()

    def start(self, kind: str, work: Callable[[], T]) -> Future[T]:
        """Queue the work behind what the thread of its kind has been given before."""
        future: Future[T] = Future()
        key = os.getpid(), kind
        with self._lock:
            if key not in self._lines:
                self._lines[key] = queue.SimpleQueue()
                threading.Thread(target=_serve, args=(self._lines[key],), name=kind, daemon=True).start()
        self._lines[key].put((work, future))  # type: ignore[arg-type]
        return future


def _serve(line: Line) -> None:
    while given := line.get():
        work, future = given
        try:
            future.set_result(work())
        except BaseException as error:  # raised again where the result is awaited
            future.set_exception(error)
        del given, work, future  # nothing of a visitor is kept until the next comes


def _end(lines: dict[tuple[int, str], Line]) -> None:
    for line in lines.values():
        line.put(None)
