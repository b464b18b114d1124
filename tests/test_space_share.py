"""Share, called as the plain methods it consists of; the Hub is one on the loopback, or a client that takes notes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
import yaml
from hub_server import HubServer
from huggingface_hub.errors import HfHubHTTPError
from space_parts import alike, domain, pixels, request, told, visitor, whole

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.handlers.share_handlers import FACE, ShareHandlers
from space.jobs import Jobs
from space.session import Look, Session, Shelf, Subject, clean_name


TOKEN = "hf_verysecrettoken"


class Notes:
    """A client of the Hub that writes down what it is asked, and fails where it is told to."""

    def __init__(self, fails: dict[str, int] | None = None) -> None:
        self.fails = fails or {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.token: object = None

    def __call__(self, token: object) -> Notes:
        self.token = token
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, args, kwargs))
            if status := self.fails.get(name):
                response = httpx.Response(status, request=httpx.Request("POST", "https://hub"))
                raise HfHubHTTPError(f"the token {self.token} is bad", response=response)

        return call


@pytest.fixture
def pipe(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RefineStylePipeline:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return whole(tiny_pipe)


@pytest.fixture
def on(pipe: RefineStylePipeline) -> ShareHandlers:
    return ShareHandlers(Jobs(pipe), "someone/tiny-32")


@pytest.fixture
def face(pipe: RefineStylePipeline) -> Inversion:
    config = pipe.generator.config
    return Inversion(torch.ones(config.num_ws, config.w_dim), domain(4), base=pipe.fingerprint)


@pytest.fixture
def session(pipe: RefineStylePipeline) -> Session:
    """With a domain of its own."""
    session, made = visitor(), {"name": "mine", "pictures": 5, "rights": "drawn by myself"}
    session.shelf.add("mine", replace(domain(3), base=pipe.fingerprint, metadata=made))
    return session


# --- Files ---


def test_what_leaves_comes_back(on: ShareHandlers, face: Inversion, session: Session) -> None:
    drawn = on.jobs.pipe.render(face, output_type="np")
    session.put(Look(Subject.of(face, drawn)))
    file = on.export("mine", session)
    assert Path(file).name == "mine.safetensors"
    assert on.load_file(file, session) == "**mine-2** is there, and on the canvas."
    assert session.look.domains == {"mine-2": 1.0}
    assert list(session.shelf.domains) == ["mine", "mine-2"]
    assert torch.equal(*[t.state_dict()["b8.conv0.q"] for t in session.shelf.domains.values()])

    assert on.load_file(on.export(FACE, session), session) == "The face is on the canvas."
    assert session.look.subject is not None
    assert torch.equal(session.look.subject.inversion.w_plus, face.w_plus)
    assert alike(session.look.subject.crop, drawn) or np.abs(session.look.subject.crop - drawn.astype(int)).mean() < 12
    assert not session.look.domains


def test_there_may_be_nothing_to_save(on: ShareHandlers, session: Session) -> None:
    for what in (None, "", FACE):
        with told(messages.NOTHING_TO_EXPORT):
            on.export(what, session)
    with told("There is no domain 'ink'. There are: mine."):  # the model's own are not handed out
        on.export("ink", session)
    with told(messages.NO_FILE):
        on.load_file(None, session)
    assert not on.offer(None, session)["interactive"]
    assert on.offer("mine", session)["value"].endswith("mine.safetensors")


def test_the_lists_follow_the_session(on: ShareHandlers, face: Inversion, session: Session) -> None:
    session.put(Look(Subject.of(face, on.jobs.pipe.render(face, output_type="np")), {}, {"mine": 1.0}))
    what, save = on.enter(session)
    assert (what["choices"], what["value"]) == ([FACE, "mine"], "mine")
    assert save["value"].endswith("mine.safetensors")
    assert on.enter(visitor())[0]["choices"] == []
    assert on.remove("mine", session) == "mine is removed."
    assert not session.shelf.domains
    assert not session.look.domains
    for name in ("<b>", FACE, None):
        assert on.remove(name, session) == messages.NOTHING_TO_REMOVE


def test_a_shelf_is_bounded_and_its_names_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    names = [shelf.add("ink", domain(n), taken=["ink"]) for n in range(limits.SHELF)]
    assert names == [f"ink-{n + 2}" for n in range(limits.SHELF)]
    with told(messages.SHELF_FULL):
        shelf.add("ink", domain(0))
    monkeypatch.setattr(limits, "SHELF_BYTES", 10)
    with told(messages.SHELF_FULL):
        Shelf().add("ink", domain(0))


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Blue ink!", "Blue-ink"),
        ("../../etc", "etc"),
        ("-a--b_", "a-b"),
        ("Öl grün", "Ol-grun"),
        ("油", "my-style"),
        ("", "my-style"),
        (None, "my-style"),
        ("a" * 99, "a" * 40),
    ],
)
def test_names_are_fit_for_files_and_repos(name: object, clean: str) -> None:
    assert clean_name(name) == clean


# --- From the Hub ---


def hosted(hub: HubServer, tokens: TokenSet, folder: Path, repo_id: str = "someone/my-ink", **options: Any) -> None:
    tokens.save_pretrained(folder)
    hub.add(repo_id, {path.name: path.read_bytes() for path in folder.iterdir()}, **options)


def test_a_domain_of_the_hub_is_read_as_anybody_could(
    on: ShareHandlers, hub: HubServer, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # the owner's
    hosted(hub, session.shelf.domains["mine"], tmp_path / "domain")
    assert on.load_id(" someone/my-ink ", session) == "**my-ink** is there, and on the canvas."
    assert session.look.domains == {"my-ink": 1.0}
    assert list(session.shelf.domains) == ["mine", "my-ink"]
    assert hub.requests
    assert not any(seen.token for seen in hub.requests)
    assert not (tmp_path / "hub-cache").exists()  # nothing stays


@pytest.mark.parametrize(
    "name", ["", None, "ink", "a/b/c", "../etc/passwd", "a/b?x=1", "https://x/y", "-/..", "a/" + "b" * 99]
)
def test_what_is_no_hub_id_is_not_asked_for(on: ShareHandlers, hub: HubServer, name: str | None) -> None:
    with told(messages.BAD_HUB_ID):
        on.load_id(name, visitor())
    assert not hub.requests


def test_repos_that_cannot_be_used(
    on: ShareHandlers, hub: HubServer, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with told("There is no public model someone/none on the Hub."):
        on.load_id("someone/none", session)
    hosted(hub, session.shelf.domains["mine"], tmp_path / "domain", "someone/private", private=True)
    with told("There is no public model someone/private on the Hub."):
        on.load_id("someone/private", session)
    hub.add("someone/pickle", {"model.pt": b"x", "config.json": b"{}"})
    with told("someone/pickle holds no domain: it has no tokens.safetensors."):
        on.load_id("someone/pickle", session)
    hosted(hub, domain(1, 1e9), tmp_path / "wild", "someone/wild")
    with told(messages.OUT_OF_RANGE):
        on.load_id("someone/wild", session)
    monkeypatch.setattr(limits, "MAX_TOKEN_BYTES", 100)
    hub.requests.clear()
    with told("A domain or a face has at most"):
        on.load_id("someone/wild", session)
    assert not hub.seen("resolve|cdn")  # nothing was downloaded
    assert list(session.shelf.domains) == ["mine"]


def test_the_hub_may_be_away(
    on: ShareHandlers, hub: HubServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.__exit__()
    hub._thread.join()
    with told("The Hub cannot be reached just now."):
        on.load_id("someone/my-ink", session)


def test_a_link_fills_in_and_runs_nothing(on: ShareHandlers) -> None:
    hub_id, tabs = on.link(request(domain="someone/my-ink"))
    assert (hub_id, tabs["selected"]) == ("someone/my-ink", "share")
    assert on.link(request()) == (gr.skip(), gr.skip())
    wrong, _ = on.link(request(domain="<script>/.."))
    with told(messages.BAD_HUB_ID):
        on.load_id(wrong, visitor())


# --- To one's own account ---


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base model states its licence, and the Hub is not asked for it."""
    monkeypatch.setattr(
        "space.handlers.share_handlers.with_base_terms", lambda card: replace(card, base_license="nvidia-nc")
    )


