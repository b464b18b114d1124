"""The thread that works in turns."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from space_parts import busy, held

from space.turns import Turns


class Clock:
    """Seconds that pass when a job says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_thread_does_all_work_whoever_asks() -> None:
    turns = Turns()
    with ThreadPoolExecutor(8) as visitors:
        found = set(visitors.map(lambda n: turns.do("draw" if n % 2 else "adapt", threading.get_ident), range(50)))
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_a_kind_keeps_the_order_of_asking() -> None:
    turns, had = Turns(), []
    with held(turns):
        asked = [turns.start("draw", lambda name=name: had.append(name)) for name in "abcd"]
        assert busy(turns)
    for each in asked:
        each.result(10)
    assert had == [*"abcd"]
    assert not busy(turns)


def test_who_gives_way_goes_on_after_those_who_wait() -> None:
    turns, had = Turns(), []

    def long() -> None:
        others = [turns.start(kind, lambda kind=kind: had.append(kind)) for kind in ("draw", "adapt")]
        turns.give_way()
        assert all(other.done() for other in others)
        had.append("again")
        turns.give_way()  # nobody waits

    turns.do("invert", long)
    assert had == ["draw", "adapt", "again"]
    assert not busy(turns)


def test_work_of_the_same_kind_waits_until_the_first_has_ended() -> None:
    turns, had = Turns(), []

    def first() -> Future[None]:
        second = turns.start("invert", lambda: had.append("second"))
        turns.give_way()
        had.append("first")
        return second

    turns.do("invert", first).result(10)
    assert had == ["first", "second"]


def contest(clock: Clock, turns: Turns, adapting: float, inverting: float, rounds: int) -> dict[str, float]:
    """Seconds that two kinds get while an inversion gives way again and again and somebody always wants to adapt."""
    seconds = {"adapt": 0.0, "invert": 0.0}

    def adapt() -> None:
        clock.now += adapting
        seconds["adapt"] += adapting
        if not over:
            turns.start("adapt", adapt)  # the next turn of a run that has no end of its own

    def invert() -> None:
        turns.start("adapt", adapt)
        for _ in range(rounds):
            clock.now += inverting
            seconds["invert"] += inverting
            turns.give_way()
            waits[0] = dict(seconds)

    waits, over = [seconds], []
    turns.start("invert", invert).result(30)
    over.append(True)  # or its thread would take time from all other tests
    return waits[0]


def test_kinds_share_the_time_however_long_their_turns_are() -> None:
    clock = Clock()
    seconds = contest(clock, Turns(clock), 3.0, 1.0, 200)
    assert seconds["invert"] == pytest.approx(seconds["adapt"], abs=4)  # a turn of each


def test_who_was_idle_has_no_claim_to_the_time_that_others_had() -> None:
    clock = Clock()
    turns = Turns(clock)

    def alone() -> None:
        clock.now += 100

    turns.do("invert", alone)
    seconds = contest(clock, turns, 1.0, 1.0, 20)
    assert seconds["invert"] == pytest.approx(seconds["adapt"], abs=2)


def test_an_exception_comes_through_and_the_thread_goes_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        turns.do("draw", lambda: 1 // 0)
    assert not busy(turns)
    assert turns.do("draw", lambda: 7) == 7


def test_an_exception_of_those_who_came_between_is_their_own() -> None:
    turns = Turns()

    def long() -> Future[float]:
        other = turns.start("draw", lambda: 1 / 0)
        turns.give_way()
        return other

    assert isinstance(turns.do("invert", long).exception(10), ZeroDivisionError)


def test_nothing_of_a_visitor_stays_with_the_thread() -> None:
    turns, photo = Turns(), np.zeros(10)
    gone = weakref.ref(photo)
    assert turns.do("draw", lambda photo=photo: photo.sum()) == 0
    del photo
    turns.do("draw", lambda: None)  # by then the thread has let go
    gc.collect()
    assert gone() is None


def test_the_thread_ends_with_its_owner() -> None:
    turns = Turns()
    thread = turns.do("draw", threading.current_thread)
    assert thread.is_alive()
    time.sleep(0.05)  # it waits for work again
    del turns
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
