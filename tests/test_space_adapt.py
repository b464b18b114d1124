"""Adapt, called as the plain methods it consists of."""

from __future__ import annotations

import functools
import re
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import busy, domain, pixels, request, style, told, visitor, whole

from refinestyle_hub.adapt import load_references
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import images, limits, messages
from space.admission import Stops
from space.handlers.adapt_handlers import AdaptHandlers
from space.jobs import Jobs
from space.session import Look, Session, Subject


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdaptHandlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(limits, "ADAPT_STEPS", (1, 1000))
    # Looking for faces where none are takes long; one test does it.
    monkeypatch.setattr(images, "load_references", functools.partial(load_references, align="none"))
    return AdaptHandlers(Jobs(whole(tiny_pipe)), Stops())


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    return style(tmp_path)


def adapt(on: AdaptHandlers, pictures: list[str] | None, **other: Any) -> list[Any]:
    values: dict[str, Any] = {
        "name": "Blue ink!", "rights": True, "steps": 2, "tokens": 2, "seed": 0, "session": visitor(),
    }  # fmt: skip
    return list(on.adapt(pictures, **(values | other), request=request()))


def test_pictures_become_a_domain(on: AdaptHandlers, pictures: list[str], tmp_path: Path) -> None:
    before, session = on.jobs.pipe.generator.fingerprint(), visitor()
    *earlier, (preview, note, file, kept) = adapt(on, pictures, session=session)
    shelf = session.shelf
    assert earlier[0][1] == "Starting. Pictures: 5"
    assert kept is session
    assert list(shelf.domains) == ["Blue-ink"]
    assert note.startswith("**Blue-ink** is ready, and on the canvas · 2 steps")
    assert session.look == Look(0, {}, {"Blue-ink": 1.0})
    assert pixels(preview).shape == (2 * 32 + 2, limits.PREVIEWS * 34 - 2, 3)  # two rows, 2 pixels apart
    assert Path(file).name == "Blue-ink.safetensors"
    saved = TokenSet.from_pretrained(file)
    assert saved.metadata["pictures"] == 5
    assert saved.base is not None
    assert torch.equal(saved.state_dict()["b8.conv0.p"], shelf.domains["Blue-ink"].state_dict()["b8.conv0.p"])
    assert on.jobs.pipe.generator.fingerprint() == before


def test_progress_and_the_visitors_face_are_shown(
    on: AdaptHandlers, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)  # a step is a chunk
    config = on.jobs.pipe.generator.config
    face = Inversion(torch.zeros(config.num_ws, config.w_dim))
    session = Session(Look(Subject.of(face, np.zeros((32, 32, 3), np.uint8))))
    updates = adapt(on, pictures, steps=3, session=session)
    assert [re.match(r"step \d+/3 · [\d.]+ s a step", note)[0][:8] for _, note, *_ in updates[1:-1]] == [  # type: ignore
        "step 1/3",
        "step 2/3",
    ]
    preview = pixels(updates[1][0])
    assert preview.shape[1] == (limits.PREVIEWS + 1) * 34 - 2
    assert np.array_equal(preview[:32, -32:], on.jobs.pipe.render(face, output_type="np"))  # above, without the domain


def test_stop_keeps_the_best_so_far(on: AdaptHandlers, pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)
    session = visitor()
    running = on.adapt(pictures, "ink", True, 500, 2, 0, session, request())
    next(running)
    on.stops.stop("adapt", request("another"))
    next(running)
    on.stops.stop("adapt", request())
    *_, (_, note, file, *_) = running
    assert re.search(r"stopped at [1-3]/500", note)
    assert Path(file).exists()
    assert list(session.shelf.domains) == ["ink-2"]  # the model has an "ink" of its own
    assert not busy(on.jobs.turns)


def test_stopped_before_the_first_step_nothing_is_kept(on: AdaptHandlers, pictures: list[str]) -> None:
    on.stops.stop("adapt", request())
    session = visitor()
    assert adapt(on, pictures, session=session)[-1][1] == "stopped at 0/2: nothing is kept."
    assert not session.shelf.domains


