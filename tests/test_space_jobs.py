"""The boundary to the accelerator: progress, stopping, turns and deadlines."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import busy, request, whole

from refinestyle_hub.adapt import AdaptState, References
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.images import to_tensor
from refinestyle_hub.inversion import InversionSettings
from refinestyle_hub.pipeline import RefineStylePipeline
from space import jobs, limits
from space.admission import Stops
from space.images import Pixels
from space.jobs import AdaptRun, InversionResult, InversionStep, Jobs, RenderSpec


@pytest.fixture
def crop() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many drew at the same time, at most."""
    inside, most = [0], [0]
    forward = Generator.forward

    def call(self: Generator, *args: Any, **kwargs: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            return forward(self, *args, **kwargs)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(Generator, "forward", call)
    return lambda: most[0]


def test_off_zerogpu_the_functions_are_undecorated(tiny_pipe: RefineStylePipeline) -> None:
    work = Jobs(tiny_pipe)
    assert work.draw == work._draw
    assert work.invert == work._invert
    assert work.adapt == work._adapt
    assert work.keep == work._keep


def test_inversion_ends_with_a_result_of_plain_values(tiny_pipe: RefineStylePipeline, crop: Pixels) -> None:
    before = tiny_pipe.generator.fingerprint()
    result = list(Jobs(tiny_pipe).invert(crop, 4, True, 0, "/nowhere"))[-1]
    assert isinstance(result, InversionResult)
    assert result.reconstruction.shape == (32, 32, 3)
    assert result.inversion.report["stopped"] == "finished"
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again.inversion.w_plus, result.inversion.w_plus)
    looks = [RenderSpec(), RenderSpec({"smile": 1.0}), RenderSpec({"smile": 1.0, "age": -2.0})]
    drawn = Jobs(tiny_pipe).draw(result.inversion, looks, {})
    assert np.array_equal(drawn[0][0], result.reconstruction)
    assert len({picture.tobytes() for (picture,) in drawn}) == 3
    assert tiny_pipe.generator.fingerprint() == before


