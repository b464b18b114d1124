"""The threat model, as tests.

Someone publishes a model folder, a token file or a Hub repo. Whoever loads it has not read it. Loading must not
execute anything, read or write outside the folder, hand out the user's token, exhaust the machine, or return anything
but what the file's config describes: the result is right, or one of this package's errors in at most three lines.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_parts import DOMAIN, WEIGHTS, assert_refused, with_header
from hub_server import HubServer
from safetensors.torch import save as safetensors_save
from tiny import token_set

from refinestyle_hub.cards.facts import Card
from refinestyle_hub.errors import ConfigError, ModelFileError, ModelNotFoundError, RefineStyleHubError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.hub import sources
from refinestyle_hub.hub.push import push_folder
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.storage.index import PipelineIndex, read_index, save_index
from refinestyle_hub.storage.model_folder import Folder
from refinestyle_hub.tokens.token_set import TokenSet


# --- Threat: the model is a program


class Bomb:
    """Unpickling it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("disguise", ["tokens.safetensors", "config.json", "model_index.json"])
@pytest.mark.parametrize("packed", ["plain", "torch"])
def test_a_renamed_pickle_is_not_executed(domain: Path, tmp_path: Path, disguise: str, packed: str) -> None:
    bomb = Bomb(tmp_path / "exploded")
    if packed == "torch":
        stream = io.BytesIO()
        torch.save(bomb, stream)
        content = stream.getvalue()
    else:
        content = pickle.dumps(bomb)
    (domain / disguise).write_bytes(content)
    load = (
        (lambda: read_index(open_source(domain)))
        if "index" in disguise
        else (lambda: TokenSet.from_pretrained(domain))
    )
    assert_refused(load, disguise)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"])
def test_pickles_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"network{suffix}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert_refused(lambda: Generator.from_pretrained(path), "pickle", "refinestyle convert")
    assert_refused(
        lambda: Generator.from_pretrained(tmp_path), f"'network{suffix}' is a pickle", "refinestyle convert"
    )
    assert not (tmp_path / "exploded").exists()


# --- Threat: a name or a link leads out of the folder


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "C:/x", "..\\x", "\\\\host\\share", "x\0y"]
)
def test_no_name_leads_out_of_a_model(domain: Path, name: str) -> None:
    (domain.parent / "x").write_text("outside")
    assert_refused(lambda: Folder(domain).find(name), "not a path inside a model")
    assert_refused(lambda: Folder(domain).names(name), "not a path inside a model")
    assert_refused(lambda: TokenSet.from_pretrained(domain, subfolder=name.lstrip("/") if name[0] == "/" else name))


@pytest.mark.parametrize("name", ["../../secret", "/abs", "a/b", "..", "C:x", ""])
def test_no_index_leads_out_of_a_pipeline(tmp_path: Path, name: str) -> None:
    save_index(tmp_path, PipelineIndex(("generator",), ("sketch",)))
    index = json.loads((tmp_path / "model_index.json").read_text())
    for key in ("parts", "domains"):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, key: [name]}))
        assert_refused(lambda: read_index(open_source(tmp_path)), "cannot be a part or domain")


def test_links_out_of_the_folder_are_refused(domain: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (domain / WEIGHTS).rename(outside)
    (domain / WEIGHTS).symlink_to(outside)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "link out of its model folder")
    (domain / WEIGHTS).unlink()
    (tmp_path / "elsewhere").mkdir()
    outside.rename(tmp_path / "elsewhere" / WEIGHTS)
    (domain / "config.json").rename(tmp_path / "elsewhere" / "config.json")
    (domain / "inner").symlink_to(tmp_path / "elsewhere")
    assert_refused(lambda: TokenSet.from_pretrained(domain, subfolder="inner"), "link out of its model folder")


def test_links_within_the_folder_and_the_hubs_cache_are_fine(tmp_path: Path, domain: Path) -> None:
    (domain / WEIGHTS).rename(domain / "real")
    (domain / WEIGHTS).symlink_to("real")
    TokenSet.from_pretrained(domain)
    snapshot = tmp_path / "models--me--x" / "snapshots" / ("0" * 40) / "domains" / "sketch"
    blobs = tmp_path / "models--me--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", WEIGHTS):
        (blobs / name).write_bytes((domain / name).read_bytes())
        (snapshot / name).symlink_to(blobs / name)
    TokenSet.from_pretrained(snapshot)
    TokenSet.from_pretrained(snapshot.parents[1], subfolder="domains/sketch")


def test_pushing_follows_no_link_out_of_the_folder(domain: Path, tmp_path: Path, hub: HubServer) -> None:
    (tmp_path / "secret").write_text("secret")
    (domain / "LICENSE").symlink_to(tmp_path / "secret")
    card = Card(license="mit", base_model="me/faces")
    assert_refused(lambda: push_folder(domain, "me/x", card=card, token=hub.write_token), "link out")
    assert not hub.seen("POST|PUT")


