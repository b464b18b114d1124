"""The lock that is had in turns."""

from __future__ import annotations

import threading
import time

import pytest

from space.turns import Turns


class Clock:
    """Seconds that pass when a job says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def waits(turns: Turns, count: int) -> None:
    """Returns once so many wait."""
    deadline = time.monotonic() + 30
    while sum(len(line) for line in turns._lines.values()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_turns_are_had_in_the_order_of_asking() -> None:
    turns, had = Turns(), []

    def work(name: str) -> None:
        with turns.of("draw"):
            had.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    with turns.of("draw"):
        for place, thread in enumerate(threads):
            thread.start()
            waits(turns, place + 1)
        had.append("first")
    for thread in threads:
        thread.join()
    assert had == ["first", *"abcd"]
    assert not turns.locked()


def test_who_gives_way_comes_after_those_who_wait() -> None:
    turns, had = Turns(), []

    def work() -> None:
        with turns.of("draw"):
            had.append("other")

    with turns.of("draw"):
        thread = threading.Thread(target=work)
        thread.start()
        waits(turns, 1)
        turns.give_way()
        had.append("again")
    thread.join()
    assert had == ["other", "again"]
    with turns.of("draw"):
        turns.give_way()  # nobody waits
    assert not turns.locked()


def contest(turns: Turns, clock: Clock, jobs: dict[str, tuple[str, float]], rounds: int) -> list[str]:
    """Jobs that come back again and again: who has each turn. ``jobs``: by name their kind, and seconds of a turn."""
    order: list[str] = []
    over = threading.Event()

    def work(name: str, kind: str, seconds: float) -> None:
        with turns.of(kind):
            while not over.is_set():
                order.append(name)
                clock.now += seconds
                if len(order) >= rounds:
                    over.set()
                waits(turns, 0 if over.is_set() else len(jobs) - 1)
                turns.give_way()

    with turns.of("draw"):
        threads = [threading.Thread(target=work, args=(name, *job)) for name, job in jobs.items()]
        for place, thread in enumerate(threads):
            thread.start()
            waits(turns, place + 1)
    for thread in threads:
        thread.join(30)
    return order[:rounds]


def test_kinds_share_the_time_however_many_they_are_and_however_long_their_turns() -> None:
    clock = Clock()
    jobs = {"a": ("adapt", 3.0), "b": ("adapt", 3.0), "i": ("invert", 1.0)}
    order = contest(Turns(clock), clock, jobs, 200)
    seconds = {kind: sum(jobs[name][1] for name in order if jobs[name][0] == kind) for kind in ("adapt", "invert")}
    assert seconds["invert"] == pytest.approx(seconds["adapt"], abs=4)  # a turn of each
    assert order.count("a") == pytest.approx(order.count("b"), abs=1)


def test_who_was_idle_has_no_claim_to_the_time_that_others_had() -> None:
    clock = Clock()
    turns = Turns(clock)
    for _ in range(100):
        with turns.of("adapt"):
            clock.now += 1
    order = contest(turns, clock, {"a": ("adapt", 1.0), "i": ("invert", 1.0)}, 20)
    assert 8 <= order.count("a") <= 12


def test_an_error_inside_frees_it() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.of("draw"):
        _ = 1 / 0
    assert not turns.locked()