def test_what_was_reached_outlives_an_error(
    on: AdaptHandlers, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)  # a step is a chunk
    chunk = on.jobs.adapt
    calls: list[Any] = []

    def used_up(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > 2:
            raise gr.Error("You have exceeded your GPU quota.")
        return chunk(*args)

    on.jobs.adapt = used_up
    session = visitor()
    _, note, file, *_ = adapt(on, pictures, steps=9, session=session)[-1]
    assert "stopped at 2/9" in note
    assert "You have exceeded your GPU quota." in note
    assert TokenSet.from_pretrained(file).metadata["planned_steps"] == 9
    assert list(session.shelf.domains) == ["Blue-ink"]
    with told("You have exceeded your GPU quota."):  # nothing was reached
        adapt(on, pictures)


def test_the_clock_sets_a_limit(on: AdaptHandlers, pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(limits, "ADAPT_SECONDS", 0.0)
    assert "stopped at 1/2" in adapt(on, pictures, steps=2)[-1][1]


def test_a_closed_page_leaves_nothing_running(on: AdaptHandlers, pictures: list[str]) -> None:
    running = on.adapt(pictures, "ink", True, 500, 2, 0, visitor(), request())
    next(running)
    running.close()  # type: ignore[attr-defined]  # as Gradio does
    assert not busy(on.jobs.turns)
    assert adapt(on, pictures)[-1][1].startswith("**Blue-ink** is ready")


def test_two_runs_take_turns(on: AdaptHandlers, pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)
    session = visitor()
    both = [on.adapt(pictures, name, True, 3, 2, 0, session, request(name)) for name in ("a", "b")]
    for running in both * 2:
        next(running)  # the start, then a chunk, of one and of the other
    for running in both:
        list(running)
    assert list(session.shelf.domains) == ["a", "b"]
    assert torch.equal(
        *[tokens.state_dict()["b8.conv0.p"] for tokens in session.shelf.domains.values()]
    )  # undisturbed


def test_bad_pictures_are_named_and_the_others_used(on: AdaptHandlers, pictures: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes <b>.png").write_text("no picture")
    mixed = [*pictures, str(tmp_path / "notes <b>.png")]
    squares, note = on.check(mixed)
    assert len(squares["value"]) == 5
    assert note["value"].startswith("Pictures that can be used: 5 of 6. No face was found in 5")
    assert "**notes &lt;b&gt;.png** was left out. This is a text file, not a picture." in note["value"]
    assert "was left out" in adapt(on, mixed)[-1][1]
    assert "Only 1 picture. It takes 5 or more" in on.check(pictures[:1])[1]["value"]
    assert not any(part["visible"] for part in on.check(None))
    assert on.check(on.example())[1]["value"].startswith("Pictures that can be used: 5 of 5.")
    with told("notes &lt;b&gt;.png was left out."):
        on.check(mixed[-1:])


def test_mistakes_are_told(on: AdaptHandlers, pictures: list[str]) -> None:
    with told(messages.NO_PICTURES):
        adapt(on, None)
    for rights in (False, "  ", "no"):
        with told(messages.NO_RIGHTS):
            adapt(on, pictures, rights=rights)
    with told("A domain is made from 1 to 20 pictures; you gave 25."):
        on.check(pictures * 5)
    session = visitor()
    for place in range(limits.SHELF):
        session.shelf.add("ink", domain(place))
    with told(messages.SHELF_FULL):
        adapt(on, pictures, session=session)


def test_a_turned_photo_and_a_face_are_used_upright(
    on: AdaptHandlers, tmp_path: Path, astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "load_references", load_references)
    exif = Image.Exif()
    exif[0x0112] = 6
    astronaut.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    astronaut.save(tmp_path / "upright.png")
    turned, upright = (images.read_references([str(tmp_path / f"{n}.png")], 32)[0] for n in ("turned", "upright"))
    assert turned.aligned == upright.aligned == (True,)
    assert turned.names == ("turned.png",)
    assert torch.equal(turned.pictures, upright.pictures)


def test_the_estimate_grows_and_learns(on: AdaptHandlers, pictures: list[str]) -> None:
    on.jobs.step_seconds = 0.5
    assert on.default_steps == limits.DEFAULT_ADAPT_STEPS["cpu"]
    assert on.estimate(100).startswith("About 50 s on this machine")
    assert on.estimate(1000).startswith("About 8 minutes")
    began = time.monotonic()
    adapt(on, pictures)
    assert 0 < on.jobs.step_seconds <= time.monotonic() - began
