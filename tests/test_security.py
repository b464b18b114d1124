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
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from safetensors.torch import save as safetensors_save
from tiny import tiny_generator, token_set

from refinestyle_hub.cards.facts import Card
from refinestyle_hub.errors import ConfigError, ModelFileError, ModelNotFoundError, RefineStyleHubError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.hub import sources
from refinestyle_hub.hub.push import push_folder
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.storage.index import PipelineIndex, read_index, save_index
from refinestyle_hub.storage.model_folder import Folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.storage.tensors import read_header, read_tensors
from refinestyle_hub.tokens.token_set import TokenSet


GENERATOR = tiny_generator()
DOMAIN = token_set(seed=1)
WEIGHTS = "tokens.safetensors"


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    DOMAIN.save_pretrained(tmp_path / "domain")
    return tmp_path / "domain"


def assert_refused(load: Callable[[], object], *words: str) -> None:
    with pytest.raises(RefineStyleHubError) as error:
        load()
    text = str(error.value)
    assert text.count("\n") <= 2, text
    for word in words:
        assert word in text, text


def with_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


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


# --- Threat: the file exhausts the machine


def test_huge_header_is_not_read(domain: Path) -> None:
    with (domain / WEIGHTS).open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))
    assert_refused(lambda: TokenSet.from_pretrained(domain), "not a safetensors file, or it is truncated")
    with (domain / WEIGHTS).open("r+b") as file:  # as large as it says, but sparse
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "not a safetensors file, or it is truncated")


def test_huge_config_is_not_read(domain: Path) -> None:
    with (domain / "config.json").open("r+b") as file:
        file.truncate(1 << 30)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "larger than")


def test_data_is_not_read_before_its_header_fits(domain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(header: dict[str, Any]) -> None:
        header["extra"] = {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}

    with_header(domain / WEIGHTS, huge)
    size = (domain / WEIGHTS).stat().st_size
    length = struct.unpack("<Q", (domain / WEIGHTS).read_bytes()[:8])[0]
    with (domain / WEIGHTS).open("r+b") as file:
        file.truncate(8 + length + (1 << 32))  # sparse: 4 GiB on paper
    assert size < 1 << 20
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: pytest.fail("read") if self.name == WEIGHTS else open_bytes(self)
    )
    assert_refused(lambda: TokenSet.from_pretrained(domain), "unexpected: extra")


def open_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read()


@pytest.mark.parametrize(
    "change",
    [
        {"mapping_layers": 10**9},
        {"z_dim": 10**9},
        {"resolution": 1 << 40},
        {"resolution": 1 << 14, "channels": {str(2**k): 1 << 14 for k in range(2, 15)}},
        {"channels": {"4": 10**12, "8": 1, "16": 1, "32": 1}},
        {"w_dim": -1},
        {"w_dim": 1e400},
        {"channels": {"9" * 5000: 4}},
    ],
)
def test_config_of_absurd_size_is_refused_quickly(tmp_path: Path, change: dict[str, Any]) -> None:
    GENERATOR.save_pretrained(tmp_path)
    config = {**json.loads((tmp_path / "config.json").read_text()), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = GENERATOR.state_dict()
    (tmp_path / "model.safetensors").write_bytes(safetensors_save({k: v.contiguous() for k, v in state.items()}))
    assert_refused(lambda: Generator.from_pretrained(tmp_path))


def test_token_config_of_absurd_size_is_refused_quickly(domain: Path) -> None:
    config = json.loads((domain / "config.json").read_text())
    config["layers"]["b4.conv1"]["tokens"] = 10**12
    (domain / "config.json").write_text(json.dumps(config))
    (domain / WEIGHTS).write_bytes(safetensors_save(DOMAIN.state_dict()))
    assert_refused(lambda: TokenSet.from_pretrained(domain), "no sizes of tokens")


def test_deeply_nested_json_is_refused(domain: Path) -> None:
    (domain / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "not valid JSON")


# --- Threat: the file is read differently by different readers


@pytest.mark.parametrize(
    "text", ['{"class": "TokenSet", "class": "Generator"}', '{"a": NaN}', '{"a": Infinity}', "[]", ""]
)
def test_ambiguous_json_is_refused(domain: Path, text: str) -> None:
    (domain / "config.json").write_text(text)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "config.json is not")


