"""The handlers of Edit, called as the plain methods they are."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import invert, pixels, told

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.admission import Stops
from space.attributes import grouped
from space.handlers.edit_handlers import EditHandlers
from space.handlers.invert_handlers import InvertHandlers
from space.jobs import Jobs
from space.session import Subject
from space.tokenfiles import domain_file, inversion_file


@pytest.fixture
def inverting(tiny_pipe: RefineStylePipeline, stops: Stops) -> InvertHandlers:
    return InvertHandlers(Jobs(tiny_pipe), stops)


@pytest.fixture
def on(inverting: InvertHandlers) -> EditHandlers:
    return EditHandlers(inverting.jobs)


def test_edits(on: EditHandlers, inverting: InvertHandlers, photo: str) -> None:
    subject: Subject = invert(inverting, photo)[-1][3]
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


def test_a_face_travels_as_a_file_to_another_session(
    on: EditHandlers, inverting: InvertHandlers, photo: str, tmp_path: Path
) -> None:
    subject: Subject = invert(inverting, photo)[-1][3]
    assert not list(tmp_path.rglob("*.safetensors"))  # the page holds the face itself
    first, *_, last = inverting.invert(photo, False, 0, 4, True, 0, None, SimpleNamespace(session_hash="me"))  # type: ignore
    assert first[3] == gr.skip()
    file = last[3]
    assert torch.equal(last[4].inversion.w_plus, subject.inversion.w_plus)
    (before, after), download, kept = on.edit({"smile": 1.5}, "photo", None, file)
    assert np.array_equal(pixels(before), subject.reconstruction)  # the file holds no photo
    assert np.array_equal(pixels(after), pixels(on.edit({"smile": 1.5}, "photo", subject)[1]))
    assert np.array_equal(pixels(download), pixels(after))
    assert kept == gr.skip()  # these edits are of no face of the session
    other = invert(inverting, photo, seed=5)[-1][3]
    assert np.array_equal(pixels(on.edit({"smile": 1.5}, "photo", other, file)[1]), pixels(after))
    assert np.array_equal(pixels(on.edit(None, "photo", None, file)[1]), subject.reconstruction)


def test_files_of_faces_are_checked_like_those_in_share(on: EditHandlers, tmp_path: Path) -> None:
    config, base = on.jobs.pipe.generator.config, on.jobs.pipe.fingerprint
    with told(messages.NOT_A_FACE):
        on.edit({}, "photo", None, domain_file(TokenSet({}, base=base), "ink"))
    with told("The inversion was made for another generator"):
        on.edit({}, "photo", None, inversion_file(Inversion(torch.zeros(3, 5), base=base)))
    with told(messages.OUT_OF_RANGE):
        on.edit({}, "photo", None, inversion_file(Inversion(torch.full((config.num_ws, config.w_dim), 1e9))))
    (tmp_path / "face.pt").write_bytes(b"anything")
    with told(messages.NOT_SAFETENSORS):
        on.edit({}, "photo", None, str(tmp_path / "face.pt"))
    with told("This model has no attribute 'smle'."):  # before the file is read
        on.edit({"smle": 1}, "photo", None, str(tmp_path / "face.pt"))


def test_without_a_face_there_is_nothing_to_edit(on: EditHandlers) -> None:
    with told("There is no face to edit yet."):
        on.edit({}, "reconstruction", None)


def test_reset_and_strip(on: EditHandlers, inverting: InvertHandlers, photo: str) -> None:
    subject: Subject = invert(inverting, photo)[-1][3]
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
def test_edits_of_api_clients_are_checked(
    on: EditHandlers, inverting: InvertHandlers, photo: str, edits: Any, message: str
) -> None:
    subject = invert(inverting, photo, steps=0)[-1][3]
    with told(message):
        on.edit(edits, "photo", subject)


def test_entering_the_editor(on: EditHandlers, inverting: InvertHandlers, photo: str) -> None:
    subject = invert(inverting, photo)[-1][3]
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


def test_films_run_there_and_back(on: EditHandlers, inverting: InvertHandlers, photo: str) -> None:
    subject = invert(inverting, photo, steps=0)[-1][3]
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


def test_nothing_is_written_elsewhere(
    on: EditHandlers, inverting: InvertHandlers, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    subject = invert(inverting, photo)[-1][3]
    on.edit({"smile": 1}, "photo", subject)
    inverting.align(photo, False)
    assert not list((tmp_path / "work").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"work", "cache", "photo.png"}


def test_directions_are_grouped_in_a_known_order() -> None:
    groups = grouped(["yaw", "sparkle", "smile", "mouth_open"])
    assert {group: list(members) for group, members in groups.items()} == {
        "Expression": ["smile", "mouth_open"],
        "Pose and light": ["yaw"],
        "More": ["sparkle"],
    }
    assert groups["More"]["sparkle"].label == "Sparkle"