def push(on: ShareHandlers, session: Session, **other: Any) -> str:
    values: dict[str, Any] = {
        "name": "mine", "licence": "cc-by-4.0", "public": False, "preview": False, "session": session,
        "profile": SimpleNamespace(username="visitor"), "oauth": SimpleNamespace(token=TOKEN),
    }  # fmt: skip
    return on.push(**(values | other))


@pytest.mark.usefixtures("terms")
def test_a_push_is_private_one_commit_and_the_visitors_own(pipe: RefineStylePipeline, session: Session) -> None:
    notes = Notes()
    on = ShareHandlers(Jobs(pipe), "someone/tiny-32", notes)
    said = push(on, session)
    assert "[visitor/mine](https://huggingface.co/visitor/mine)" in said
    assert notes.token == TOKEN
    (made, (repo_id,), options), (committed, (same, operations), _) = notes.calls
    assert (made, committed) == ("create_repo", "create_commit")
    assert repo_id == same == "visitor/mine"
    assert options == {"private": True, "exist_ok": False}
    files = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
    assert set(files) == {"README.md", "card.json", "config.json", "tokens.safetensors"}
    card = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert card["base_model"] == "someone/tiny-32"
    assert card["license"] == "cc-by-4.0"
    assert "refinestyle-domain" in card["tags"]
    assert "whose terms (`nvidia-nc`) also hold" in files["README.md"].decode()


