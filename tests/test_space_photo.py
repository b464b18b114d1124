"""The handlers of Photo, called as the plain methods they are."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import alike, invert, pixels, reading, request, seen, told, visitor
from tiny import layer_tokens

from refinestyle_hub.faces.identity import Likeness
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.admission import Stops
from space.handlers import photo_handlers
from space.handlers.canvas_handlers import CanvasHandlers
from space.handlers.photo_handlers import PhotoHandlers
from space.jobs import Jobs
from space.session import Look, Session, Subject


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, stops: Stops, monkeypatch: pytest.MonkeyPatch) -> PhotoHandlers:
    # Looking for a face in what a random generator draws takes long, and there is none.
    monkeypatch.setattr(photo_handlers, "likeness", lambda a, b: Likeness(0.32, 0.01))
    return PhotoHandlers(CanvasHandlers(Jobs(tiny_pipe), None), stops)


@pytest.fixture
def two(tmp_path: Path, astronaut: Image.Image) -> str:
    """Two faces, the right one 1.5 times as large."""
    head = astronaut.crop((96, 0, 352, 256))
    picture = Image.new("RGB", (640, 384), "gray")
    picture.paste(head, (0, 0))
    picture.paste(head.resize((384, 384)), (256, 0))
    picture.save(tmp_path / "two.png")
    return str(tmp_path / "two.png")


def subject_of(session: Session) -> Subject:
    assert session.look.subject is not None
    return session.look.subject


# --- The faces of a photo ---


def test_align_finds_frames_and_crops_one_face(on: PhotoHandlers, photo: str) -> None:
    framed, crops, note, face, found = on.align(photo, False)
    assert framed["visible"]
    assert pixels(framed["value"]).shape == (512, 512, 3)
    assert not crops["visible"]
    assert pixels(crops["value"][0][0]).shape == (32, 32, 3)
    assert note["value"] == messages.SMALL_FACE.format(width=found[photo][0].width)  # 87 px of 512
    assert (face, *found) == (0, photo)


def test_align_lets_choose_among_several_faces(on: PhotoHandlers, two: str) -> None:
    _, crops, note, _, found = on.align(two, False)
    assert crops["visible"]
    assert len(crops["value"]) == len(found[two]) == 2
    assert found[two][0].width > found[two][1].width  # the largest is selected
    assert note["value"].startswith("2 faces found")
    event: Any = SimpleNamespace(index=1)
    assert on.choose(event) == 1
    one, other = (subject_of(invert(on, two, face=face, detected=found)[0]).crop for face in (0, 1))
    assert not np.array_equal(one, other)


def test_align_of_a_crop_and_of_nothing(on: PhotoHandlers, photo: str) -> None:
    framed, crops, note, _, found = on.align(photo, True)
    assert found == {}
    assert pixels(framed["value"]).shape == (32, 32, 3)
    assert note["value"] == "The central square is used."
    assert not any(part["visible"] for part in on.align(None, False)[:3])
    assert len(crops["value"]) == 1


def test_faces_found_for_another_photo_are_not_used(on: PhotoHandlers, photo: str, two: str) -> None:
    found = on.align(two, False)[4]
    with_them, without = invert(on, photo, detected=found)[0], invert(on, photo)[0]
    assert np.array_equal(subject_of(with_them).crop, subject_of(without).crop)


def test_of_a_photo_that_has_left_its_box_nothing_is_shown_or_told(on: PhotoHandlers, photo: str, two: str) -> None:
    session, nothing = visitor(), (gr.skip(),) * 5
    Image.new("RGB", (300, 300), "gray").save(two)
    assert on.put(session, two) == on.put(session, photo) == gr.skip()
    assert on.look(session, two, False) == nothing  # no message: there is no face in it
    assert on.begin(session, photo) == (gr.skip(), gr.skip())  # it is still looked at
    assert on.panel(session)[0] == photo
    assert list(on.look(session, photo, False)[4]) == [photo]
    assert on.begin(session, photo)[0] == 1
    on.put(session, two)
    with told(messages.NO_FACE):
        on.look(session, two, False)
    session.begun = session.wanted
    assert on.panel(session)[0] is None
    on.put(session, None)
    assert on.look(session, photo, False) == nothing
    assert not any(part["visible"] for part in on.look(session, None, False)[:3])


# --- The face on the canvas ---


def test_a_photo_that_leaves_its_box_is_given_up_until_there_is_a_likeness(on: PhotoHandlers, photo: str) -> None:
    session = visitor()
    running = reading(on, session, photo)
    next(running)
    assert on.put(session, None) == {"progress": {"reading": 2}}
    assert [view for view, *_ in running] == [{"progress": {"reading": 1}}]
    assert session.look == Look(0)
    running = reading(on, session, photo)
    next(running), next(running)
    assert on.put(session, None) == gr.skip()  # what was reached is kept: its event "clear" presses Stop
    assert len([view for view, *_ in running if "before" in view]) == 1
    assert subject_of(session).found


def test_a_likeness_comes_first_and_closer_ones_while_one_watches(
    on: PhotoHandlers, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    session, views = invert(on, photo)
    first, likeness, *steps, comparing, done, gone = views
    assert list(first) == ["before"]
    assert alike(seen(first["before"]), subject_of(session).crop)
    assert likeness["progress"] == {"reading": 1, "step": 0, "steps": 4}
    assert seen(likeness["after"]).shape == (32, 32, 3)
    assert (likeness["undo"], likeness["plain"]) == (True, True)  # back to the face before, while this one gets closer
    assert [view["progress"]["step"] for view in steps] == [1, 2, 3, 4]
    assert all("after" in view for view in steps)
    assert comparing == {"progress": {"reading": 1, "text": "Comparing with the photo"}}
    assert "progress" not in done
    assert gone == {"progress": {"reading": 1}}
    assert alike(seen(done["after"]), on.jobs.pipe.render(subject_of(session).inversion, output_type="np"))
    assert session.look == Look(subject_of(session))
    report = subject_of(session).inversion.report
    assert (report["identity"], report["landmarks"]) == (0.32, 0.01)
    assert len(session.past) == 1  # the likeness and what became of it are one look
    assert on.canvas.draw(session)[0] == gr.skip()  # it is there already


def test_who_edits_meanwhile_is_not_interrupted(
    on: PhotoHandlers, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    session = visitor()
    running = reading(on, session, photo)
    next(running)
    _, *controls = next(running)
    assert controls == list(on.canvas.controls(session))
    first = session.look.source
    assert "A first likeness" in on.canvas.view(session)["note"]
    session.put(Look(first, {"smile": 1.0}))
    views = [view for view, *_ in running]
    assert not any("after" in view for view in views)  # the picture is that of the edit
    assert session.look == Look(subject_of(session), {"smile": 1.0})
    assert session.look.source is not first
    assert session.past[-1] == Look(subject_of(session))  # undo leads to the better face as well


def test_another_photo_ends_the_reading_of_the_first(
    on: PhotoHandlers, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.0)
    session = visitor()
    running = reading(on, session, photo, steps=limits.MAX_STEPS)
    for _ in range(3):
        next(running)
    another = reading(on, session, photo)
    assert [view for view, *_ in running] == [{"progress": {"reading": 1}}]  # no bar is left behind
    steps: list[int] = []
    on.jobs.turns.give_way = lambda: steps.append(1)  # type: ignore[method-assign]
    views = [view for view, *_ in another]
    assert len(steps) <= 4 + 2  # the first has ended, with the step that it was in
    assert all(view["progress"]["reading"] == 2 for view in views if "progress" in view)
    assert session.past == [Look(0)]  # its first likeness was given up with it


def test_who_turns_to_another_face_is_left_alone(on: PhotoHandlers, photo: str) -> None:
    session = visitor()
    running = reading(on, session, photo, steps=limits.MAX_STEPS)
    next(running)
    on.canvas.meet(session, 5)
    assert [view for view, *_ in running] == [{"progress": {"reading": 1}}]
    assert session.look == Look(5)
    assert on.canvas.draw(session)[0]["note"].endswith("from seed 5")


def test_what_was_drawn_of_a_look_that_was_left_is_dropped(on: PhotoHandlers, monkeypatch: pytest.MonkeyPatch) -> None:
    session, canvas = visitor(), on.canvas
    drawn = canvas.drawn
    monkeypatch.setattr(canvas, "drawn", lambda *values: (canvas.meet(session, 5), drawn(*values))[1])
    assert canvas.draw(session)[0] == gr.skip()
    assert canvas.draw(session)[0]["note"].endswith("from seed 5")


def test_a_photo_is_read_once_and_only_while_it_is_wanted(on: PhotoHandlers, photo: str) -> None:
    session = visitor()
    old, new = reading(on, session, photo), reading(on, session, photo)
    assert [view for view, *_ in old] == [{"progress": {"reading": 1}}]
    assert len(list(new)) > 3
    again = reading(on, session, photo, number=2)
    session.wanted = 2
    assert [view for view, *_ in again] == [{"progress": {"reading": 2}}]


def test_the_bar_is_there_from_the_first_and_whatever_ends_the_reading_takes_it_away(
    on: PhotoHandlers, photo: str
) -> None:
    session = visitor()
    assert on.begin(session, photo) == (1, {"progress": {"reading": 1, "text": "Waiting for its turn"}})
    running = reading(on, session, photo, face=7)
    assert next(running)[0] == {"progress": {"reading": 2}}
    with told("there is no face 7"):
        next(running)
    assert on.begin(session, None) == (gr.skip(), gr.skip())
    assert session.wanted == 2
    session, views = invert(on, None, number=1)
    assert views == [{"progress": {"reading": 1}}]
    assert session.look == Look(0)


def test_the_same_seed_gives_the_same_face_twice(on: PhotoHandlers, photo: str) -> None:
    first, again, other = (subject_of(invert(on, photo, seed=seed)[0]).inversion for seed in (3, 3, 4))
    assert torch.equal(first.w_plus, again.w_plus)
    assert not torch.equal(first.w_plus, other.w_plus)


def test_the_photo_of_a_crop_is_the_crop(on: PhotoHandlers, photo: str) -> None:
    session, _ = invert(on, photo)
    assert on.canvas.state(session)["whole"] is False
    session, _ = invert(on, photo, aligned=True)
    assert on.canvas.state(session)["whole"] is None  # there is nothing around it
    session.place()
    assert seen(on.canvas.view(session)["after"]).shape == (32, 32, 3)


def test_the_panel_has_the_photo_of_the_face_on_the_canvas_or_none(on: PhotoHandlers, photo: str, two: str) -> None:
    skipped, nothing = [gr.skip()] * 4, [{"__type__": "update", "value": None, "visible": False}] * 3
    session = invert(on, photo)[0]
    assert [*on.panel(session)] == [photo, *skipped]  # what was found in it stays
    on.canvas.meet(session, 5)
    assert [*on.panel(session)] == [None, *nothing, 0]
    session.undo()
    assert [*on.panel(session)] == [photo, *nothing, 0]
    on.begin(session, two)
    session.undo()
    assert on.panel(session)[0] == two  # it is to be read
    list(reading(on, session, two))
    assert [*on.panel(session)] == [two, *skipped]
    told_ = on.canvas.state(session)["photo"]
    session.undo()
    assert on.panel(session)[0] is None
    assert on.canvas.state(session)["photo"] is None
    session.redo()
    assert on.canvas.state(session)["photo"] == told_
    Path(two).unlink()  # as the sweep does
    assert on.panel(session)[0] is None
    on.canvas.example = session.look.subject  # nobody brought it
    assert on.canvas.state(session)["photo"] is None


# --- For clients of the API ---


def asked(on: PhotoHandlers, photo: str | None, name: str = "me", **other: Any) -> list[tuple[Any, ...]]:
    values = {"aligned": False, "face": 0, "steps": 4, "tokens": True, "seed": 0, **other}
    return list(on.invert(photo, *values.values(), visitor(), request(name)))


def test_inversion_tells_where_it_is_and_what_came_out(on: PhotoHandlers, photo: str) -> None:
    updates = asked(on, photo)
    assert updates[0][2] == "Starting. Steps: 4"
    pair, stages, note, file, session = updates[-1]
    assert alike(pixels(pair[0]), subject_of(session).crop)
    assert pixels(pair[0]).shape == pixels(pair[1]).shape == (32, 32, 3)
    assert [caption.split(" ")[0] for _, caption in stages] == ["photo", "w+", "tokens"]
    assert re.match(r"distance 0\.\d{3} \(0 is the photo itself; st-lpips-alex\)", note)
    assert "steps: 4" in note
    assert note.endswith("seed 0")
    assert torch.equal(Inversion.from_pretrained(file).w_plus, subject_of(session).inversion.w_plus)


def test_w_plus_alone(on: PhotoHandlers, photo: str) -> None:
    *_, (_, stages, _, _, session) = asked(on, photo, tokens=False)
    assert subject_of(session).inversion.tokens is None
    assert len(stages) == 2


def test_stop_before_the_start_says_how_far_it_came(on: PhotoHandlers, photo: str) -> None:
    on.stops.stop("invert", request())
    assert messages.STOPPED.format(step=1, steps=4) in asked(on, photo)[-1][2]
    assert "steps: 4" in asked(on, photo, "another")[-1][2]


def test_mistakes_are_told_word_for_word(on: PhotoHandlers, photo: str, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "grey.png")
    with told("Add a photo first, or pick an example."):
        asked(on, None)
    for reads in (asked, invert):
        with told(
            "No face found. Use a frontal photo with the whole head, or tick 'Already aligned' in More options."
        ):
            reads(on, str(tmp_path / "grey.png"))
        with told("The picture has 1 face, counted from 0; there is no face 7."):
            reads(on, photo, face=7)


def test_unexpected_errors_are_logged_and_told(
    on: PhotoHandlers, photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("<b>a secret</b>")

    monkeypatch.setattr(on.jobs.pipe, "invert_crops", broken, raising=False)
    with told(messages.UNEXPECTED):
        asked(on, photo)
    assert "a handler failed" in caplog.text

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(on.jobs.pipe, "invert_crops", full, raising=False)
    with told(messages.OUT_OF_MEMORY):
        asked(on, photo)


# --- What a session holds ---


def test_a_face_of_1024_pixels_fits_into_a_session() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(128, 12, (64, 64, 3)).repeat(16, 0).repeat(16, 1) + rng.normal(0, 1, (1024, 1024, 3))
    crop = noisy.clip(0, 255).astype(np.uint8)
    tokens = TokenSet({f"b{n}.conv1": layer_tokens(torch.Generator(), 8, 512, 512, 3) for n in range(17)})
    subject = Subject.of(Inversion(torch.zeros(18, 512), tokens, torch.from_numpy(crop)), crop)
    assert subject.inversion.crop is None
    assert alike(subject.crop, crop)


def test_a_session_has_a_size(on: PhotoHandlers, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invert(on, photo)
    assert limits.FACES * limits.SUBJECT_BYTES + limits.SHELF_BYTES <= 7_200_000
    monkeypatch.setattr(limits, "SUBJECT_BYTES", 100)
    with told(messages.TOO_LARGE_FOR_SESSION):
        invert(on, photo)


def test_sessions_hold_no_network(on: PhotoHandlers, photo: str) -> None:
    found, session = on.align(photo, False)[4], invert(on, photo)[0]
    held = (*found[photo], *vars(session).values(), *vars(subject_of(session)).values())
    assert not any(isinstance(value, torch.nn.Module) for value in held)