def test_duplicate_tensor_names_are_refused(domain: Path) -> None:
    content = (domain / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    entry = b'"b4.conv1.p":{"dtype":"F32","shape":[3,12],"data_offsets":[0,144]},'
    header = b"{" + entry + content[9 : 8 + length]
    (domain / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    assert_refused(lambda: TokenSet.from_pretrained(domain), "'b4.conv1.p' appears twice")


def test_aliased_tensors_are_refused(domain: Path) -> None:
    """Two names for the same bytes, and bytes without a name."""

    def alias(header: dict[str, Any]) -> None:
        header["b4.conv1.q"]["data_offsets"] = header["b4.conv1.p"]["data_offsets"]

    with_header(domain / WEIGHTS, alias)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "damaged")


def test_a_gap_or_a_tail_is_refused(domain: Path) -> None:
    content = (domain / WEIGHTS).read_bytes()
    for damaged in (content + b"\0", content[:-1], content + b"PK\x03\x04"):
        (domain / WEIGHTS).write_bytes(damaged)
        assert_refused(lambda: TokenSet.from_pretrained(domain), "damaged")


def test_a_zip_in_disguise_is_refused(domain: Path) -> None:
    with zipfile.ZipFile(domain / WEIGHTS, "w") as archive:
        archive.writestr("data.pkl", b"x")
    assert_refused(lambda: TokenSet.from_pretrained(domain), "not a safetensors file")


@pytest.mark.parametrize("dtype", ["F64", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "X", "", None, 7])
def test_wrong_types_of_number_are_refused(domain: Path, dtype: object) -> None:
    def change(header: dict[str, Any]) -> None:
        header["b4.conv1.p"]["dtype"] = dtype

    with_header(domain / WEIGHTS, change)
    assert_refused(lambda: TokenSet.from_pretrained(domain))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"dtype": "F32", "shape": [3], "data_offsets": [0]},
        {"dtype": "F32", "shape": [-3, -12], "data_offsets": [0, 144]},
        {"dtype": "F32", "shape": [3, 12], "data_offsets": [144, 0]},
        {"dtype": "F32", "shape": [3, 12], "data_offsets": [0, 144], "code": "x"},
    ],
)
def test_malformed_entries_are_refused(domain: Path, entry: object) -> None:
    def change(header: dict[str, Any]) -> None:
        header["b4.conv1.p"] = entry

    with_header(domain / WEIGHTS, change)
    assert_refused(lambda: TokenSet.from_pretrained(domain))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_values_that_are_no_numbers_are_refused(domain: Path, value: float, kind: torch.dtype) -> None:
    state = {name: t.to(kind, copy=True) if t.is_floating_point() else t for name, t in DOMAIN.state_dict().items()}
    state["b8.conv0.q"][1, 2] = value
    (domain / WEIGHTS).write_bytes(safetensors_save(state))
    assert_refused(lambda: TokenSet.from_pretrained(domain), WEIGHTS, "b8.conv0.q")


def test_config_for_other_weights_is_refused(domain: Path) -> None:
    config = json.loads((domain / "config.json").read_text())
    (domain / "config.json").write_bytes(dump_json({**config, "metadata": {"trusted": True}}))
    assert_refused(lambda: TokenSet.from_pretrained(domain), "not the config that")


@pytest.mark.parametrize("name", ["__class__", "b4.conv1.weight", "__init__.p", "/etc.p"])
def test_layer_names_are_only_keys(tmp_path: Path, name: str) -> None:
    """A layer that the generator does not have is refused by the generator, whatever it is called."""
    tokens = TokenSet({name: DOMAIN.layers["b4.conv1"]})
    tokens.save_pretrained(tmp_path)
    loaded = TokenSet.from_pretrained(tmp_path)
    w = GENERATOR.map(torch.zeros(1, 16))
    assert_refused(lambda: GENERATOR(w, loaded), name)


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
        (domain / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RefineStyleHubError) as error:
            TokenSet.from_pretrained(domain)
        assert str(error.value).count("\n") <= 2
        assert "\x1b" not in str(error.value)
        assert len(str(error.value)) < 1000
    (domain / WEIGHTS).write_bytes(safetensors_save(DOMAIN.state_dict()))
    for change in ({evil: 1}, {"class": evil}, {"format_version": evil}, {"layers": {evil: 1}}, {"metadata": evil}):
        (domain / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RefineStyleHubError) as error:
            TokenSet.from_pretrained(domain)
        assert str(error.value).count("\n") <= 2
        assert "\x1b" not in str(error.value)
        assert len(str(error.value)) < 1000


def test_a_file_that_is_replaced_while_it_is_read(domain: Path) -> None:
    """Its header was checked, then another file took its place."""
    header = read_header(domain / WEIGHTS)
    token_set(seed=1, rank=2).save_pretrained(domain)
    assert_refused(lambda: read_tensors(domain / WEIGHTS, DOMAIN.state_dict(), header=header), "replaced while")


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
