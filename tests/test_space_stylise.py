"""Stylise, called as the plain methods it consists of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import domain, pixels, told, whole

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from space import limits, messages
from space.handlers.stylise_handlers import FACE, FADE, RANDOM, TOUR, StyliseHandlers, morph
from space.jobs import Jobs
from space.session import Shelf, Subject
from space.tokenfiles import domain_file, inversion_file


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StyliseHandlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return StyliseHandlers(Jobs(whole(tiny_pipe)))


@pytest.fixture
def subject(on: StyliseHandlers) -> Subject:
    rng = torch.Generator().manual_seed(5)
    config = on.jobs.pipe.generator.config
    face = Inversion(torch.randn(config.num_ws, config.w_dim, generator=rng), domain(9))
    picture = np.asarray(on.jobs.pipe.render(face))
    return Subject.of(face, picture, picture)


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf()
    shelf.add("mine", domain(3))
    return shelf


def test_a_mix_on_the_face_is_what_the_pipeline_draws(on: StyliseHandlers, subject: Subject, shelf: Shelf) -> None:
    before = on.jobs.pipe.generator.fingerprint()
    (plain, styled), file, mix = on.stylise({"ink": 0.7, "mine": -0.3}, FACE, 0, subject, {"smile": 1.0}, shelf)
    pipe, face = on.jobs.pipe, subject.inversion
    mine = shelf.domains["mine"]
    wanted = pipe.render(face, edits={"smile": 1.0}, domains={"ink": 0.7, mine: -0.3}, output_type="np")
    assert np.abs(pixels(styled).astype(int) - wanted).max() <= 1  # of 255: another batch rounds elsewhere
    wanted = pipe.render(face, edits={"smile": 1.0}, output_type="np")
    assert np.abs(pixels(plain).astype(int) - wanted).max() <= 1
    assert Path(file).name == "refinestyle-domain.png"
    assert np.array_equal(pixels(file), pixels(styled))
    assert mix == {"ink": 0.7, "mine": -0.3}
    assert pipe.generator.fingerprint() == before


def test_random_faces_come_four_at_a_time_and_the_same_again(on: StyliseHandlers, shelf: Shelf) -> None:
    (plain, styled), *_ = on.stylise({"wax": 1}, RANDOM, 7, None, {"smile": 3.0}, shelf)
    assert pixels(plain).shape == pixels(styled).shape == (66, 66, 3)
    assert np.array_equal(pixels(on.stylise({"wax": 1}, RANDOM, 7, None, {}, shelf)[0][1]), pixels(styled))
    first = on.jobs.pipe.generate([7], output_type="np")[0]
    assert np.abs(pixels(plain)[:32, :32].astype(int) - first).max() <= 1  # edits are of the visitor's face alone
    assert on.others(7) == (RANDOM, 7 + limits.SEEDS)
    assert on.others(None) == (RANDOM, limits.SEEDS)  # the field was cleared


def test_strength_0_is_the_face_itself(on: StyliseHandlers, subject: Subject, shelf: Shelf) -> None:
    (plain, styled), *_ = on.stylise({"ink": 0}, FACE, 0, subject, {}, shelf)
    assert np.array_equal(pixels(plain), pixels(styled))


def test_a_face_and_a_domain_come_as_files(on: StyliseHandlers, subject: Subject, shelf: Shelf) -> None:
    face = inversion_file(subject.inversion)
    there = on.stylise({"ink": 0.7}, FACE, 0, subject, {"smile": 1.0}, shelf)[0]
    here, _, mix = on.stylise({"ink": 0.7}, RANDOM, 0, None, {}, Shelf(), face, {"smile": 1.0})
    assert [pixels(f).tobytes() for f in here] == [pixels(f).tobytes() for f in there]
    assert mix == gr.skip()  # nothing of the session changes
    plain = on.stylise({}, RANDOM, 0, None, {"smile": 3.0}, Shelf(), face)[0][1]
    assert np.array_equal(pixels(plain), subject.reconstruction)  # the edits of a session are of its own face
    again = on.stylise({}, FACE, 0, subject, {"smile": 3.0}, shelf, None, {})[0][1]
    assert np.array_equal(pixels(again), subject.reconstruction)

    file = domain_file(replace(shelf.domains["mine"], metadata={"name": "mine"}), "other")
    there = on.stylise({"mine": 1.0}, FACE, 0, subject, {}, shelf)[0]
    here, _, mix = on.stylise(None, RANDOM, 0, None, {}, Shelf(), face, None, file)
    assert [pixels(f).tobytes() for f in here] == [pixels(f).tobytes() for f in there]
    assert mix == gr.skip()
    weak = on.stylise({"mine": 0.5, "ink": 0.2}, RANDOM, 0, None, {}, Shelf(), face, None, file)[0]
    wanted = on.stylise({"mine": 0.5, "ink": 0.2}, FACE, 0, subject, {}, shelf)[0]
    assert np.array_equal(pixels(weak[1]), pixels(wanted[1]))
    own = domain_file(replace(domain(3), metadata={"name": "ink"}), "ink")
    assert np.array_equal(
        pixels(on.stylise({"ink": 1.0}, FACE, 0, subject, {}, shelf, domain_file=own)[0][1]), pixels(there[1])
    )  # before the model's own of that name
    assert list(shelf.domains) == ["mine"]


def test_the_wrong_files_are_refused(on: StyliseHandlers, subject: Subject, shelf: Shelf) -> None:
    face, style = inversion_file(subject.inversion), domain_file(domain(3), "mine")
    with told(messages.NOT_A_FACE):
        on.stylise({}, FACE, 0, None, {}, shelf, style)
    with told(messages.NOT_A_DOMAIN):
        on.stylise({}, RANDOM, 0, None, {}, shelf, None, None, face)
    with told("There is no domain 'oil'. There are: ink, wax, mine."):
        on.stylise({"oil": 1.0}, RANDOM, 0, None, {}, shelf, None, None, style)
    with told("This model has no attribute 'smle'."):
        on.stylise({}, RANDOM, 0, None, {}, shelf, face, {"smle": 1})


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"oil": 1}, "There is no domain 'oil'. There are: ink, wax, mine."),
        ({"<img>": 1}, "There is no domain '&lt;img&gt;'."),
        ({"ink": 9}, "The strength of 'ink' must be a number from -0.5 to 1.5."),
        ({"ink": float("nan")}, "The strength of 'ink' must be a number"),
        ({"ink": "much"}, "The strength of 'ink' must be a number"),
        ({str(n): 1 for n in range(9)}, "At most 4 domains are mixed at a time."),
        ([1], "Give the domains as strengths by name"),
    ],
)
def test_what_api_clients_ask_for_is_checked(on: StyliseHandlers, shelf: Shelf, domains: Any, message: str) -> None:
    with told(message):
        on.stylise(domains, RANDOM, 0, None, {}, shelf)


def test_without_a_face_there_is_nothing_to_draw_on(on: StyliseHandlers, shelf: Shelf) -> None:
    with told(messages.NOT_INVERTED):
        on.stylise({}, FACE, 0, None, {}, shelf)


def test_the_gallery_shows_every_domain(on: StyliseHandlers, subject: Subject, shelf: Shelf) -> None:
    gallery, empty, chosen, mix, *sliders = on.enter(RANDOM, 0, {}, None, {}, shelf)
    assert [name for _, name in gallery["value"]] == chosen["choices"] == ["ink", "wax", "mine"]
    assert len({pixels(file).tobytes() for file, _ in gallery["value"]}) == 3
    assert not empty["visible"]
    assert mix == {"ink": 1.0}  # there is something to see at once
    assert [slider["visible"] for slider in sliders] == [True, False, False, False]
    assert on.enter(FACE, 0, {"wax": 0.4, "gone": 1}, subject, {}, shelf)[2]["value"] == ["wax"]


def test_a_model_without_domains_says_how_to_get_some(on: StyliseHandlers) -> None:
    on.jobs.pipe.domains.clear()
    gallery, empty, chosen, mix, *sliders = on.enter(RANDOM, 0, {}, None, {}, Shelf())
    assert empty["value"] == messages.NO_DOMAINS
    assert not any(part["visible"] for part in (gallery, chosen, *sliders))
    assert mix == {}
    with told("This model comes without domains"):
        on.grid(RANDOM, 0, None, {}, Shelf())


def test_choosing_keeps_strengths_by_name(on: StyliseHandlers, shelf: Shelf) -> None:
    mix, first, second, *_ = on.choose(["mine", "ink"], {"ink": 0.3, "wax": 1.2})
    assert mix == {"mine": 1.0, "ink": 0.3}
    assert (first["label"], first["value"], second["label"], second["value"]) == ("mine", 1.0, "ink", 0.3)
    event: Any = SimpleNamespace(index=1)
    assert on.toggle(["ink"], shelf, event) == ["ink", "wax"]
    assert on.toggle(["ink", "wax"], shelf, event) == ["ink"]
    assert len(on.toggle(["a", "b", "c", "d"], shelf, event)) == limits.MIXED
    event.index = 99
    assert on.toggle(["ink"], shelf, event) == ["ink"]


def test_the_image_grid_has_a_row_for_each_face(on: StyliseHandlers, subject: Subject, shelf: Shelf) -> None:
    shown, offered = on.grid(RANDOM, 0, None, {}, shelf)
    assert shown["value"] == offered["value"]
    assert pixels(shown["value"]).shape == (4 * 34 - 2, 4 * 34 - 2, 3)  # 4 faces; plain and 3 domains
    assert pixels(on.grid(FACE, 0, subject, {}, shelf)[0]["value"]).shape == (32, 4 * 34 - 2, 3)


@pytest.mark.parametrize("kind", [FADE, TOUR])
def test_films(on: StyliseHandlers, subject: Subject, shelf: Shelf, kind: str) -> None:
    shown, offered = on.film(kind, {"ink": 1.0, "mine": 0.5}, FACE, 0, subject, {}, shelf)
    assert shown["value"] == offered["value"]
    with Image.open(shown["value"]) as film:
        assert (film.format, film.info["loop"]) == ("WEBP", 0)
        assert limits.FILM < film.n_frames <= 2 * limits.FILM - 2  # equal ones become one that lasts longer
        assert not film.getexif()
    with told(messages.NO_MIX):
        on.film(kind, {}, FACE, 0, subject, {}, shelf)


def test_a_morph_goes_through_its_ends_smoothly() -> None:
    frames = morph([{}, {"a": 1.0}, {"b": 0.5}], 21)
    assert frames[0] == {"a": 0.0}
    assert frames[10] == {"a": 1.0, "b": 0.0}
    assert frames[-1] == {"a": 0.0, "b": 0.5}
    values = [frame.get("a", 0.0) for frame in frames]
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) < 0.2
