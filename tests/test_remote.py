"""Models on the Hub, against a server on the loopback: download, cache, offline, pinning, push, domains."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from tiny import tiny_generator, token_set

from refinestyle_hub.cards import Card, Figure, read_card
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.discriminator import Discriminator
from refinestyle_hub.domains import domain_info, download_domain, find_domains
from refinestyle_hub.errors import (
    CardError,
    ConfigError,
    HubAccessError,
    HubConnectionError,
    ModelFileError,
    ModelNotFoundError,
    RefineStyleHubError,
)
from refinestyle_hub.fingerprint import fingerprint
from refinestyle_hub.generator import Generator
from refinestyle_hub.hub import PipelineIndex, push_folder, read_index, save_index
from refinestyle_hub.sources import Repo, open_source
from refinestyle_hub.tokens import TokenSet


# huggingface_hub's own upload does what its HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

GENERATOR = tiny_generator()
DOMAIN = replace(token_set(seed=1), base=fingerprint(GENERATOR), metadata={"steps": 300})


def saved(save: Callable[[Path], Any], folder: Path) -> dict[str, bytes]:
    """What ``save`` writes into a folder, by relative name."""
    save(folder)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def pipeline(hub: HubServer, tmp_path: Path) -> str:
    """A pipeline repo; returns its commit."""

    def save(folder: Path) -> None:
        GENERATOR.save_pretrained(folder / "generator")
        GENERATOR.save_pretrained(folder / "generator", variant="fp16")
        Discriminator(DiscriminatorConfig(32, GENERATOR.config.channels)).save_pretrained(folder / "discriminator")
        DOMAIN.save_pretrained(folder / "domains" / "sketch")
        save_index(folder, PipelineIndex(("generator", "discriminator"), ("sketch",)))

    return hub.add("me/faces", saved(save, tmp_path / "pipeline"))


def assert_same(a: Any, b: Any) -> None:
    assert a.config == b.config
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def assert_helps(error: pytest.ExceptionInfo[RefineStyleHubError], *words: str) -> None:
    text = str(error.value)
    assert text.count("\n") <= 2, text
    for word in words:
        assert word in text, text


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- downloads


def test_parts_of_a_remote_pipeline(pipeline: str, hub: HubServer) -> None:
    assert read_index(open_source("me/faces")).domains == ("sketch",)
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)
    assert_same(Generator.from_pretrained("me/faces", subfolder="generator"), GENERATOR)
    assert_same(TokenSet.from_pretrained("me/faces", subfolder="domains/sketch"), DOMAIN)
    Discriminator.from_pretrained("me/faces")
    assert not hub.seen(r"fp16|tree"), "only what is needed is asked for"


def test_part_as_a_repo_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/my-sketch", saved(DOMAIN.save_pretrained, tmp_path / "domain"))
    assert_same(TokenSet.from_pretrained("me/my-sketch"), DOMAIN)


def test_cached_files_are_not_downloaded_again(pipeline: str, hub: HubServer) -> None:
    Generator.from_pretrained("me/faces")
    hub.requests.clear()
    Generator.from_pretrained("me/faces")
    assert len(hub.requests) == 1, "one look whether the branch has moved"
    hub.requests.clear()
    Generator.from_pretrained("me/faces", revision=pipeline)
    assert hub.requests == [], "a commit cannot move"


def test_half_precision_on_request(pipeline: str) -> None:
    halves = Generator.from_pretrained("me/faces", variant="fp16")
    assert torch.equal(halves.mapping.w_avg, GENERATOR.mapping.w_avg.half().float())


def test_half_precision_where_only_that_ships(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/half", saved(lambda f: GENERATOR.save_pretrained(f, variant="fp16"), tmp_path / "half"))
    first = Generator.from_pretrained("me/half")
    assert_same(first, Generator.from_pretrained("me/half", variant="fp16"))
    assert_same(first, Generator.from_pretrained("me/half", local_files_only=True))


def test_missing_variant_lists_those_there_are(pipeline: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        Generator.from_pretrained("me/faces", variant="bf16")
    assert_helps(error, "generator/model.bf16.safetensors", "variant=: 'fp16', None")


def test_missing_part_lists_those_there_are(pipeline: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        TokenSet.from_pretrained("me/faces", subfolder="domains/bronze")
    assert_helps(error, "me/faces", "domains/bronze/config.json", "domains/sketch")


def test_pickles_are_refused_by_name(hub: HubServer) -> None:
    hub.add("me/old", {"ffhq.pkl": b"\x80\x04...", "README.md": b"hello"})
    with pytest.raises(ModelNotFoundError) as error:
        Generator.from_pretrained("me/old")
    assert_helps(error, "'ffhq.pkl' is a pickle", "refinestyle convert")
    assert not hub.seen(r"resolve/.*pkl")


def test_unknown_repo_and_revision(pipeline: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        Generator.from_pretrained("me/nowhere")
    assert_helps(error, "no model me/nowhere", "private")
    with pytest.raises(ModelNotFoundError) as error:
        Generator.from_pretrained("me/faces", revision="v9")
    assert_helps(error, "me/faces has no revision 'v9'")


@pytest.mark.parametrize("name", ["a b/c", "me/..", "me/-x", "a--b/c", "me/x\n"])
def test_malformed_ids_never_reach_the_network(name: str, no_sockets: None) -> None:
    with pytest.raises(ModelNotFoundError):
        Generator.from_pretrained(name)


def test_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    GENERATOR.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="revision= is for models on the Hub"):
        Generator.from_pretrained(tmp_path, revision="main")


def test_private_and_gated_repos(hub: HubServer, tmp_path: Path) -> None:
    files = saved(GENERATOR.save_pretrained, tmp_path / "g")
    hub.add("me/private", files, private=True)
    hub.add("me/gated", files, gated=True)
    with pytest.raises(ModelNotFoundError) as error:
        Generator.from_pretrained("me/private")
    assert_helps(error, "hf auth login", "token=")
    with pytest.raises(PermissionError) as error:
        Generator.from_pretrained("me/gated")
    assert_helps(error, "gated", "conditions")
    for name in ("me/private", "me/gated"):
        assert_same(Generator.from_pretrained(name, token=hub.read_token), GENERATOR)
    assert all(request.token is None for request in hub.seen("/cdn/")), "the token stays with the Hub"


# --- one commit, whatever moves


def test_all_files_come_from_one_commit(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    """The branch moves between the files of one load: the rest still comes from the first file's commit."""
    source = open_source("me/faces")
    read_index(source)
    other = tiny_generator(seed=5)
    newer = saved(lambda f: other.save_pretrained(f / "generator"), tmp_path / "newer")
    hub.add("me/faces", newer)
    assert_same(Generator.from_source(source), GENERATOR)
    assert_same(Generator.from_pretrained("me/faces"), other)
    assert_same(Generator.from_pretrained("me/faces", revision=pipeline), GENERATOR)


