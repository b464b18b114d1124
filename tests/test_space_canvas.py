"""The canvas, called as the plain methods it consists of."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import alike, domain, pixels, request, seen, told, visitor, whole

from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.handlers.canvas_handlers import CanvasHandlers
from space.jobs import Jobs
from space.session import Look, Session, Subject
from space.tabs.edit import build, grouped
from space.tokenfiles import domain_file, inversion_file


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CanvasHandlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return CanvasHandlers(Jobs(whole(tiny_pipe)), None)


@pytest.fixture
def subject(on: CanvasHandlers, photo: str) -> Subject:
    """A face in the middle of a photo."""
    config, rng = on.jobs.pipe.generator.config, torch.Generator().manual_seed(5)
    quad = torch.tensor([(100.0, 100.0), (100.0, 355.0), (355.0, 355.0), (355.0, 100.0)])
    report = {"perceptual": 0.1234, "identity": 0.42, "perceptual_backbone": "<net>"}
    report |= {"w_steps": 0, "token_steps": 14, "seconds": 596.21}
    w_plus = torch.randn(config.num_ws, config.w_dim, generator=rng)
    face = Inversion(w_plus, domain(9), None, quad, (512, 512), on.jobs.pipe.fingerprint, report)
    with Image.open(photo) as picture:
        crop = np.asarray(picture.crop((100, 100, 356, 356)).resize((32, 32)))
    return Subject.of(face, crop, photo)


@pytest.fixture
def session(subject: Subject) -> Session:
    made = visitor()
    made.put(Look(subject))
    return made


def drawn(on: CanvasHandlers, session: Session) -> Any:
    look = session.look
    assert look.subject is not None
    sets = {session.shelf.domains.get(name, name): strength for name, strength in look.domains.items()}
    return on.jobs.pipe.render(look.subject.inversion, edits=look.edits, domains=sets, output_type="np")


def values(on: CanvasHandlers, *strengths: float, **edits: float) -> list[float]:
    unused = [0.0] * (limits.MIXED - len(strengths))
    return [*(edits.get(name, 0.0) for name in on.directions), *strengths, *unused]


# --- One handler draws whatever changed ---


def test_the_canvas_shows_the_look_and_the_controls_follow(on: CanvasHandlers, session: Session) -> None:
    session.put(replace(session.look, edits={"smile": 1.5}, domains={"wax": 0.5}))
    view, *controls = on.draw(session)
    assert alike(seen(view["after"]), drawn(on, session))
    assert alike(seen(view["before"]), session.look.subject.crop)  # type: ignore[union-attr]
    assert (view["undo"], view["redo"], view["plain"], view["whole"]) == (True, False, False, False)
    sliders, (chosen, *strengths) = controls[: len(on.directions)], controls[len(on.directions) :]
    assert [s["value"] for s in sliders] == [1.5 if name == "smile" else 0 for name in on.directions]
    assert (chosen["value"], chosen["choices"]) == (["wax"], ["ink", "wax"])
    assert [(s.get("label"), s["value"], s["visible"]) for s in strengths[:2]] == [
        ("wax", 0.5, True),
        (None, 0, False),
    ]
    again = on.draw(session)  # it is there already
    assert again == (gr.skip(),) * len([view, *controls])


def test_a_drawn_person_is_compared_with_what_the_seed_draws(on: CanvasHandlers) -> None:
    session = visitor()
    on.meet(session, 12)
    view = on.view(session)
    plain = on.jobs.pipe.generate([12], output_type="np")[0]
    assert view["before"] == view["after"]
    assert alike(seen(view["after"]), plain)
    assert "Nobody who exists" in view["note"]
    assert "seed 12" in view["note"]
    on.settle(session, *values(on, smile=3.0))
    view = on.view(session)
    assert alike(seen(view["before"]), plain)
    assert alike(seen(view["after"]), on.jobs.pipe.generate([12], edits={"smile": 3.0}, output_type="np")[0])
    assert view["before"] != view["after"]


def test_a_drag_shows_and_keeps_nothing_and_rest_keeps_it(
    on: CanvasHandlers, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DRAG_SIDE", 16)
    on.draw(session)
    before = session.look
    view = on.drag(session, *values(on, smile=1.0))
    assert set(view) == {"after", "preview"}
    assert seen(view["after"]).shape == (16, 16, 3)
    assert session.look is before
    rest = on.settle(session, *values(on, smile=1.0))
    assert seen(rest["after"]).shape == (32, 32, 3)
    assert session.look == replace(before, edits={"smile": 1.0})
    assert on.drag(session, *values(on, smile=1.0)) == gr.skip()  # one that comes late
    on.drag(session, *values(on, smile=2.0))
    back = on.settle(session, *values(on, smile=1.0))  # dragged there and back
    assert alike(seen(back["after"]), drawn(on, session))
    assert len(session.past) == 2


def test_the_sliders_of_domains_belong_to_the_chosen_ones(on: CanvasHandlers, session: Session) -> None:
    session.put(replace(session.look, domains={"wax": 1.0, "ink": 1.0}))
    on.settle(session, *values(on, 0.25, 0.0))
    assert session.look.domains == {"wax": 0.25, "ink": 0.0}  # one at 0 stays chosen
    view = on.view(session)
    on.settle(session, *values(on, 0.25))
    assert alike(seen(view["after"]), drawn(on, session))


def test_undo_redo_and_reset(on: CanvasHandlers, session: Session) -> None:
    on.settle(session, *values(on, smile=1.0))
    on.settle(session, *values(on, smile=2.0))
    session.undo()
    assert session.look.edits == {"smile": 1.0}
    assert on.draw(session)[0]["redo"] is True
    session.redo()
    assert session.look.edits == {"smile": 2.0}
    session.reset()
    assert session.look == Look(session.look.source)
    assert on.view(session)["plain"] is True
    session.undo()
    assert session.look.edits == {"smile": 2.0}


@pytest.mark.parametrize(
    ("distance", "told_"),
    [(0.3, "Same person: yes"), (0.55, "Same person: nearly"), (0.9, "Same person: no"), (None, "Not measured")],
)
def test_likeness_is_told_in_words(on: CanvasHandlers, subject: Subject, distance: float | None, told_: str) -> None:
    report = {**subject.inversion.report, "identity": distance}
    session = visitor()
    session.put(Look(replace(subject, inversion=replace(subject.inversion, report=report))))
    note = on.view(session)["note"]
    assert told_ in note
    assert (f"{distance:.2f} apart" in note) if distance else ("apart" not in note)
    figures = re.search("<details><summary>Details</summary>(.*)</details>", note)
    assert figures is not None
    apart = [f"identity {distance:.2f} apart"] if distance else []
    assert figures[1].split(" · ") == [
        "LPIPS 0.123",
        "measured with &lt;net&gt;",
        *apart,
        "steps on tokens: 14",
        "596 seconds",
    ]
    session.put(replace(session.look, edits={"smile": 1.0}))  # it was measured before
    assert ("before the changes" in on.view(session)["note"]) == bool(distance)
    assert "before the changes" not in note


def test_a_face_whose_features_moved_is_not_called_the_same(on: CanvasHandlers, subject: Subject) -> None:
    session = visitor()
    for landmarks, word in ((0.02, "yes"), (0.12, "no")):  # as measured on a good and on a broken one
        report = {**subject.inversion.report, "identity": 0.32, "landmarks": landmarks}
        session.put(Look(replace(subject, inversion=replace(subject.inversion, report=report))))
        note = on.view(session)["note"]
        assert f"Same person: {word}" in note
    assert "eyes, nose or mouth are not where they are in the photo; more steps may mend it" in note
    assert f"landmarks {landmarks:.1%} of the eyes&#x27; distance apart" in note
    session.put(replace(session.look, edits={"smile": 1.0}))
    assert "in the photo (before the changes)" in on.view(session)["note"]


def test_a_button_counts_the_control_that_is_still_moving(on: CanvasHandlers, session: Session) -> None:
    start, still, moving = session.look, SimpleNamespace(), SimpleNamespace(moving=True)
    undo, redo = on.change(Session.undo), on.change(Session.redo)
    on.drag(session, *values(on, smile=1.0))
    undo(session, moving, *values(on, smile=1.0))
    assert session.look == start
    assert alike(seen(on.draw(session)[0]["after"]), drawn(on, session))
    redo(session, still, *values(on))  # its controls may be behind: they are not read
    assert on.draw(session)[0]["undo"] is True
    assert session.look.edits == {"smile": 1.0}
    on.save(session, moving, *values(on, smile=2.0))
    assert session.look.edits == {"smile": 2.0}


def test_a_page_that_is_ready_late_takes_back_no_move(on: CanvasHandlers) -> None:
    session = visitor()
    on.draw(session)
    on.drag(session, *values(on, smile=1.0))
    ready, *controls = on.arrive(session, request())
    assert ready == {"ready": True}
    assert all(control == gr.skip() for control in controls)
    on.settle(session, *values(on, smile=1.0))
    assert session.look.edits == {"smile": 1.0}


# --- Back into the photo, and out of the page ---


def test_the_face_goes_back_into_its_photo(on: CanvasHandlers, session: Session, photo: str) -> None:
    assert on.view(session)["whole"] is False
    session.place()
    view = on.draw(session)[0]
    assert view["whole"] is True
    with Image.open(photo) as picture:
        original = np.asarray(picture.convert("RGB"))
    assert alike(seen(view["before"]), original)
    pasted = seen(view["after"]).astype(int)
    assert np.abs(pasted[:90, :90] - original[:90, :90]).mean() < 4  # outside of the face
    assert np.abs(pasted[200:260, 200:260] - original[200:260, 200:260]).mean() > 10
    assert seen(on.drag(session, *values(on, smile=1.0))["after"]).shape == (512, 512, 3)
    on.meet(session, 1)
    assert on.draw(session)[0]["whole"] is None  # there is no photo


def test_a_photo_that_was_swept_is_told_so(on: CanvasHandlers, session: Session, photo: str) -> None:
    os.remove(photo)
    session.place()
    with told("There is no picture file at photo.png."):
        on.draw(session)


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "refinestyle.png"), ("JPEG", "refinestyle.jpg"), ("../x", "refinestyle.png")]
)
def test_a_download_is_the_picture_at_its_own_size(
    on: CanvasHandlers, session: Session, kind: str, name: str, photo: str
) -> None:
    session.put(replace(session.look, edits={"smile": 1.0}))
    event: Any = SimpleNamespace(kind=kind)
    saved = on.save(session, event)["save"]
    assert saved["name"] == name
    assert on.save(session, event)["save"] != saved  # or the page would not hear of it again
    file = Path(saved["href"].removeprefix("gradio_api/file="))
    assert file.name == name
    assert alike(pixels(file), drawn(on, session))
    session.place()
    assert pixels(on.save(session, event)["save"]["href"].removeprefix("gradio_api/file=")).shape == (512, 512, 3)


# --- A link ---


def test_a_link_carries_the_settings_and_no_face(on: CanvasHandlers, session: Session) -> None:
    session.shelf.add("mine", domain(3))
    look = replace(session.look, edits={"smile": 1.5, "age": -2.0}, domains={"ink": 0.7, "mine": 1.0})
    session.put(look)
    assert on.link(session) == "edit.smile=1.5&edit.age=-2&style.ink=0.7"
    stays = "The link leaves out what only this session has: your photo, the style mine."
    assert on.view(session)["stays"] == stays
    other = visitor()
    on.arrive(other, request(**dict(parse_qsl(on.link(session)))))
    assert other.look == Look(0, look.edits, {"ink": 0.7})
    session.put(Look(12, {"smile": 1.0}))
    assert on.view(session)["stays"] == ""
    on.arrive(other, request(**dict(parse_qsl(on.view(session)["link"].removeprefix("?")))))
    assert (other.look.source, other.look.edits) == (12, {"smile": 1.0})


def test_what_a_link_has_and_this_model_has_not_is_left_out(
    on: CanvasHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(gr, "Info", said.append)
    session = visitor()
    on.arrive(session, request())
    assert session.look == Look(0)
    query = {"edit.smile": "1", "edit.<b>": "1", "edit.age": "much", "style.oil": "1", "seed": "-3", "edit.yaw": "nan"}
    on.arrive(session, request(**query))
    assert session.look == Look(0, {"smile": 1.0})
    assert said == ["The link has what is not here, or too many styles: &lt;b&gt;, age, oil, yaw."]


def test_strengths_of_a_link_are_held_to_the_ends_of_their_sliders(on: CanvasHandlers) -> None:
    session = visitor()
    on.arrive(session, request(**{"edit.smile": "8", "edit.age": "-inf", "style.ink": "3", "style.wax": "-0.6"}))
    assert session.look == Look(0, {"smile": 3.0, "age": -3.0}, {"ink": 1.5, "wax": -0.5})


# --- For clients of the API ---


def test_edits(on: CanvasHandlers, session: Session, subject: Subject) -> None:
    (before, after), _, kept = on.edit({}, "reconstruction", session)
    assert np.array_equal(pixels(before), pixels(after))  # strength 0 is the reconstruction
    reconstruction = pixels(after)
    (before, after), file, kept = on.edit({"smile": 1.5, "age": 0}, "photo", session)
    assert kept.look.edits == {"smile": 1.5}
    assert np.array_equal(pixels(before), subject.crop)
    assert not np.array_equal(pixels(after), reconstruction)
    assert os.path.basename(file) == "refinestyle-edit.png"
    assert np.array_equal(pixels(file), pixels(after))


def test_a_face_travels_as_a_file_to_another_session(on: CanvasHandlers, session: Session) -> None:
    face = session.look.subject.inversion  # type: ignore[union-attr]
    file, other = inversion_file(face), visitor()
    (before, after), download, _ = on.edit({"smile": 1.5}, "photo", other, file)
    plain = on.edit({}, "reconstruction", session)[1]
    assert np.abs(pixels(before).astype(int) - pixels(plain)).max() <= 1  # the file holds no photo
    wanted = pixels(on.edit({"smile": 1.5}, "reconstruction", session)[1])
    assert np.array_equal(pixels(after), wanted)
    assert np.array_equal(pixels(download), wanted)
    assert other.look == Look(0)  # these edits are of no face of the session


def test_files_of_faces_are_checked_like_those_in_share(on: CanvasHandlers, session: Session, tmp_path: Path) -> None:
    config, base = on.jobs.pipe.generator.config, on.jobs.pipe.fingerprint
    with told(messages.NOT_A_FACE):
        on.edit({}, "photo", session, domain_file(TokenSet({}, base=base), "ink"))
    with told("The face was made for another generator"):
        on.edit({}, "photo", session, inversion_file(Inversion(torch.zeros(3, 5), base=base)))
    with told(messages.OUT_OF_RANGE):
        on.edit({}, "photo", session, inversion_file(Inversion(torch.full((config.num_ws, config.w_dim), 1e9))))
    (tmp_path / "face.pt").write_bytes(b"anything")
    with told(messages.NOT_SAFETENSORS):
        on.edit({}, "photo", session, str(tmp_path / "face.pt"))
    with told("This model has no attribute 'smle'."):  # before the file is read
        on.edit({"smle": 1}, "photo", session, str(tmp_path / "face.pt"))


def test_without_a_face_of_its_own_a_client_has_nothing_to_edit(on: CanvasHandlers, session: Session) -> None:
    with told("There is no face to edit yet"):
        on.edit({}, "reconstruction", visitor())
    on.example = session.look.subject  # the page begins with it
    with told("There is no face to edit yet"):
        on.edit({}, "reconstruction", session)


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
def test_edits_of_api_clients_are_checked(on: CanvasHandlers, session: Session, edits: Any, message: str) -> None:
    with told(message):
        on.edit(edits, "photo", session)


def test_nothing_is_written_elsewhere(
    on: CanvasHandlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    on.draw(session)
    assert not (tmp_path / "cache").exists()  # what is shown is in no file
    on.edit({"smile": 1}, "photo", session)
    assert not list((tmp_path / "work").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"work", "cache", "photo.png"}


# --- How directions are shown ---


@pytest.mark.usefixtures("closed_loops")
@pytest.mark.filterwarnings("default")
def test_directions_are_shown_as_their_file_says(on: CanvasHandlers) -> None:
    def direction(group: str = "", **ends: Any) -> Direction:
        return Direction(torch.zeros(1, 4), DirectionInfo(group=group, **ends))

    directions = Directions({
        "sparkle": direction(), "yaw": direction("Pose"),
        "smile": direction("Expression", negative="sad", positive="happy"),
        "mouth_open": direction("Expression", limits=(-2.0, 4.0)),
    })  # fmt: skip
    groups = grouped(directions)
    assert groups == {"Expression": ["smile", "mouth_open"], "Pose": ["yaw"], "More": ["sparkle"]}
    assert list(groups) == ["Expression", "Pose", "More"]
    on.jobs.pipe.directions = directions
    with gr.Blocks():
        _, _, smile, mouth = build(on)
    assert (smile.label, smile.info, smile.minimum, smile.maximum) == ("Smile", "sad ↔ happy", -3, 3)
    assert (mouth.label, mouth.info, mouth.minimum, mouth.maximum) == ("Mouth open", None, -2, 4)
