"""One thread that does all work on the device, in turns that are fair between kinds of work.

Protects from: a picture that takes 0.1 s and waits for an inversion or an adaptation that takes minutes. Gradio's
limits of concurrency count whole events, so they cannot let one event in between two steps of another.

Protects from: a process that grows and slows down with every thread that computes. PyTorch leaves helper threads and
scratch memory to each, and Gradio runs handlers on any of about forty. Once there are more helpers than cores, they
sleep where they wait for each other, and a step takes a third longer (``benchmarks/speed.py --way``).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar


T = TypeVar("T")


class Turns:
    """A thread whose next work is of the kind that has had the shortest time, and of that who asked first.

    This is start-time fair queueing (Goyal, Vin and Cheng 1996). A kind that was idle saves up no time: otherwise the
    others would have to wait until it had caught up. Of each kind one work runs at a time, to its end. The thread
    starts with the first work, and ends with this object or with the process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._had: dict[str, float] = {}  # seconds, by kind
        self._process = 0  # whose thread it is: a fork inherits lines, but no thread

    def do(self, kind: str, work: Callable[[], T]) -> T:
        """Wait for the work, and return its result or raise its exception."""
        return self.start(kind, work).result()

    def start(self, kind: str, work: Callable[[], T]) -> Future[T]:
        """Queue the work behind what there is of its kind."""
        future: Future[T] = Future()
        with self._lock:
            if self._process != os.getpid():
                self._begin()
            self._had[kind] = max(self._had.get(kind, 0.0), self._now)
            self._lines.setdefault(kind, deque()).append((work, future))
        self._given.release()
        return future

    def give_way(self) -> None:
        """Called by work that takes long: do those first whose turn it is."""
        with self._lock:
            self._switch()
        while self._work(before=self._had[self._running[-1]]):
            pass
        with self._lock:
            self._now = self._had[self._running[-1]]

    def _begin(self) -> None:
        self._lines: dict[str, deque[tuple[Callable[[], Any], Future[Any]]]] = {}  # who waits, by kind
        self._running: list[str] = []  # kinds; each has given way to the next
        self._now = 0.0  # seconds that the kind whose turn it is had before
        self._since = self._clock()  # when that began
        self._given = threading.Semaphore(0)
        self._process = os.getpid()
        weakref.finalize(self, self._given.release)
        threading.Thread(target=_serve, args=(weakref.ref(self), self._given), name="device", daemon=True).start()

    def _switch(self) -> None:
        """Book the time since the last switch, on the kind that runs."""
        now = self._clock()
        if self._running:
            self._had[self._running[-1]] += now - self._since
        self._since = now

    def _work(self, before: float = float("inf")) -> bool:
        """Do the next work whose kind had no more than ``before``; False where there is none."""
        with self._lock:
            kinds = [kind for kind, line in self._lines.items() if line and kind not in self._running]
            kind = min(kinds, key=self._had.__getitem__, default=None)
            if kind is None or self._had[kind] > before:
                return False
            self._switch()
            self._now = self._had[kind]
            self._running.append(kind)
            work, future = self._lines[kind].popleft()
        try:
            result = work()
        except BaseException as error:  # raised again where the result is awaited
            self._leave()
            future.set_exception(error)
        else:
            self._leave()
            future.set_result(result)
        return True

    def _leave(self) -> None:
        with self._lock:
            self._switch()
            self._running.pop()


def _serve(turns: weakref.ref[Turns], given: threading.Semaphore) -> None:
    while given.acquire() and (here := turns()) is not None:
        here._work()
        del here  # else the thread would keep it
