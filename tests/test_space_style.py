"""Style, called as the plain methods it consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from space_parts import domain, pixels, told, visitor, whole

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from space import limits, messages
from space.handlers import style_handlers
from space.handlers.canvas_handlers import CanvasHandlers
from space.handlers.style_handlers import FACE, FADE, RANDOM, TOUR, StyleHandlers, morph
from space.jobs import Jobs
from space.session import Look, Session, Subject
from space.tokenfiles import domain_file, inversion_file


@pytest.fixture
def on(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StyleHandlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return StyleHandlers(CanvasHandlers(Jobs(whole(tiny_pipe)), None))


@pytest.fixture
def session(on: StyleHandlers) -> Session:
    """With a face and a domain of its own."""
    config, rng = on.jobs.pipe.generator.config, torch.Generator().manual_seed(5)
    face = Inversion(torch.randn(config.num_ws, config.w_dim, generator=rng), domain(9))
    made = visitor()
    made.put(Look(Subject.of(face, on.jobs.pipe.render(face, output_type="np"))))
    made.shelf.add("mine", domain(3))
    return made


def edited(session: Session, **edits: float) -> Session:
    session.put(replace(session.look, edits=edits))
    return session


def face_of(session: Session) -> Inversion:
    assert session.look.subject is not None
    return session.look.subject.inversion


# --- Choosing ---


def test_the_gallery_shows_the_face_in_every_domain(
    on: StyleHandlers, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style_handlers, "ROW", 2)
    (row, _), (gallery, empty) = on.enter(session)
    assert row["value"] == gallery["value"][:2]
    assert [name for _, name in gallery["value"]] == ["ink", "wax", "mine"]
    assert len({pixels(file).tobytes() for file, _ in gallery["value"]}) == 3
    assert not empty["visible"]
    (again, _), *_ = on.enter(session)
    assert [name for _, name in again["value"]] == ["ink", "wax", "mine"]  # while the first row is drawn anew
    session.forget("mine")
    assert [name for _, name in next(on.enter(session))[0]["value"]] == ["ink", "wax"]
    drawn = on.jobs.pipe.render(face_of(session), domains={"wax": 1.0}, output_type="np")
    assert np.abs(pixels(gallery["value"][1][0]).astype(int) - drawn).mean() < 12  # WebP


def test_a_model_without_domains_says_how_to_get_some(on: StyleHandlers) -> None:
    on.jobs.pipe.domains.clear()
    ((gallery, empty),) = on.enter(visitor())
    assert empty["value"] == messages.NO_DOMAINS
    assert not gallery["visible"]
    with told("There is no style yet."):
        on.sheet(visitor())


def test_what_is_chosen_shares_the_strength(on: StyleHandlers, session: Session) -> None:
    session.put(replace(session.look, domains={"ink": 0.3, "wax": 1.2}))
    on.choose(session, ["mine", "ink", "gone"])
    assert session.look.domains == {"mine": 0.5, "ink": 0.3}  # there was room
    event: Any = SimpleNamespace(index=1)
    on.toggle(session, event)
    assert session.look.domains == {"mine": 0.42, "ink": 0.25, "wax": 0.33}
    on.toggle(session, event)
    assert session.look.domains == {"mine": 0.63, "ink": 0.37}  # still a whole
    session.put(replace(session.look, domains={"mine": 0.4, "ink": -0.2, "wax": 0.1}))
    on.toggle(session, event)
    assert session.look.domains == {"mine": 0.4, "ink": -0.2}  # it was none
    event.index = 99
    on.toggle(session, event)
    assert session.look.domains == {"mine": 0.4, "ink": -0.2}
    session.put(replace(session.look, domains={}))
    for index, strengths in ((1, [1.0]), (0, [0.5, 0.5]), (2, [0.33] * 3), (1, [0.5, 0.5]), (0, [1.0]), (2, [])):
        on.toggle(session, SimpleNamespace(index=index))  # type: ignore[arg-type]
        assert list(session.look.domains.values()) == strengths


def test_a_fifth_style_takes_the_place_of_the_first(on: StyleHandlers, session: Session) -> None:
    for name in ("a", "b", "c"):
        session.shelf.add(name, domain(1))
    on.choose(session, ["a", "b", "c", "ink"])
    assert set(session.look.domains.values()) == {0.25}
    on.toggle(session, SimpleNamespace(index=1))  # type: ignore[arg-type]
    assert session.look.domains == dict.fromkeys(["b", "c", "ink", "wax"], 0.25)


def test_a_strength_stays_between_the_ends_of_its_slider(on: StyleHandlers, session: Session) -> None:
    session.put(replace(session.look, domains={"ink": 1.5, "wax": -0.4}))
    on.choose(session, ["wax"])  # it would be -1 to make a whole
    assert session.look.domains == {"wax": limits.DOMAIN_STRENGTHS[0]}


def test_a_mix_is_kept_and_draws_the_same(on: StyleHandlers, session: Session) -> None:
    with told(messages.NO_MIX):
        on.keep(session, "mix")
    session.put(replace(session.look, domains={"ink": 0.7, "mine": -0.3, "wax": 0.0}))
    mix = {"ink": 0.7, session.shelf.domains["mine"]: -0.3}
    wanted = on.jobs.pipe.render(face_of(session), domains=mix, output_type="np")
    assert on.keep(session, "Half <ink>!").startswith("**Half-ink** is kept")
    assert session.look.domains == {"Half-ink": 1.0}
    kept = session.shelf.domains["Half-ink"]
    drawn = on.jobs.pipe.render(face_of(session), domains={kept: 1.0}, output_type="np")
    assert np.abs(drawn.astype(int) - wanted).max() <= 1
    session.put(replace(session.look, domains={"ink": 0.5, "mine": 1.0}))
    on.keep(session, "")
    assert "ink-mine" in session.shelf.domains


def test_what_is_kept_says_its_own_name(on: StyleHandlers, session: Session) -> None:
    """Also where it was made of one domain alone, which has a name already: the file is loaded by it."""
    session.shelf.domains["mine"] = replace(session.shelf.domains["mine"], metadata={"name": "mine", "seed": 3})
    for strength in (0.5, 1.0):
        session.put(replace(session.look, domains={"mine": strength}))
        on.keep(session, f"soft-{strength:.0%}")
    kept = session.shelf.domains
    assert kept["soft-50"].metadata == {"name": "soft-50", "seed": 3}
    assert kept["soft-100"].metadata["name"] == "soft-100"
    assert kept["mine"].metadata["name"] == "mine"


# --- All of them ---


def test_the_sheet_has_a_row_for_each_face(on: StyleHandlers, session: Session) -> None:
    shown, offered = on.sheet(edited(session, smile=2.0))
    assert shown["value"] == offered["value"]
    sheet = pixels(shown["value"])
    assert sheet.shape == (limits.SEEDS * 34 - 2, 4 * 34 - 2, 3)  # this face and drawn ones; plain and 3 domains
    mine = on.jobs.pipe.render(face_of(session), edits={"smile": 2.0}, output_type="np")
    assert np.abs(sheet[:32, :32].astype(int) - mine).max() <= 1
    first = on.jobs.pipe.generate([0], output_type="np")[0]
    assert np.abs(sheet[34:66, :32].astype(int) - first).max() <= 1


@pytest.mark.parametrize("kind", [FADE, TOUR])
def test_films(on: StyleHandlers, session: Session, kind: str) -> None:
    with told(messages.NO_MIX if kind == TOUR else messages.NO_CHANGE):
        on.film(session, kind)
    session.put(replace(session.look, edits={"smile": 2.0}, domains={"ink": 1.0, "mine": 0.5}))
    shown, offered = on.film(session, kind)
    assert shown["value"] == offered["value"]
    with Image.open(shown["value"]) as film:
        assert (film.format, film.info["loop"]) == ("WEBP", 0)
        assert limits.FILM < film.n_frames <= 2 * limits.FILM - 2  # equal ones become one that lasts longer
        assert not film.getexif()
        first = np.asarray(film.convert("RGB")).astype(int)
        film.seek(limits.FILM - 2)
        assert np.abs(first - np.asarray(film.convert("RGB"))).mean() > 2


def test_a_morph_goes_through_its_ends_smoothly() -> None:
    frames = morph([{}, {"a": 1.0}, {"b": 0.5}], 21)
    assert frames[0] == {}
    assert frames[10] == {"a": 1.0}
    assert frames[-1] == {"b": 0.5}
    values = [frame.get("a", 0.0) for frame in frames]
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) < 0.2


# --- For clients of the API ---


def test_a_mix_on_the_face_is_what_the_pipeline_draws(on: StyleHandlers, session: Session) -> None:
    before = on.jobs.pipe.generator.fingerprint()
    mix = {"ink": 0.7, "mine": -0.3}
    (plain, styled), file, _ = on.stylise(mix, FACE, 0, edited(session, smile=1.0))
    pipe, face, mine = on.jobs.pipe, face_of(session), session.shelf.domains["mine"]
    wanted = pipe.render(face, edits={"smile": 1.0}, domains={"ink": 0.7, mine: -0.3}, output_type="np")
    assert np.abs(pixels(styled).astype(int) - wanted).max() <= 1  # of 255: another batch rounds elsewhere
    wanted = pipe.render(face, edits={"smile": 1.0}, output_type="np")
    assert np.abs(pixels(plain).astype(int) - wanted).max() <= 1
    assert Path(file).name == "refinestyle-domain.png"
    assert np.array_equal(pixels(file), pixels(styled))
    assert pipe.generator.fingerprint() == before


def test_random_faces_come_four_at_a_time_and_the_same_again(on: StyleHandlers, session: Session) -> None:
    (plain, styled), *_ = on.stylise({"wax": 1}, RANDOM, 7, edited(session, smile=3.0))
    assert pixels(plain).shape == pixels(styled).shape == (66, 66, 3)
    assert np.array_equal(pixels(on.stylise({"wax": 1}, RANDOM, 7, visitor())[0][1]), pixels(styled))
    first = on.jobs.pipe.generate([7], output_type="np")[0]
    assert np.abs(pixels(plain)[:32, :32].astype(int) - first).max() <= 1  # edits are of the visitor's face alone


def test_strength_0_is_the_face_itself(on: StyleHandlers, session: Session) -> None:
    (plain, styled), *_ = on.stylise({"ink": 0}, FACE, 0, session)
    assert np.array_equal(pixels(plain), pixels(styled))


def test_a_face_and_a_domain_come_as_files(on: StyleHandlers, session: Session) -> None:
    def both(files: tuple[str, str]) -> list[bytes]:
        return [pixels(file).tobytes() for file in files]

    face, nobody = inversion_file(face_of(session)), visitor()
    there = on.stylise({"ink": 0.7}, FACE, 0, edited(session, smile=1.0))[0]
    assert both(on.stylise({"ink": 0.7}, RANDOM, 0, nobody, face, {"smile": 1.0})[0]) == both(there)
    plain = on.stylise({}, RANDOM, 0, edited(session, smile=3.0), face)[0][1]
    assert pixels(plain).tobytes() == both(on.stylise({}, FACE, 0, session, None, {})[0])[1]
    assert session.look.edits == {"smile": 3.0}

    file = domain_file(replace(session.shelf.domains["mine"], metadata={"name": "mine"}), "other")
    there = on.stylise({"mine": 1.0}, FACE, 0, session, None, {})[0]
    assert both(on.stylise(None, RANDOM, 0, nobody, face, None, file)[0]) == both(there)
    weak = on.stylise({"mine": 0.5, "ink": 0.2}, RANDOM, 0, nobody, face, None, file)[0]
    assert both(weak) == both(on.stylise({"mine": 0.5, "ink": 0.2}, FACE, 0, session, None, {})[0])
    own = domain_file(replace(domain(3), metadata={"name": "ink"}), "ink")
    assert both(on.stylise({"ink": 1.0}, FACE, 0, session, None, {}, own)[0]) == both(there)  # before the model's own
    assert list(session.shelf.domains) == ["mine"]


def test_the_wrong_files_are_refused(on: StyleHandlers, session: Session) -> None:
    face, style = inversion_file(face_of(session)), domain_file(domain(3), "mine")
    refused: dict[str, Callable[[], Any]] = {
        messages.NOT_A_FACE: lambda: on.stylise({}, FACE, 0, session, style),
        messages.NOT_A_DOMAIN: lambda: on.stylise({}, RANDOM, 0, session, None, None, face),
        "There is no domain 'oil'. There are: ink, wax, mine.": lambda: on.stylise(
            {"oil": 1.0}, RANDOM, 0, session, None, None, style
        ),
        "This model has no attribute 'smle'.": lambda: on.stylise({}, RANDOM, 0, session, face, {"smle": 1}),
        "There is no face to edit yet": lambda: on.stylise({}, FACE, 0, visitor()),
    }
    for message, call in refused.items():
        with told(message):
            call()


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"oil": 1}, "There is no domain 'oil'. There are: ink, wax, mine."),
        ({"<img>": 1}, "There is no domain '&lt;img&gt;'."),
        ({"ink": 9}, "The strength of 'ink' must be a number from -0.5 to 1.5."),
        ({"ink": float("nan")}, "The strength of 'ink' must be a number"),
        ({"ink": "much"}, "The strength of 'ink' must be a number"),
        ({str(n): 1 for n in range(9)}, "At most 4 styles are mixed at a time."),
        ([1], "Give the domains as strengths by name"),
    ],
)
def test_what_api_clients_ask_for_is_checked(on: StyleHandlers, session: Session, domains: Any, message: str) -> None:
    with told(message):
        on.stylise(domains, RANDOM, 0, session)