def test_pinned_revision_is_in_every_request(pipeline: str, hub: HubServer) -> None:
    Generator.from_pretrained("me/faces", revision=pipeline)
    asked = hub.seen("me/faces")
    assert asked
    assert all(pipeline in request.path for request in asked)


def test_branches_and_tags(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    other = tiny_generator(seed=5)
    hub.add("me/faces", saved(other.save_pretrained, tmp_path / "other"), branch="v2")
    assert_same(Generator.from_pretrained("me/faces", revision="v2"), other)
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)


# --- offline


def test_warm_cache_needs_no_socket(pipeline: str, request: pytest.FixtureRequest) -> None:
    Generator.from_pretrained("me/faces")
    request.getfixturevalue("no_sockets")
    assert_same(Generator.from_pretrained("me/faces", local_files_only=True), GENERATOR)


def test_warm_cache_serves_when_the_server_is_gone(pipeline: str, hub: HubServer) -> None:
    Generator.from_pretrained("me/faces")
    hub.fail(".*", status=503)
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)


def test_cold_cache_names_what_is_missing(no_sockets: None) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        Generator.from_pretrained("me/nothing-cached", local_files_only=True)
    assert_helps(error, "me/nothing-cached (revision main)", "generator/config.json", "local_files_only=True")
    assert "hf download me/nothing-cached --revision main" in str(error.value)


def test_half_filled_cache_names_what_is_missing(
    pipeline: str, hub: HubServer, request: pytest.FixtureRequest
) -> None:
    """Only the config is there, as a download that was broken off leaves it."""
    assert Repo("me/faces").find("generator/config.json")
    request.getfixturevalue("no_sockets")
    with pytest.raises(ModelNotFoundError) as error:
        Generator.from_pretrained("me/faces", local_files_only=True)
    assert_helps(error, "generator/model.safetensors is not in the cache", "--include 'generator/*'")


def test_cached_variant_is_named_when_the_plain_file_is_not_cached(pipeline: str) -> None:
    Generator.from_pretrained("me/faces", variant="fp16")
    with pytest.warns(UserWarning, match=r"model\.safetensors is not in the cache.*fp16"):
        Generator.from_pretrained("me/faces", local_files_only=True)


def test_unreachable_hub(hub: HubServer) -> None:
    hub.fail(".*", status=503)
    with pytest.raises(ConnectionError) as error:
        Generator.from_pretrained("me/faces")
    assert_helps(error, "me/faces", "cannot be reached", "503")