def test_progress_comes_in_chunks(
    tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    updates = Jobs(tiny_pipe).invert(crop, 6, True, 0, "/nowhere")
    start, *steps = [update for update in updates if isinstance(update, InversionStep)]
    assert start.step == 0
    assert [update.step for update in steps] == [1, 2, 3, 4, 5, 6]
    assert all(update.metrics["perceptual"] > 0 and update.start is None for update in steps)


def test_the_start_is_what_the_encoder_finds_or_the_mean_face(tiny_pipe: RefineStylePipeline, crop: Pixels) -> None:
    generator = tiny_pipe.generator
    encoder = Encoder.for_generator(generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1).eval()
    with torch.no_grad():
        encoder.w_avg.add_(0.1)
    for pipe in (tiny_pipe, RefineStylePipeline(generator, encoder=encoder)):
        pipe.perceptual = tiny_pipe.perceptual
        first = next(Jobs(pipe).invert(crop, 0, True, 0, "/nowhere"))
        assert isinstance(first, InversionStep)
        assert first.start is not None
        moved = 0.1 if pipe.encoder else 0.0
        assert torch.allclose(first.start.w_plus, generator.mean_latent.expand(generator.num_ws, -1) + moved)
        assert np.array_equal(pipe.render(first.start, output_type="np"), first.picture)


def test_the_encoder_is_asked_once_and_the_answer_drawn_once(
    tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.for_generator(tiny_pipe.generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1).eval()
    pipe = RefineStylePipeline(
        tiny_pipe.generator, encoder=encoder, inversion=InversionSettings(from_tokens=False, code_rate=0.1)
    )
    pipe.perceptual = tiny_pipe.perceptual
    asked: list[int] = []
    codes = Encoder.codes

    def counting(*values: Any) -> torch.Tensor:
        asked.append(1)
        return codes(*values)

    monkeypatch.setattr(Encoder, "codes", counting)
    *_, result = Jobs(pipe).invert(crop, 2, True, 0, "/nowhere")
    assert isinstance(result, InversionResult)
    assert len(asked) == 1
    assert np.array_equal(result.reconstruction, pipe.render(result.inversion, output_type="np"))
    (alone,) = pipe.invert_crops(to_tensor(Image.fromarray(crop)), steps=2)
    assert torch.equal(alone.w_plus, result.inversion.w_plus)


def test_stop_keeps_what_was_reached(
    tiny_pipe: RefineStylePipeline, crop: Pixels, stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    running = Jobs(tiny_pipe).invert(crop, 400, True, 0, str(stops.flag("me", "invert")))
    next(running)
    stops.stop("invert", request("someone else"))
    stops.stop("adapt", request("me"))
    next(running)
    stops.stop("invert", request("me"))
    result = list(running)[-1]
    assert isinstance(result, InversionResult)
    assert result.inversion.report["stopped"] == "cancelled"
    assert result.inversion.report["w_steps"] < 100  # it was asked to stop at the second of 180
    stops.clear("invert", request("me"))
    assert not stops.flag("me", "invert").exists()


def test_the_clock_ends_a_job(tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOB_SECONDS", 0.0)
    result = list(Jobs(tiny_pipe).invert(crop, 400, False, 0, "/nowhere"))[-1]
    assert isinstance(result, InversionResult)
    assert result.inversion.report["w_steps"] <= 1


def test_a_closed_job_ends_and_the_next_waits_for_it(
    tiny_pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)  # it gives way after every step
    most = counted(monkeypatch)
    work = Jobs(tiny_pipe)
    work.turns.do("invert", lambda: None)  # its thread stays
    threads = threading.active_count()
    first = work.invert(crop, 400, True, 0, "/nowhere")
    next(first)
    first.close()  # type: ignore[attr-defined]  # as Gradio does when the tab is gone
    assert isinstance(list(work.invert(crop, 2, True, 0, "/nowhere"))[-1], InversionResult)
    assert most() == 1
    deadline = time.monotonic() + 60
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads  # nothing is left behind


def test_errors_of_the_worker_arrive(tiny_pipe: RefineStylePipeline, crop: Pixels) -> None:
    work = Jobs(tiny_pipe)
    with pytest.raises(gr.Error, match="steps must be a whole number of 0 or more"):
        list(work.invert(crop, -5, True, 0, "/nowhere"))
    assert not busy(work.turns)


@pytest.mark.parametrize("size", [128, 1024])
def test_requested_seconds_grow_with_the_work_and_stay_allowed(size: int) -> None:
    big = np.zeros((size, size, 3), np.uint8)
    wanted = [jobs.inversion_seconds(big, steps, True, 0, "") for steps in (0, 100, 400)]
    assert 0 < wanted[0] < wanted[1] < wanted[2] <= 110


# --- Adaptation ---


@pytest.fixture(scope="module")
def pipe(tiny_pipe: RefineStylePipeline) -> RefineStylePipeline:
    return whole(tiny_pipe)


@pytest.fixture
def run() -> AdaptRun:
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return AdaptRun(References(pictures, tuple("abcde"), (False,) * 5), steps=5, tokens=2, seed=3, step_seconds=0.1)


def test_the_domain_does_not_depend_on_the_chunks(pipe: RefineStylePipeline, run: AdaptRun) -> None:
    before = pipe.generator.fingerprint()
    work, whole_run, parts = Jobs(pipe), run, run
    whole_run = work.adapt(whole_run, 99, "/nowhere").run
    for count in (2, 1, 99):
        parts = pickle.loads(pickle.dumps(work.adapt(parts, count, "/nowhere").run))
    assert whole_run.done == parts.done == 5
    (made, _), (again, _) = work.keep(whole_run, "ink"), work.keep(parts, "ink")
    assert made.metadata["name"] == "ink"
    for name, tensor in made.state_dict().items():
        assert torch.allclose(tensor.float(), again.state_dict()[name].float(), atol=1e-5), name
    assert pipe.generator.fingerprint() == before
    assert not busy(work.turns)


def test_a_turn_goes_on_where_the_last_ended_and_an_older_state_is_built_anew(
    pipe: RefineStylePipeline, run: AdaptRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    build = pipe.adaptation
    monkeypatch.setattr(pipe, "adaptation", lambda *args, **how: built.append(1) or build(*args, **how))
    work = Jobs(pipe)
    first = work.adapt(run, 1, "/nowhere").run
    second = work.adapt(first, 1, "/nowhere").run
    assert len(built) == 1
    again = work.adapt(first, 1, "/nowhere").run
    assert len(built) == 2
    assert second.state is not None
    assert again.state is not None
    assert all(torch.equal(tensor, again.state.tensors[name]) for name, tensor in second.state.tensors.items())


def test_the_last_pictures_are_those_of_the_domain_that_is_kept(pipe: RefineStylePipeline, run: AdaptRun) -> None:
    """Not of the last step, where an earlier one was better: here one that changes nothing."""
    work = Jobs(pipe)
    run = work.adapt(run, 99, "/nowhere").run
    assert run.state is not None
    nothing = {name: t * 0 if name.startswith("best.") else t for name, t in run.state.tensors.items()}
    domain, sheet = work.keep(replace(run, state=AdaptState(nothing, run.state.numbers)), "ink")
    assert not any(bool(t.any()) for name, t in domain.state_dict().items() if name.endswith(".p"))
    assert all(np.array_equal(*pair) for pair in zip(sheet.plain, sheet.adapted, strict=True))


def test_a_chunk_shows_the_same_faces_and_the_visitors(pipe: RefineStylePipeline, run: AdaptRun, crop: Pixels) -> None:
    work = Jobs(pipe)
    (face,) = pipe.invert_crops(torch.zeros(1, 3, 32, 32), steps=1, tokens=False)
    first = work.adapt(replace(run, face=face), 1, "/nowhere")
    second = work.adapt(first.run, 1, "/nowhere")
    assert len(first.plain) == len(first.adapted) == limits.PREVIEWS + 1
    assert first.plain is second.plain  # drawn once for all turns
    assert np.array_equal(first.plain[-1], pipe.render(face, output_type="np"))
    assert all(np.array_equal(*pair) for pair in zip(first.plain, second.plain, strict=True))
    assert not np.array_equal(first.adapted[0], second.adapted[0])
    assert first.adapted[-1].shape == (32, 32, 3)
    assert second.run.step_seconds > 0


def test_no_step_is_begun_after_stop(pipe: RefineStylePipeline, run: AdaptRun, stops: Stops) -> None:
    stops.stop("adapt", request("me"))
    assert Jobs(pipe).adapt(run, 3, str(stops.flag("me", "adapt"))).run.done == 0


def test_seconds_of_an_adaptation_grow_with_steps_and_pictures(run: AdaptRun) -> None:
    def wanted(run: AdaptRun, count: int) -> int:
        return jobs.adaptation_seconds(run, count, "")

    more = replace(
        run, references=replace(run.references, names=tuple("abcdefghij"), pictures=torch.zeros(10, 3, 8, 8))
    )
    assert 0 < wanted(run, 1) < wanted(run, 100) < wanted(run, 10_000) <= 110
    assert wanted(run, 50) < wanted(more, 50)


def test_a_picture_waits_for_a_turn_and_not_for_the_job(
    pipe: RefineStylePipeline, crop: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    work = Jobs(pipe)
    running = work.invert(crop, 400, False, 0, "/nowhere")
    next(running)
    assert work.draw((1,), [RenderSpec()], {})
    assert isinstance(next(running), InversionStep)  # it goes on
    running.close()  # type: ignore[attr-defined]
