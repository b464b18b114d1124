"""A lock that is fair."""

from __future__ import annotations

import threading
from collections import deque


__all__ = ["Turns"]


class Turns:
    """A lock that is had in the order in which it was asked for: who comes back waits behind those who wait."""

    def __init__(self) -> None:
        self._line: deque[object] = deque()  # its first has the lock
        self._moved = threading.Condition()

    def __enter__(self) -> None:
        ticket = object()
        with self._moved:
            self._line.append(ticket)
            try:
                self._moved.wait_for(lambda: self._line[0] is ticket)
            except BaseException:
                self._line.remove(ticket)
                self._moved.notify_all()
                raise

    def __exit__(self, *error: object) -> None:
        with self._moved:
            self._line.popleft()
            self._moved.notify_all()

    def give_way(self) -> None:
        """Let those go first who wait now; for whoever has the lock."""
        self.__exit__()
        self.__enter__()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return bool(self._line)