def test_environment_switch_and_endpoint(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    """huggingface_hub reads both once, when it is imported: so in processes of their own (which need no torch)."""
    script = (
        "import sys\n"
        "from refinestyle_hub.sources import open_source\n"
        "from refinestyle_hub.errors import RefineStyleHubError\n"
        "for name in ('me/faces', 'me/other'):\n"
        "    try:\n"
        "        source = open_source(name)\n"
        "        file = source.find('generator/model.safetensors')\n"
        "        print(file.stat().st_size if file else source.missing('config.json'))\n"
        "    except RefineStyleHubError as error: print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def run(**extra: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **extra}, capture_output=True, text=True, check=True
        )
        return done.stdout

    size = len(hub.files("me/faces")["generator/model.safetensors"])
    assert run().startswith(f"{size}\nThere is no model me/other")
    hub.requests.clear()
    offline = run(HF_HUB_OFFLINE="1")
    assert offline.startswith(f"{size}\nme/other (revision main): config.json is not in the cache")
    assert "HF_HUB_OFFLINE is set" in offline
    assert hub.requests == []


# --- a server that fails in the middle


def test_download_that_breaks_off_is_resumed(pipeline: str, hub: HubServer) -> None:
    hub.fail("GET /cdn", cut=True, times=2)
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)


def test_download_that_never_ends_leaves_nothing(pipeline: str, hub: HubServer) -> None:
    hub.fail("GET /cdn", status=500)
    with pytest.raises(HubConnectionError) as error:
        Generator.from_pretrained("me/faces")
    assert_helps(error, "me/faces", "Try again")
    hub.failures.clear()
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)


# --- push

CARD = Card(
    license="cc-by-4.0",
    base_model="me/faces",
    data="Ten pictures.",
    figures=(Figure("LPIPS", 0.25, "portraits-128, test split", samples=500, seed=0, command="python quality.py"),),
)


def test_push_and_load(pipeline: str, hub: HubServer) -> None:
    address = DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert re.fullmatch(re.escape(hub.url) + r"/me/my-sketch/commit/[0-9a-f]{40}", address)
    assert len(hub.seen("POST .*/commit/")) == 1
    files = hub.files("me/my-sketch")
    assert set(files) == {".gitattributes", "README.md", "card.json", "config.json", "tokens.safetensors"}
    assert_same(TokenSet.from_pretrained("me/my-sketch"), DOMAIN)
    assert read_card(open_source("me/my-sketch")) == CARD
    text = files["README.md"].decode()
    for fact in ("license: cc-by-4.0", "base_model: me/faces", "| Steps | 300 |", "LPIPS", "seed: 0", "KB"):
        assert fact in text