def test_saving_replaces_a_link_and_not_its_target(domain: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (domain / WEIGHTS).unlink()
    (domain / WEIGHTS).symlink_to(tmp_path / "precious")
    DOMAIN.save_pretrained(domain)
    assert (tmp_path / "precious").read_text() == "precious"
    TokenSet.from_pretrained(domain)


# --- Threat: the file is read differently by different readers


def refused_in_few_words(domain: Path, config: dict[str, Any]) -> None:
    (domain / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefineStyleHubError) as error:
        TokenSet.from_pretrained(domain)
    assert str(error.value).count("\n") <= 2
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_names_cannot_write_on_the_terminal(domain: Path) -> None:
    """Names come from strangers: no line breaks and no escape sequences reach the message."""
    evil = "\x1b[2J\nrm -rf\n\n\r" + "x" * 1000

    def rename(header: dict[str, Any]) -> None:
        header[evil] = header.pop("b4.conv1.p")

    with_header(domain / WEIGHTS, rename)
    config = json.loads((domain / "config.json").read_text())
    for change in (
        {},
        {evil: 1},
        {"class": evil},
        {"format_version": evil},
        {"layers": {evil: 1}},
        {"metadata": evil},
    ):
        refused_in_few_words(domain, {**config, **change})
    (domain / WEIGHTS).write_bytes(safetensors_save(DOMAIN.state_dict()))
    for change in ({evil: 1}, {"class": evil}, {"format_version": evil}, {"layers": {evil: 1}}, {"metadata": evil}):
        refused_in_few_words(domain, {**config, **change})


# --- Threat: the Hub or the way to it


def test_a_revision_that_moves_cannot_mix_two_models(hub: HubServer, tmp_path: Path) -> None:
    """The branch moves right after config.json was sent: weights still come from the commit that was begun with."""
    DOMAIN.save_pretrained(tmp_path / "old")
    token_set(seed=2).save_pretrained(tmp_path / "new")
    files = {kind: {p.name: p.read_bytes() for p in (tmp_path / kind).iterdir()} for kind in ("old", "new")}
    hub.add("me/x", files["old"])
    source = open_source("me/x")
    assert source.find("config.json")
    hub.add("me/x", files["new"])
    loaded = TokenSet.from_source(source)
    assert torch.equal(loaded.state_dict()["b4.conv1.p"], DOMAIN.state_dict()["b4.conv1.p"])


def test_a_server_that_answers_with_another_commit_is_refused(hub: HubServer, tmp_path: Path) -> None:
    DOMAIN.save_pretrained(tmp_path / "d")
    files = {p.name: p.read_bytes() for p in (tmp_path / "d").iterdir()}
    hub.add("me/x", files)
    asked = "1" * 40
    hub.repos["me/x"].branches[asked] = hub.repos["me/x"].branches["main"]
    assert_refused(lambda: TokenSet.from_pretrained("me/x", revision=asked), f"asked for commit {asked}")


def test_a_remote_file_of_another_kind_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/x", {"config.json": b"<html>not found</html>", WEIGHTS: pickle.dumps(Bomb(tmp_path / "exploded"))})
    assert_refused(lambda: TokenSet.from_pretrained("me/x"))
    assert not (tmp_path / "exploded").exists()


def test_the_token_shows_nowhere(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    token = "hf_very_secret_indeed"
    errors = []
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("none", lambda: TokenSet.from_pretrained("me/missing", token=token)),
        ("503", lambda: TokenSet.from_pretrained("me/x", token=token)),
        ("403", lambda: DOMAIN.push_to_hub("me/new", card=Card(license="mit", base_model="me/f"), token=token)),
    ]
    hub.add("me/f", {"README.md": b""})
    hub.add("me/x", {"config.json": b"{}"})
    for kind, attempt in attempts:
        if kind == "503":
            hub.fail("me/x", status=503)
        with pytest.raises(RefineStyleHubError) as error:
            attempt()
        errors.append(error.getrepr(chain=True, style="long", showlocals=False))
    assert all(request.token == token for request in hub.seen("/me/"))
    printed = capfd.readouterr()
    source = open_source("me/x", token=token)
    texts = [*(str(e.reprcrash) for e in errors), caplog.text, printed.out, printed.err, str(source)]
    assert not any(token in text for text in texts)


@pytest.mark.parametrize("given", ["my_secret", None])
def test_the_token_is_not_in_the_error_even_if_the_server_sends_it_back(given: str | None) -> None:
    token = given or "hf_StoredOnThisMachine"
    with pytest.raises(RefineStyleHubError) as error, sources.translated("me/x", "main", given):
        raise RuntimeError(f"Authorization: Bearer {token}")
    assert token not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__, "nor in the traceback"


def test_errors_are_the_builtin_that_callers_expect() -> None:
    assert issubclass(ModelFileError, ValueError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ModelNotFoundError, FileNotFoundError)
