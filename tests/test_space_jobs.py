"""The border to the accelerator: stopping, locking, deadlines, admission; once more across a fake ZeroGPU."""

from __future__ import annotations

import os
import pickle
import threading
import time
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from zero_gpu import FakeZeroGPU

from refinestyle_hub.fingerprint import fingerprint
from refinestyle_hub.pipeline import RefineStylePipeline
from space import jobs, limits
from space.images import Pixels
from space.jobs import Jobs, Result, Step, Stops


@pytest.fixture
def crop() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def stops() -> Stops:
    return Stops()


def request(session: str) -> Any:
    return SimpleNamespace(session_hash=session)


def test_off_zerogpu_the_functions_are_undecorated(tiny_pipe: RefineStylePipeline) -> None:
    work = Jobs(tiny_pipe)
    assert jobs.gpu(len) is len
    assert work.draw == work._draw
    assert work.invert == work._invert


def test_inversion_ends_with_a_result_of_plain_values(tiny_pipe: RefineStylePipeline, crop: Pixels) -> None:
    before = fingerprint(tiny_pipe.generator)
    result = list(Jobs(tiny_pipe).invert(crop, 4, True, 0, "/nowhere"))[-1]
    assert isinstance(result, Result)
    assert result.reconstruction.shape == result.likeness.shape == (32, 32, 3)
    assert result.inversion.report["stopped"] == "finished"
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again.inversion.w_plus, result.inversion.w_plus)
    drawn = Jobs(tiny_pipe).draw(result.inversion, [{}, {"smile": 1.0}, {"smile": 1.0, "age": -2.0}])
    assert np.array_equal(drawn[0], result.reconstruction)
    assert len({picture.tobytes() for picture in drawn}) == 3
    assert fingerprint(tiny_pipe.generator) == before


def test_progress_comes_in_chunks(
    tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    updates = list(Jobs(tiny_pipe).invert(crop, 6, True, 0, "/nowhere"))
    steps = [update.step for update in updates if isinstance(update, Step)]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert all(update.figures["perceptual"] > 0 for update in updates if isinstance(update, Step))


def test_stop_keeps_what_was_reached(
    tiny_pipe: RefineStylePipeline, crop: Pixels, stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    running = Jobs(tiny_pipe).invert(crop, 400, True, 0, str(stops.flag("me")))
    next(running)
    stops.stop(request("someone else"))
    next(running)
    stops.stop(request("me"))
    result = list(running)[-1]
    assert isinstance(result, Result)
    assert result.inversion.report["stopped"] == "cancelled"
    assert result.inversion.report["w_steps"] < 100  # it was asked to stop at the second of 180
    stops.clear(request("me"))
    assert not stops.flag("me").exists()


def test_requests_to_stop_are_swept(stops: Stops) -> None:
    stops.stop(request("old"))
    os.utime(stops.flag("old"), (0, 0))
    stops.stop(request("../../new"))
    assert list(stops.folder.iterdir()) == [stops.flag("../../new")]
    made = Stops()
    folder = made.folder
    del made
    assert not folder.exists()


def test_the_clock_ends_a_job(tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOB_SECONDS", 0.0)
    result = list(Jobs(tiny_pipe).invert(crop, 400, False, 0, "/nowhere"))[-1]
    assert isinstance(result, Result)
    assert result.inversion.report["w_steps"] <= 1


def test_a_closed_job_ends_and_the_next_waits_for_it(
    tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    inside, most = [0], [0]
    invert, render = RefineStylePipeline.invert, RefineStylePipeline.render

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            try:
                return function(*args, **kwargs)
            finally:
                inside[0] -= 1

        return call

    monkeypatch.setattr(tiny_pipe, "invert", counted(invert.__get__(tiny_pipe)), raising=False)
    monkeypatch.setattr(tiny_pipe, "render", counted(render.__get__(tiny_pipe)), raising=False)
    work = Jobs(tiny_pipe)
    threads = threading.active_count()
    first = work.invert(crop, 400, True, 0, "/nowhere")
    next(first)
    first.close()  # type: ignore[attr-defined]  # as Gradio does when the tab is gone
    assert isinstance(list(work.invert(crop, 2, True, 0, "/nowhere"))[-1], Result)
    assert most[0] == 1
    deadline = time.monotonic() + 20
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads  # nothing is left behind


def test_errors_of_the_worker_arrive(tiny_pipe: RefineStylePipeline, crop: Pixels) -> None:
    with pytest.raises(ValueError, match="Steps must be 0 or more"):
        list(Jobs(tiny_pipe).invert(crop, -5, True, 0, "/nowhere"))
    assert not Jobs(tiny_pipe).lock.locked()


@pytest.mark.parametrize("size", [128, 1024])
def test_requested_seconds_grow_with_the_work_and_stay_allowed(size: int) -> None:
    big = np.zeros((size, size, 3), np.uint8)
    wanted = [jobs._inversion_seconds(big, steps, True, 0, "") for steps in (0, 100, 400)]
    assert 0 < wanted[0] < wanted[1] < wanted[2] <= 110


def test_across_zerogpu(tiny_pipe: RefineStylePipeline, crop: Pixels, stops: Stops) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork does not take the pool of threads along
    try:
        border = FakeZeroGPU()
        work = Jobs(tiny_pipe, border)
        result = list(work.invert(crop, 3, True, 0, str(stops.flag("me"))))[-1]
        assert isinstance(result, Result)
        assert np.array_equal(work.draw(result.inversion, [{}])[0], result.reconstruction)
        stops.stop(request("me"))
        stopped = list(work.invert(crop, 400, True, 0, str(stops.flag("me"))))[-1]
        assert isinstance(stopped, Result)
        assert stopped.inversion.report["stopped"] == "cancelled"
        assert len(border.seconds) == 3
        with pytest.raises(gr.Error, match="DirectionError"):
            work.draw(result.inversion, [{"nonsense": 1.0}])
    finally:
        torch.set_num_threads(threads)


def test_waiting_counts_a_session_where_it_waits_and_where_it_runs() -> None:
    def event(session: str) -> Any:
        return SimpleNamespace(session_hash=session)

    line = SimpleNamespace(
        event_queue_per_concurrency_id={
            "gpu": SimpleNamespace(queue=[event("a"), event("b")]),
            "cpu": SimpleNamespace(queue=[event("a")]),
        },
        active_jobs=[None, [event("a")], [event("c")]],
    )
    demo: Any = SimpleNamespace(_queue=line)
    assert [jobs.waiting(demo, session) for session in "abcd"] == [3, 1, 1, 0]
    assert len(jobs.admit(demo, request("b"), inputs=3)) == 3
    assert [jobs.admit(demo, request(s), 1)[0]["is_valid"] for s in "abcd"] == [False, True, True, True]