def test_card_snippet_runs(pipeline: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    code = re.search(r"```python\n(.*?)```", hub.files("me/my-sketch")["README.md"].decode(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["pictures"].shape == (4, 3, 32, 32)


def test_missing_licence_is_refused_before_anything_is_sent(hub: HubServer) -> None:
    with pytest.raises(CardError) as error:
        DOMAIN.push_to_hub("me/my-sketch", card=replace(CARD, license=None), token=hub.write_token)
    assert_helps(error, "No licence", "Card(license=", "license_name")
    assert not hub.seen("POST|PUT")
    assert hub.repos == {}


def test_edits_on_the_hub_survive_the_next_push(pipeline: str, hub: HubServer) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    text = hub.files("me/my-sketch")["README.md"].decode()
    text = text.replace("license: cc-by-4.0", "license: cc0-1.0\nlanguage: en") + "\nMy own words.\n"
    hub.add("me/my-sketch", {"README.md": text.encode()})
    newer = replace(DOMAIN, metadata={"steps": 600})
    newer.push_to_hub("me/my-sketch", token=hub.write_token)  # facts and licence are those of the repo
    text = hub.files("me/my-sketch")["README.md"].decode()
    for fact in ("My own words.", "language: en", "Ten pictures.", "| Steps | 600 |"):
        assert fact in text
    assert "| Steps | 300 |" not in text


def test_local_readme_is_pushed_with_its_edits(hub: HubServer, tmp_path: Path) -> None:
    DOMAIN.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nHand-written.\n")
    push_folder(tmp_path, "me/my-sketch", card=replace(CARD, license=None), token=hub.write_token)
    text = hub.files("me/my-sketch")["README.md"].decode()
    assert "license: mit" in text
    assert "Hand-written." in text
    assert "## Use" in text


def test_push_of_a_pipeline(hub: HubServer, tmp_path: Path) -> None:
    GENERATOR.save_pretrained(tmp_path / "generator")
    save_index(tmp_path, PipelineIndex(("generator",)))
    (tmp_path / "notes.txt").write_text("not part of a model")
    (tmp_path / ".secret.json").write_text("{}")
    push_folder(tmp_path, "me/faces", card=Card(license="apache-2.0"), token=hub.write_token)
    assert set(hub.files("me/faces")) == {
        ".gitattributes", "README.md", "card.json", "model_index.json", "generator/config.json",
        "generator/model.safetensors",
    }  # fmt: skip
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)


def test_push_without_the_right_to_write(hub: HubServer) -> None:
    for token in (hub.read_token, False):
        with pytest.raises((HubAccessError, ModelNotFoundError)) as error:
            DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=token)
        assert_helps(error, "token")
    assert hub.repos == {}


def test_push_that_breaks_off_commits_nothing(hub: HubServer) -> None:
    hub.fail("PUT /lfs", status=400)
    with pytest.raises(HubConnectionError):
        DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert set(hub.files("me/my-sketch")) == {".gitattributes"}
    hub.failures.clear()
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert_same(TokenSet.from_pretrained("me/my-sketch"), DOMAIN)


def test_push_does_not_run_over_someone_else(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repo moves after its card was read: nothing is overwritten."""
    from refinestyle_hub import cards

    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    check = cards.check

    def meanwhile(text: str) -> None:
        hub.add("me/my-sketch", {"README.md": b"---\nlicense: mit\n---\nTheir edit."})
        check(text)

    monkeypatch.setattr(cards, "check", meanwhile)
    with pytest.raises(HubConnectionError, match="412"):
        replace(DOMAIN, metadata={}).push_to_hub("me/my-sketch", token=hub.write_token)
    assert b"Their edit." in hub.files("me/my-sketch")["README.md"]


def test_push_as_pull_request_and_to_private(hub: HubServer) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token, private=True)
    assert hub.repos["me/my-sketch"].private
    address = replace(DOMAIN, metadata={}).push_to_hub("me/my-sketch", token=hub.write_token, create_pr=True)
    assert address.endswith("/discussions/1")
    assert b"| Steps | 300 |" in hub.files("me/my-sketch")["README.md"]


def test_push_while_offline(hub: HubServer) -> None:
    hub.fail(".*", status=503)
    with pytest.raises(HubConnectionError, match="Nothing can be pushed now"):
        DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)


# --- domains


def test_domains_of_a_base_are_found(pipeline: str, hub: HubServer) -> None:
    other = tiny_generator(seed=5)
    DOMAIN.push_to_hub("me/sketch", card=CARD, token=hub.write_token)
    DOMAIN.push_to_hub("me/bronze", card=replace(CARD, license="mit"), token=hub.write_token)
    replace(DOMAIN, base=fingerprint(other)).push_to_hub("me/elsewhere", card=CARD, token=hub.write_token)
    hub.repos["me/bronze"].downloads = 7
    found = find_domains("me/faces")
    assert [(d.repo_id, d.license, d.downloads) for d in found] == [
        ("me/bronze", "mit", 7),
        ("me/sketch", "cc-by-4.0", 0),
    ]
    assert found[0].updated == "2026-11-20"
    assert [d.repo_id for d in find_domains(other)] == ["me/elsewhere"]
    tuned = Generator.from_state(replace(other.config, parents=(fingerprint(GENERATOR).digest,)), other.state_dict())
    assert [d.repo_id for d in find_domains(tuned)] == ["me/elsewhere", "me/bronze", "me/sketch"]
    assert [d.repo_id for d in find_domains(GENERATOR, limit=1)] == ["me/bronze"]


def test_domain_info_downloads_no_tokens(pipeline: str, hub: HubServer) -> None:
    DOMAIN.push_to_hub("me/sketch", card=replace(CARD, title="Sketch", summary="Pencil."), token=hub.write_token)
    hub.requests.clear()
    info = domain_info("me/sketch", base=GENERATOR)
    assert (info.base, info.fits, info.tokens) == (fingerprint(GENERATOR), True, 3)
    assert (info.license, info.title, info.summary) == ("cc-by-4.0", "Sketch", "Pencil.")
    assert set(info.layers) == set(DOMAIN.layers)
    assert not hub.seen("tokens.safetensors")
    assert domain_info("me/sketch", base=tiny_generator(seed=5)).fits is False
    assert domain_info("me/faces", subfolder="domains/sketch").fits is None


def test_download_domain(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    DOMAIN.push_to_hub("me/sketch", card=CARD, token=hub.write_token)
    assert_same(download_domain("me/sketch", tmp_path / "sketch"), DOMAIN)
    names = {p.name for p in (tmp_path / "sketch").iterdir()}
    assert names == {"README.md", "card.json", "config.json", "tokens.safetensors"}
    hub.fail(".*")
    assert_same(TokenSet.from_pretrained(tmp_path / "sketch"), DOMAIN)


def test_broken_domain_is_not_kept(hub: HubServer, tmp_path: Path) -> None:
    files = saved(DOMAIN.save_pretrained, tmp_path / "domain")
    files["tokens.safetensors"] = files["tokens.safetensors"][:-8]
    hub.add("me/broken", files)
    with pytest.raises(ModelFileError):
        download_domain("me/broken", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
