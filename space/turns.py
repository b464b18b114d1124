"""A lock that is fair, between kinds of work and within each."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


__all__ = ["Turns"]


class Turns:
    """A lock that goes to the kind of work that has had it for the shorter time, and in it to who asked first.

    Start-time fair queueing (Goyal, Vin and Cheng 1996): a kind that had no use for the lock does not save its time
    up, so that none waits for long because another had been idle.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, deque[object]] = {}  # who waits, by kind
        self._had: dict[str, float] = {}  # seconds, by kind
        self._now = 0.0  # what the kind that has the lock had had before
        self._holder: tuple[str, float] | None = None  # a kind, and since when
        self._moved = threading.Condition()

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Have it, for a kind of work."""
        self._take(kind)
        try:
            yield
        finally:
            self._leave()

    def give_way(self) -> None:
        """Let those go first whose turn it is; for whoever has the lock."""
        self._take(self._leave())

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._holder is not None

    def _take(self, kind: str) -> None:
        ticket = object()
        with self._moved:
            line = self._lines.setdefault(kind, deque())
            self._had[kind] = max(self._had.get(kind, 0.0), self._now)
            line.append(ticket)
            try:
                self._moved.wait_for(lambda: self._next() is ticket)
            except BaseException:
                line.remove(ticket)
                self._moved.notify_all()
                raise
            line.popleft()
            self._now, self._holder = self._had[kind], (kind, self._clock())

    def _leave(self) -> str:
        with self._moved:
            assert self._holder is not None
            kind, since = self._holder
            self._had[kind] += self._clock() - since
            self._holder = None
            self._moved.notify_all()
        return kind

    def _next(self) -> object | None:
        """Whose turn it is."""
        waiting = [kind for kind, line in self._lines.items() if line]
        if self._holder is not None or not waiting:
            return None
        return self._lines[min(waiting, key=self._had.__getitem__)][0]