def test_the_card_names_the_terms_of_a_base_that_others_can_load(pipe: RefineStylePipeline, session: Session) -> None:
    notes = Notes()
    push(ShareHandlers(Jobs(pipe), "mini-faces-128", notes), session)
    files = {operation.path_in_repo: operation.path_or_fileobj for operation in notes.calls[1][1][1]}
    assert "whose terms (`apache-2.0`) also hold" in files["README.md"].decode()
    with told(messages.NO_PUBLIC_BASE):
        push(ShareHandlers(Jobs(pipe), "a-folder", notes), session)
    assert len(notes.calls) == 2


@pytest.mark.usefixtures("terms")
def test_a_preview_and_the_public_only_on_request(pipe: RefineStylePipeline, session: Session, tmp_path: Path) -> None:
    notes = Notes()
    said = push(ShareHandlers(Jobs(pipe), "someone/tiny-32", notes), session, public=True, preview=True)
    assert "?domain=visitor/mine" in said
    (_, _, options), (_, (_, operations), _) = notes.calls
    assert options["private"] is False
    files = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
    (tmp_path / "preview.png").write_bytes(files["preview.png"])
    assert pixels(tmp_path / "preview.png").shape == (66, 4 * 34 - 2, 3)
    assert "preview.png" in files["README.md"].decode()


@pytest.mark.usefixtures("terms")
@pytest.mark.parametrize("step", ["create_repo", "create_commit"])
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, messages.MAY_NOT),
        (403, messages.MAY_NOT),
        (409, messages.TAKEN),
        (429, messages.TOO_OFTEN),
        (500, messages.NOT_PUSHED),
    ],
)
def test_what_the_hub_answers_is_told_without_the_token(
    pipe: RefineStylePipeline, session: Session, caplog: pytest.LogCaptureFixture, step: str, status: int, message: str
) -> None:
    notes = Notes({step: status})
    with caplog.at_level(logging.DEBUG), told(message) as caught:
        push(ShareHandlers(Jobs(pipe), "someone/tiny-32", notes), session)
    assert caught.value.__cause__ is None
    assert TOKEN not in caplog.text + str(caught.value)
    left = [name for name, *_ in notes.calls]
    assert left[-1] == ("delete_repo" if step == "create_commit" else "create_repo")  # no empty repo in the way


@pytest.mark.usefixtures("terms")
def test_the_card_of_a_mix_says_what_each_part_was_made_from(pipe: RefineStylePipeline) -> None:
    drawn = {"name": "drawn", "pictures": 3, "rights": "Drawn by me."}
    said = {"name": "said", "pictures": 0, "source_text": "a photo", "target_text": "a mask"}
    parts = [replace(domain(n), base=pipe.fingerprint, metadata=made) for n, made in enumerate((drawn, said))]
    notes, session = Notes(), visitor()
    session.shelf.add("both", TokenSet.mix([(part, 0.5) for part in parts]))
    push(ShareHandlers(Jobs(pipe), "someone/tiny-32", notes), session, name="both")
    files = {operation.path_in_repo: operation.path_or_fileobj for operation in notes.calls[1][1][1]}
    lines = files["README.md"].decode().split("\n")
    assert lines[(first := lines.index("A mix of domains.")) + 1 : first + 3] == [
        "- drawn: Made from 3 pictures of the style, which are not part of this repo. Rights to them, as the maker "
        "states: Drawn by me.",
        '- said: Made without pictures, from the text "a photo" to "a mask".',
    ]


def test_who_is_not_signed_in_pushes_nothing(pipe: RefineStylePipeline, session: Session) -> None:
    notes = Notes()
    on = ShareHandlers(Jobs(pipe), "someone/tiny-32", notes)
    with told(messages.SIGN_IN):
        push(on, session, profile=None)
    with told(messages.SIGN_IN):
        push(on, session, oauth=None)
    with told("Choose a licence"):
        push(on, session, licence="mine")
    with told("There is no domain 'theirs'."):
        push(on, session, name="theirs")


def test_a_domain_without_a_statement_of_rights_stays_here(pipe: RefineStylePipeline) -> None:
    notes = Notes()
    session = visitor()
    session.shelf.add("found", replace(domain(3), base=pipe.fingerprint, metadata={"name": "found", "pictures": 5}))
    with pytest.raises(gr.Error, match="right to use the 5 pictures that .*found"):
        push(ShareHandlers(Jobs(pipe), "someone/tiny-32", notes), session, name="found")
    assert not notes.calls
    assert TOKEN not in repr(vars(session))
