"""Models on the Hub, against a server on the loopback: download, cache, offline, pinning."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from remote_model import (
    DIRECTIONS,
    DOMAIN,
    ENCODER,
    GENERATOR,
    assert_helps,
    assert_same,
    saved,
)
from tiny import tiny_generator, token_set

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.editing.directions import Directions
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError, HubAccessError, HubConnectionError, ModelNotFoundError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.hub import torch_cache
from refinestyle_hub.hub.sources import Repo, open_source
from refinestyle_hub.hub.torch_cache import torch_file
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.index import read_index
from refinestyle_hub.tokens.token_set import TokenSet


# huggingface_hub's own upload does what its HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


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
    assert_same(Encoder.from_pretrained("me/faces"), ENCODER)
    assert_same(Directions.from_pretrained("me/faces"), DIRECTIONS)
    assert not hub.seen(r"fp16|tree"), "only what is needed is asked for"


def test_a_whole_pipeline_pinned_and_then_offline(
    pipeline: str, hub: HubServer, request: pytest.FixtureRequest
) -> None:
    hub.add("me/faces", {"model_index.json": b"{}"})  # the branch has gone on
    pinned = RefineStylePipeline.from_pretrained("me/faces", revision=pipeline)
    assert all(pipeline in asked.path for asked in hub.seen("me/faces"))
    request.getfixturevalue("no_sockets")
    cached = RefineStylePipeline.from_pretrained("me/faces", revision=pipeline, local_files_only=True)
    for pipe in (pinned, cached):
        assert pipe.discriminator is not None
        assert_same(pipe.generator, GENERATOR)
        assert_same(pipe.encoder, ENCODER)
        assert_same(pipe.directions, DIRECTIONS)
        assert_same(pipe.domains["sketch"], DOMAIN)
    (ours,), (theirs,) = (pipe.generate(seeds=[0], domains={"sketch": 0.5}) for pipe in (pinned, cached))
    assert ours.tobytes() == theirs.tobytes()


def test_a_pipeline_in_a_subfolder(hub: HubServer, tmp_path: Path) -> None:
    """Of a repo that holds several."""
    parts = RefineStylePipeline(GENERATOR, None, DIRECTIONS, {"sketch": DOMAIN}, ENCODER)
    hub.add("me/several", saved(lambda f: parts.save_pretrained(f / "v1" / "faces"), tmp_path / "several"))
    for place in ("v1/faces", "v1/faces/", "./v1/faces"):
        pipe = RefineStylePipeline.from_pretrained("me/several", subfolder=place)
        assert pipe.fingerprint == DOMAIN.base
        assert list(pipe.domains) == ["sketch"]
        assert pipe.encoder is not None
    assert_same(TokenSet.from_pretrained("me/several", subfolder="v1/faces/domains/sketch"), DOMAIN)
    with pytest.raises(ModelNotFoundError, match=r"has no model_index\.json"):
        RefineStylePipeline.from_pretrained("me/several")


def test_a_part_is_no_pipeline(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/my-sketch", saved(DOMAIN.save_pretrained, tmp_path / "domain"))
    with pytest.raises(ModelNotFoundError) as error:
        RefineStylePipeline.from_pretrained("me/my-sketch")
    assert_helps(error, "has no model_index.json", "one part, of class 'TokenSet'")


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
    assert torch.equal(halves.mapping.w_avg, GENERATOR.mean_latent.half().float())


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
    assert_helps(error, "no model me/nowhere", "no folder of that name", "private")
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


def test_tokens_that_open_nothing(pipeline: str, hub: HubServer) -> None:
    """None stored; one that the Hub does not know; one without the right to read this repo."""
    with pytest.raises(HubAccessError) as error:
        Generator.from_pretrained("me/faces", token=True)
    assert_helps(error, "token=True", "hf auth login")
    for status, code in ((401, "Invalid credentials in Authorization header"), (403, "Forbidden")):
        hub.failures.clear()
        hub.fail("me/faces", status=status, code=code)
        with pytest.raises(PermissionError) as error:
            Generator.from_pretrained("me/faces", token="hf_unknown")
        assert_helps(error, "refuses access to me/faces", str(status), "hf auth login")
        assert "hf_unknown" not in str(error.value)


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


def test_a_cached_domain_of_a_published_size_loads_at_once(hub: HubServer, tmp_path: Path) -> None:
    """T = 4 at 1024 px, from the cache, without a socket: at most 20 ms of this machine's work."""
    domain = token_set(rank=4, config=StyleGAN2Config(1024), layers="conv")
    commit = hub.add("me/large", saved(domain.save_pretrained, tmp_path / "domain"))
    TokenSet.from_pretrained("me/large", revision=commit)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        TokenSet.from_pretrained("me/large", revision=commit, local_files_only=True)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.02


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


def test_half_filled_pipeline_names_the_part_that_is_missing(
    pipeline: str, hub: HubServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And the command puts it where it is looked for."""
    read_index(open_source("me/faces", cache_dir=tmp_path / "cache"))
    Generator.from_pretrained("me/faces", cache_dir=tmp_path / "cache")
    request.getfixturevalue("no_sockets")
    with pytest.raises(ModelNotFoundError) as error:
        RefineStylePipeline.from_pretrained("me/faces", cache_dir=tmp_path / "cache", local_files_only=True)
    command = f"--revision main --include 'discriminator/*' --cache-dir '{tmp_path / 'cache'}'"
    assert_helps(error, "discriminator/config.json is not in the cache", command)
    assert "subfolder" not in str(error.value), "the place is right"


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
        "from refinestyle_hub.hub.sources import open_source\n"
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


# --- published weights that are not on the Hub


def test_a_file_for_torchs_cache_is_fetched_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    hub.add("me/files", {f"net-{digest}.pth": content, "net-00000000.pth": content})
    at = f"{hub.url}/me/files/resolve/main"
    for _ in range(2):
        found = torch_file(f"{at}/net-{digest}.pth")
        assert found == tmp_path / "checkpoints" / f"net-{digest}.pth"
        assert found.read_bytes() == content
    assert len(hub.seen("GET .*net-")) == 1
    assert torch_file(f"{at}/net-00000000.pth") is None, "another file than its name says"
    assert torch_file(f"{at}/lost-00000000.pth") is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert torch_file(f"{at}/other-00000000.pth") is None
    assert hub.requests == []
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"net-{digest}.pth"]


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> None:
        release.wait(5)
        raise OSError("timed out")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(torch_cache, "PATIENCE", 0.05)
    monkeypatch.setattr(urllib.request, "urlopen", hang)
    assert torch_file("https://example.org/alexnet.pth") is None
    release.set()
