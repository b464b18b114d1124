"""The demo's handlers, called as the plain methods they are."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import layer_tokens

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.attributes import grouped
from space.handlers.face_handlers import Handlers
from space.images import Pixels
from space.jobs import Jobs, Stops
from space.session import Found, Subject
from space.tokenfiles import domain_file, inversion_file


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return Handlers(Jobs(tiny_pipe), Stops())


@pytest.fixture
def photo(tmp_path: Path, astronaut: Image.Image) -> str:
    astronaut.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def two(tmp_path: Path, astronaut: Image.Image) -> str:
    """Two faces, the right one 1.5 times as large."""
    head = astronaut.crop((96, 0, 352, 256))
    picture = Image.new("RGB", (640, 384), "gray")
    picture.paste(head, (0, 0))
    picture.paste(head.resize((384, 384)), (256, 0))
    picture.save(tmp_path / "two.png")
    return str(tmp_path / "two.png")


def invert(on: Handlers, photo: str | None, session: str = "me", **other: Any) -> list[Any]:
    values: dict[str, Any] = {"aligned": False, "face": 0, "steps": 4, "tokens": True, "seed": 0, "found": None}
    return list(on.invert_live(photo, **(values | other), request=SimpleNamespace(session_hash=session)))  # type: ignore[arg-type]


def pixels(file: str) -> Pixels:
    with Image.open(file) as picture:
        return np.array(picture)


def told(message: str) -> Any:
    return pytest.raises(gr.Error, match=re.escape(message))


def test_align_finds_frames_and_crops_one_face(on: Handlers, photo: str) -> None:
    framed, crops, note, face, found = on.align(photo, False)
    assert framed["visible"]
    assert pixels(framed["value"]).shape == (512, 512, 3)
    assert not crops["visible"]
    assert pixels(crops["value"][0][0]).shape == (32, 32, 3)
    assert note["value"] == messages.small_face(found.faces[0].width)  # 87 px of 512
    assert (face, found.photo) == (0, photo)


def test_align_lets_choose_among_several_faces(on: Handlers, two: str) -> None:
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
    one, other = (invert(on, two, face=face, found=found)[-1][3].crop for face in (0, 1))
    assert not np.array_equal(one, other)


def test_align_of_a_crop_and_of_nothing(on: Handlers, photo: str) -> None:
    framed, crops, note, _, found = on.align(photo, True)
    assert found is None
    assert pixels(framed["value"]).shape == (32, 32, 3)
    assert note["value"] == "The central square is used."
    assert not any(part["visible"] for part in on.align(None, False)[:3])
    assert len(crops["value"]) == 1


def test_inversion_tells_where_it_is_and_what_came_out(on: Handlers, photo: str) -> None:
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


def test_the_same_seed_gives_the_same_picture_twice(on: Handlers, photo: str) -> None:
    first, again, other = (invert(on, photo, seed=seed)[-1][3] for seed in (3, 3, 4))
    assert torch.equal(first.inversion.w_plus, again.inversion.w_plus)
    assert np.array_equal(first.reconstruction, again.reconstruction)
    assert not torch.equal(first.inversion.w_plus, other.inversion.w_plus)


def test_w_plus_alone(on: Handlers, photo: str) -> None:
    _, stages, _, subject, _ = invert(on, photo, tokens=False)[-1]
    assert subject.inversion.tokens is None
    assert len(stages) == 2


def test_faces_found_for_another_photo_are_not_used(on: Handlers, photo: str, two: str) -> None:
    found = on.align(two, False)[4]
    assert np.array_equal(invert(on, photo, found=found)[-1][3].crop, invert(on, photo)[-1][3].crop)


def test_steps_are_limited_by_the_server(on: Handlers, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_stop_before_the_start_says_how_far_it_came(on: Handlers, photo: str) -> None:
    request: Any = SimpleNamespace(session_hash="me")
    assert on.stop(request).startswith("Stopping")
    assert messages.stopped(1, 4) in invert(on, photo)[-1][2]
    assert "4 steps" in invert(on, photo, session="another")[-1][2]


def test_mistakes_are_told_word_for_word(on: Handlers, photo: str, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "grey.png")
    with told("Add a photo first, or pick an example."):
        invert(on, None)
    with told("No face found. Use a frontal photo with the whole head, or tick 'already aligned'."):
        invert(on, str(tmp_path / "grey.png"))
    with told("The photo has fewer faces than that."):
        invert(on, photo, face=7)
    with told("There is no face to edit yet."):
        on.edit({}, "reconstruction", None)


def test_unexpected_errors_are_logged_and_told(
    on: Handlers, photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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


def test_edits(on: Handlers, photo: str) -> None:
    subject: Subject = invert(on, photo)[-1][3]
    (before, after), file, kept = on.edit({}, "reconstruction", subject)
    assert np.array_equal(pixels(before), subject.reconstruction)
    assert np.array_equal(pixels(after), subject.reconstruction)  # strength 0 is the reconstruction
    (before, after), file, kept = on.edit({"smile": 1.5, "age": 0}, "photo", subject)
    assert kept == {"smile": 1.5}
    assert np.array_equal(pixels(before), subject.crop)
    assert not np.array_equal(pixels(after), subject.reconstruction)
    assert os.path.basename(file) == "refinestyle-edit.png"
    assert np.array_equal(pixels(file), pixels(after))
    strengths = [1.5 if name == "smile" else 0 for name in on.directions]
    assert np.array_equal(pixels(on.edit_live("photo", subject, *strengths)[1]), pixels(file))


def test_a_face_travels_as_a_file_to_another_session(on: Handlers, photo: str, tmp_path: Path) -> None:
    subject: Subject = invert(on, photo)[-1][3]
    assert not list(tmp_path.rglob("*.safetensors"))  # the page holds the face itself
    first, *_, last = on.invert(photo, False, 0, 4, True, 0, None, SimpleNamespace(session_hash="me"))  # type: ignore
    assert first[3] == gr.skip()
    file = last[3]
    assert torch.equal(last[4].inversion.w_plus, subject.inversion.w_plus)
    (before, after), download, kept = on.edit({"smile": 1.5}, "photo", None, file)
    assert np.array_equal(pixels(before), subject.reconstruction)  # the file holds no photo
    assert np.array_equal(pixels(after), pixels(on.edit({"smile": 1.5}, "photo", subject)[1]))
    assert np.array_equal(pixels(download), pixels(after))
    assert kept == gr.skip()  # these edits are of no face of the session
    other = invert(on, photo, seed=5)[-1][3]
    assert np.array_equal(pixels(on.edit({"smile": 1.5}, "photo", other, file)[1]), pixels(after))
    assert np.array_equal(pixels(on.edit(None, "photo", None, file)[1]), subject.reconstruction)


def test_files_of_faces_are_checked_like_those_in_share(on: Handlers, tmp_path: Path) -> None:
    config, base = on.jobs.pipe.generator.config, on.jobs.pipe.fingerprint
    with told(messages.NOT_A_FACE):
        on.edit({}, "photo", None, domain_file(TokenSet({}, base=base), "ink"))
    with told("The inversion was made for another generator"):
        on.edit({}, "photo", None, inversion_file(Inversion(torch.zeros(3, 5), base=base)))
    with told(messages.OUT_OF_RANGE):
        on.edit({}, "photo", None, inversion_file(Inversion(torch.full((config.num_layers, config.w_dim), 1e9))))
    (tmp_path / "face.pt").write_bytes(b"anything")
    with told(messages.NOT_SAFETENSORS):
        on.edit({}, "photo", None, str(tmp_path / "face.pt"))
    with told("This model has no attribute 'smle'."):  # before the file is read
        on.edit({"smle": 1}, "photo", None, str(tmp_path / "face.pt"))


def test_reset_and_strip(on: Handlers, photo: str) -> None:
    subject: Subject = invert(on, photo)[-1][3]
    (before, after), file, kept, *zeros = on.reset("reconstruction", subject)
    assert kept == {}
    assert zeros == [0] * len(on.directions)
    assert np.array_equal(pixels(after), subject.reconstruction)
    assert on.reset("reconstruction", None)[3:] == tuple(zeros)
    strip = on.strip("smile", subject)
    assert [caption for _, caption in strip] == ["-3.0", "-2.0", "-1.0", "+0.0", "+1.0", "+2.0", "+3.0"]
    assert np.array_equal(pixels(strip[3][0]), subject.reconstruction)
    assert np.array_equal(pixels(strip[5][0]), pixels(on.edit({"smile": 2.0}, "photo", subject)[1]))


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"smle": 1}, "This model has no attribute 'smle'. It has: "),
        ({"<img>": 1}, "This model has no attribute '&lt;img&gt;'."),
        ({"smile": "much"}, "The strength of 'smile' must be a number from -10 to 10."),
        ({"smile": float("nan")}, "The strength of 'smile' must be a number from -10 to 10."),
        ({"smile": 99}, "The strength of 'smile' must be a number from -10 to 10."),
        ([1, 2], "Give the edits as strengths by attribute"),
    ],
)
def test_edits_of_api_clients_are_checked(on: Handlers, photo: str, edits: Any, message: str) -> None:
    subject = invert(on, photo, steps=0)[-1][3]
    with told(message):
        on.edit(edits, "photo", subject)


def test_entering_the_editor(on: Handlers, photo: str) -> None:
    subject = invert(on, photo)[-1][3]
    (before, after), file, hint, *sliders = on.enter("reconstruction", subject, {})
    assert before == after
    assert file["interactive"]
    assert not hint["visible"]
    assert all(slider["value"] == 0 and slider["interactive"] for slider in sliders)
    assert np.array_equal(pixels(on.enter("photo", subject, {})[0][0]), subject.crop)  # as it was chosen before
    assert on.enter("photo", None, {})[2]["value"] == messages.NOT_INVERTED
    assert (
        on.enter("photo", subject, {on.directions[0]: 1.5})[3]["value"] == 1.5
    )  # the face is the one that was edited


def test_films_run_there_and_back(on: Handlers, photo: str) -> None:
    subject = invert(on, photo, steps=0)[-1][3]
    shown, offered = on.film("smile", subject)
    assert shown["value"] == offered["value"]
    with Image.open(shown["value"]) as film:
        assert (film.format, film.n_frames, film.size) == ("WEBP", 2 * limits.FILM - 2, (32, 32))
        film.seek(limits.FILM)
        there = np.asarray(film.convert("RGB")).astype(int)
        film.seek(limits.FILM - 2)
        assert np.abs(there - np.asarray(film.convert("RGB"))).mean() < 8  # of 255: WebP is lossy
        film.seek(0)
        assert np.abs(there - np.asarray(film.convert("RGB"))).mean() > 16
    with told("This model has no attribute 'smle'."):
        on.film("smle", subject)


def test_a_face_of_1024_pixels_fits_into_a_session() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(128, 12, (64, 64, 3)).repeat(16, 0).repeat(16, 1) + rng.normal(0, 1, (1024, 1024, 3))
    crop = noisy.clip(0, 255).astype(np.uint8)
    tokens = TokenSet({f"b{n}.conv1": layer_tokens(torch.Generator(), 8, 512, 512, 3) for n in range(17)})
    subject = Subject.of(Inversion(torch.zeros(18, 512), tokens, torch.from_numpy(crop)), crop, crop)
    assert subject.inversion.crop is None
    assert np.array_equal(subject.crop, crop)
    assert np.array_equal(subject.reconstruction, crop)


def test_a_session_has_a_size(on: Handlers, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invert(on, photo)
    monkeypatch.setattr(limits, "SUBJECT_BYTES", 100)
    with told(messages.TOO_LARGE_FOR_SESSION):
        invert(on, photo)


def test_nothing_is_written_elsewhere(
    on: Handlers, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    subject = invert(on, photo)[-1][3]
    on.edit({"smile": 1}, "photo", subject)
    on.align(photo, False)
    assert not list((tmp_path / "work").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"work", "cache", "photo.png"}


def test_sessions_are_values(on: Handlers, photo: str) -> None:
    found, subject = on.align(photo, False)[4], invert(on, photo)[-1][3]
    assert isinstance(found, Found)
    assert not any(isinstance(value, torch.nn.Module) for value in (*vars(found).values(), *vars(subject).values()))


def test_directions_are_grouped_in_a_known_order() -> None:
    groups = grouped(["yaw", "sparkle", "smile", "mouth_open"])
    assert {group: list(members) for group, members in groups.items()} == {
        "Expression": ["smile", "mouth_open"],
        "Pose and light": ["yaw"],
        "More": ["sparkle"],
    }
    assert groups["More"]["sparkle"].label == "Sparkle"
