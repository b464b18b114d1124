"""The lock that is had in order."""

from __future__ import annotations

import threading
import time

import pytest

from space.turns import Turns


def waits(turns: Turns, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(turns._line) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_turns_are_had_in_the_order_of_asking() -> None:
    turns, had = Turns(), []

    def work(name: str) -> None:
        with turns:
            had.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    with turns:
        for place, thread in enumerate(threads):
            thread.start()
            waits(turns, place + 2)
        had.append("first")
    for thread in threads:
        thread.join()
    assert had == ["first", *"abcd"]
    assert not turns.locked()


def test_who_gives_way_comes_after_those_who_wait() -> None:
    turns, had = Turns(), []

    def work() -> None:
        with turns:
            had.append("other")

    with turns:
        thread = threading.Thread(target=work)
        thread.start()
        waits(turns, 2)
        turns.give_way()
        had.append("again")
    thread.join()
    assert had == ["other", "again"]
    with turns:
        turns.give_way()  # nobody waits
    assert not turns.locked()


def test_an_error_inside_frees_it() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns:
        _ = 1 / 0
    assert not turns.locked()
