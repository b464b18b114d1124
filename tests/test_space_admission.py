"""Who may ask for the accelerator: the Stop buttons, sessions and addresses."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
from space_parts import request

from space import admission, files, limits, messages
from space.admission import Stops


def test_requests_to_stop_are_swept(stops: Stops) -> None:
    stops.stop("adapt", request("old"))
    os.utime(stops.flag("old", "adapt"), (0, 0))
    stops.leave(request("../../new"))
    files.sweep_cache()
    assert set(stops.folder.iterdir()) == {stops.flag("../../new", kind) for kind in admission.KINDS}
    shutil.rmtree(stops.folder)  # empty for two hours, it is swept as well
    stops.stop("adapt", request("new"))
    assert stops.flag("new", "adapt").exists()
    made = Stops()
    folder = made.folder
    del made
    assert not folder.exists()


def test_waiting_counts_a_session_where_it_waits_and_where_it_runs() -> None:
    def event(session: str, line: str = "draw") -> Any:
        return SimpleNamespace(session_hash=session, concurrency_id=line, request=request(session))

    line = SimpleNamespace(
        event_queue_per_concurrency_id={
            "draw": SimpleNamespace(queue=[event("a"), event("b")]),
            "cpu": SimpleNamespace(queue=[event("a", "cpu")]),
        },
        active_jobs=[None, [event("a")], [event("c", "adapt")]],
    )
    demo: Any = SimpleNamespace(_queue=line)
    assert [admission.queued_jobs(demo, session) for session in "abcd"] == [2, 1, 1, 0]  # small work is not counted
    assert [admission.queued_jobs(demo, session, {"cpu"}) for session in "abcd"] == [1, 0, 0, 0]
    assert admission.admit(demo, request("a"), 1, "cpu")[0]["is_valid"]
    line.event_queue_per_concurrency_id["cpu"].queue += [event("a", "cpu")] * limits.SMALL_JOBS_PER_SESSION
    assert [admission.admit(demo, request(s), 1, "cpu")[0]["is_valid"] for s in "ab"] == [False, True]
    assert len(admission.admit(demo, request("b"), 3, "draw")) == 3
    line.active_jobs += [[event("a")]] * (limits.DRAWS_PER_SESSION - 2)
    assert [admission.admit(demo, request(s), 1, "draw")[0]["is_valid"] for s in "abcd"] == [False, True, True, True]
    assert admission.admit(demo, request("a"), 1, "invert")[0]["is_valid"]  # pictures are counted for themselves
    line.active_jobs += [[event("a", "invert")]] * limits.JOBS_PER_SESSION
    assert [admission.admit(demo, request(s), 1, "invert")[0]["is_valid"] for s in "abc"] == [False, True, True]
    assert [admission.admit(demo, request(s), 1, "adapt")[0]["is_valid"] for s in "bc"] == [
        True,
        False,
    ]  # one at a time


def visitor(session: str, forwarded: str = "", host: str = "10.0.0.7") -> Any:
    asked = request(session)
    asked.headers, asked.client = {"x-forwarded-for": forwarded} if forwarded else {}, SimpleNamespace(host=host)
    return asked


@pytest.mark.parametrize(
    ("asked", "address"),
    [
        (visitor("a", "9.9.9.9, 10.1.1.1"), "9.9.9.9"),
        (visitor("a", host="9.9.9.9"), "9.9.9.9"),
        (visitor("a", "2620:fe::9"), "2620:fe::9"),
        (visitor("a"), None),  # the same network
        (visitor("a", host="127.0.0.1"), None),
        (visitor("a", "<script>"), None),
        (request("a"), None),
    ],
)
def test_where_a_request_comes_from(asked: Any, address: str | None) -> None:
    assert admission.address(asked) == address


def test_one_address_cannot_fill_the_line_under_many_names() -> None:
    held = [
        SimpleNamespace(session_hash=f"s{n}", concurrency_id="adapt", request=visitor(f"s{n}", "9.9.9.9"))
        for n in range(limits.JOBS_PER_ADDRESS)
    ]
    queue = {"adapt": SimpleNamespace(queue=held)}
    demo: Any = SimpleNamespace(_queue=SimpleNamespace(event_queue_per_concurrency_id=queue, active_jobs=[]))
    (refused,) = admission.admit(demo, visitor("another name", "9.9.9.9"), 1, "draw")
    assert (refused["is_valid"], refused["message"]) == (False, messages.CROWDED)
    assert admission.admit(demo, visitor("x", "8.8.8.8"), 1, "draw")[0]["is_valid"]
    assert admission.admit(demo, visitor("x"), 1, "draw")[0]["is_valid"]
    assert limits.JOBS_PER_ADDRESS < limits.QUEUE
