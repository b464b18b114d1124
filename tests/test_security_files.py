"""Malformed model files: refused as far as possible before their data is read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_parts import DOMAIN, WEIGHTS, assert_refused, with_header
from safetensors.torch import save as safetensors_save
from tiny import tiny_generator, token_set

from refinestyle_hub.generators.base import Generator
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.storage.tensors import read_header, read_tensors
from refinestyle_hub.tokens.token_set import TokenSet


GENERATOR = tiny_generator()


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
    assert_refused(lambda: TokenSet.from_pretrained(domain), "sizes of tokens")


def test_deeply_nested_json_is_refused(domain: Path) -> None:
    (domain / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    assert_refused(lambda: TokenSet.from_pretrained(domain), "not valid JSON")


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


def test_a_file_that_is_replaced_while_it_is_read(domain: Path) -> None:
    """Its header was checked, then another file took its place."""
    header = read_header(domain / WEIGHTS)
    token_set(seed=1, rank=2).save_pretrained(domain)
    assert_refused(lambda: read_tensors(domain / WEIGHTS, DOMAIN.state_dict(), header=header), "replaced while")
