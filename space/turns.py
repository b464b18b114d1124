"""A lock that is fair between kinds of work and within each kind.

Protects from: a picture that takes 0.1 s and waits for an inversion or an adaptation that takes minutes. Gradio's
limits of concurrency count whole events, so they cannot let one event in between two steps of another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """A lock that goes to the kind of work that has had it for the shortest time, and there to who asked first.

    This is start-time fair queueing (Goyal, Vin and Cheng 1996). A kind that was idle saves up no time: otherwise the
    others would have to wait until it had caught up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, deque[object]] = {}  # who waits, by kind
        self._had: dict[str, float] = {}  # seconds, by kind
        self._now = 0.0  # seconds that the present holder's kind had before its turn
        self._holder: tuple[str, float] | None = None  # a kind, and since when
        self._moved = threading.Condition()

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Hold the lock for a kind of work."""
        self._take(kind)
        try:
            yield
        finally:
            self._leave()

    def give_way(self) -> None:
        """Called by the holder: let those go first whose turn it is."""
        self._take(self._leave())

    def locked(self) -> bool:
        """Whether the lock is held."""
        return self._holder is not None

    def _take(self, kind: str) -> None:
        ticket = object()
        with self._moved:
            line = self._lines.setdefault(kind, deque())
            self._had[kind] = max(self._had.get(kind, 0.0), self._now)
            line.append(ticket)
            self._moved.wait_for(lambda: self._next() is ticket)
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
        """The ticket whose turn it is, or None."""
        waiting = [kind for kind, line in self._lines.items() if line]
        if self._holder is not None or not waiting:
            return None
        return self._lines[min(waiting, key=self._had.__getitem__)][0]
