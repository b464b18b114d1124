"""The handlers of Invert, called as the plain methods they are."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import invert, pixels, told
from tiny import layer_tokens

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.admission import Stops
from space.handlers.invert_handlers import InvertHandlers
from space.jobs import Jobs
from space.session import DetectedFaces, Subject


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, stops: Stops) -> InvertHandlers:
    return InvertHandlers(Jobs(tiny_pipe), stops)


@pytest.fixture
def two(tmp_path: Path, astronaut: Image.Image) -> str:
    """Two faces, the right one 1.5 times as large."""
    head = astronaut.crop((96, 0, 352, 256))
    picture = Image.new("RGB", (640, 384), "gray")
    picture.paste(head, (0, 0))
    picture.paste(head.resize((384, 384)), (256, 0))
    picture.save(tmp_path / "two.png")
    return str(tmp_path / "two.png")


def test_align_finds_frames_and_crops_one_face(on: InvertHandlers, photo: str) -> None:
    framed, crops, note, face, found = on.align(photo, False)
    assert framed["visible"]
    assert pixels(framed["value"]).shape == (512, 512, 3)
    assert not crops["visible"]
    assert pixels(crops["value"][0][0]).shape == (32, 32, 3)
    assert note["value"] == messages.small_face(found.faces[0].width)  # 87 px of 512
    assert (face, found.photo) == (0, photo)


def test_align_lets_choose_among_several_faces(on: InvertHandlers, two: str) -> None:
    framed, crops, note, face, found = on.align(two, False)
    assert crops["visible"]
    assert len(crops["value"]) == len(found.faces) == 2
    assert found.faces[0].width > found.faces[1].width  # the largest is selected
    assert note["value"].startswith("2 faces found")
    event: Any = SimpleNamespace(index=1)
    chosen, again = on.choose(two, found, event)
    assert chosen == 1
    assert not np.array_equal(pixels(again), pixels(framed["value"]))
    assert on.choose("another photo", found, event)[0] == 0
    one, other = (invert(on, two, face=face, detected=found)[-1][3].crop for face in (0, 1))
    assert not np.array_equal(one, other)


def test_align_of_a_crop_and_of_nothing(on: InvertHandlers, photo: str) -> None:
    framed, crops, note, _, found = on.align(photo, True)
    assert found is None
    assert pixels(framed["value"]).shape == (32, 32, 3)
    assert note["value"] == "The central square is used."
    assert not any(part["visible"] for part in on.align(None, False)[:3])
    assert len(crops["value"]) == 1


def test_inversion_tells_where_it_is_and_what_came_out(on: InvertHandlers, photo: str) -> None:
    updates = invert(on, photo)
    assert updates[0][2] == "Starting, 4 steps"
    pair, stages, note, subject, edits = updates[-1]
    assert edits == {}  # of the face before
    assert np.array_equal(pixels(pair[0]), subject.crop)
    assert np.array_equal(pixels(pair[1]), subject.reconstruction)
    assert pixels(pair[0]).shape == pixels(pair[1]).shape == (32, 32, 3)
    assert [caption.split(" ")[0] for _, caption in stages] == ["photo", "w+", "tokens"]
    assert re.match(r"distance 0\.\d{3} \(0 is the photo itself; st-lpips-alex\)", note)
    assert "4 steps" in note
    assert note.endswith("seed 0")


def test_the_same_seed_gives_the_same_picture_twice(on: InvertHandlers, photo: str) -> None:
    first, again, other = (invert(on, photo, seed=seed)[-1][3] for seed in (3, 3, 4))
    assert torch.equal(first.inversion.w_plus, again.inversion.w_plus)
    assert np.array_equal(first.reconstruction, again.reconstruction)
    assert not torch.equal(first.inversion.w_plus, other.inversion.w_plus)


def test_w_plus_alone(on: InvertHandlers, photo: str) -> None:
    _, stages, _, subject, _ = invert(on, photo, tokens=False)[-1]
    assert subject.inversion.tokens is None
    assert len(stages) == 2


def test_faces_found_for_another_photo_are_not_used(on: InvertHandlers, photo: str, two: str) -> None:
    found = on.align(two, False)[4]
    assert np.array_equal(invert(on, photo, detected=found)[-1][3].crop, invert(on, photo)[-1][3].crop)


def test_steps_are_limited_by_the_server(on: InvertHandlers, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_STEPS", 2)
    assert "2 steps" in invert(on, photo, steps=10**9)[-1][2]
    assert "0 steps" in invert(on, photo, steps=-5)[-1][2]
    empty = invert(on, photo, steps=None, seed=None, face=None)[-1][2]  # as a field is that was cleared
    assert "0 steps" in empty
    assert empty.endswith("seed 0")


@pytest.mark.parametrize(
    ("value", "number"),
    [(None, 2), (0, 2), (5.7, 5), (1e300, 9), (float("inf"), 9), (float("-inf"), 2), (float("nan"), 2)],
)
def test_every_number_is_brought_into_its_bounds(value: float | None, number: int) -> None:
    assert limits.within(value, 2, 9) == number
    assert 0 <= limits.seed(value) < 2**31


def test_stop_before_the_start_says_how_far_it_came(on: InvertHandlers, photo: str) -> None:
    request: Any = SimpleNamespace(session_hash="me")
    assert on.stop(request).startswith("Stopping")
    assert messages.stopped(1, 4) in invert(on, photo)[-1][2]
    assert "4 steps" in invert(on, photo, session="another")[-1][2]


def test_mistakes_are_told_word_for_word(on: InvertHandlers, photo: str, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "grey.png")
    with told("Add a photo first, or pick an example."):
        invert(on, None)
    with told("No face found. Use a frontal photo with the whole head, or tick 'already aligned'."):
        invert(on, str(tmp_path / "grey.png"))
    with told("The photo has fewer faces than that."):
        invert(on, photo, face=7)


def test_unexpected_errors_are_logged_and_told(
    on: InvertHandlers, photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("<b>a secret</b>")

    monkeypatch.setattr(on.jobs.pipe, "invert", broken, raising=False)
    with told(messages.UNEXPECTED):
        invert(on, photo)
    assert "a handler failed" in caplog.text

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(on.jobs.pipe, "invert", full, raising=False)
    with told(messages.OUT_OF_MEMORY):
        invert(on, photo)


def test_a_face_of_1024_pixels_fits_into_a_session() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(128, 12, (64, 64, 3)).repeat(16, 0).repeat(16, 1) + rng.normal(0, 1, (1024, 1024, 3))
    crop = noisy.clip(0, 255).astype(np.uint8)
    tokens = TokenSet({f"b{n}.conv1": layer_tokens(torch.Generator(), 8, 512, 512, 3) for n in range(17)})
    subject = Subject.of(Inversion(torch.zeros(18, 512), tokens, torch.from_numpy(crop)), crop, crop)
    assert subject.inversion.crop is None
    assert np.array_equal(subject.crop, crop)
    assert np.array_equal(subject.reconstruction, crop)


def test_a_session_has_a_size(on: InvertHandlers, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invert(on, photo)
    monkeypatch.setattr(limits, "SUBJECT_BYTES", 100)
    with told(messages.TOO_LARGE_FOR_SESSION):
        invert(on, photo)


def test_sessions_are_values(on: InvertHandlers, photo: str) -> None:
    found, subject = on.align(photo, False)[4], invert(on, photo)[-1][3]
    assert isinstance(found, DetectedFaces)
    assert not any(isinstance(value, torch.nn.Module) for value in (*vars(found).values(), *vars(subject).values()))
