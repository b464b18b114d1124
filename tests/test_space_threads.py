"""The threads that do the demo's work."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from space.threads import Threads


def test_a_kind_has_one_thread_whoever_asks() -> None:
    threads = Threads()
    with ThreadPoolExecutor(8) as visitors:
        found = set(visitors.map(lambda _: threads.do("draw", threading.get_ident), range(50)))
    assert len(found) == 1
    assert threads.do("adapt", threading.get_ident) not in {*found, threading.get_ident()}


def test_kinds_do_not_wait_for_each_other_and_a_kind_keeps_its_order() -> None:
    threads, go, done = Threads(), threading.Event(), []
    first = threads.start("invert", lambda: (go.wait(10), done.append(1)))
    second = threads.start("invert", lambda: done.append(2))
    assert threads.do("draw", lambda: list(done)) == []
    go.set()
    first.result(10)
    second.result(10)
    assert done == [1, 2]


def test_an_exception_comes_through_and_the_thread_goes_on() -> None:
    threads = Threads()
    with pytest.raises(ZeroDivisionError):
        threads.do("draw", lambda: 1 // 0)
    assert threads.do("draw", lambda: 7) == 7


def test_nothing_of_a_visitor_stays_with_the_thread() -> None:
    threads, photo = Threads(), np.zeros(10)
    gone = weakref.ref(photo)
    assert threads.do("draw", lambda photo=photo: photo.sum()) == 0
    del photo
    threads.do("draw", lambda: None)  # by then the thread has let go
    gc.collect()
    assert gone() is None


def test_threads_end_with_their_owner() -> None:
    threads = Threads()
    made = [threads.do(kind, threading.current_thread) for kind in ("draw", "adapt")]
    assert all(thread.is_alive() for thread in made)
    del threads
    gc.collect()
    for thread in made:
        thread.join(10)
        assert not thread.is_alive()
