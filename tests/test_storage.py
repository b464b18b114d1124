"""Model files on disk: what is written, what is refused. See also test_security.py."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import ConfigError, ModelFileError, RefineStyleHubError, SaveError
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import config_from_json, config_to_json, dump_json, parse_json
from refinestyle_hub.storage.tensors import encode_tensors, read_header, read_tensors


TENSORS = {"b4.weight": torch.arange(6.0).reshape(2, 3), "b4.strength": torch.tensor(0.5), "pre": torch.tensor([True])}
CONFIG = {"class": "Toy", "format_version": "1.0"}


def toy(path: Path, **changes: torch.Tensor | None) -> Path:
    """A file with TENSORS, some replaced or (None) left out."""
    tensors = {name: t for name, t in {**TENSORS, **changes}.items() if t is not None}
    path.write_bytes(encode_tensors(tensors, CONFIG, torch.float32))
    return path


def assert_readable(error: pytest.ExceptionInfo[RefineStyleHubError], *words: str) -> None:
    """Every message has at most three lines and names what the reader needs."""
    text = str(error.value)
    assert text.count("\n") <= 2, text
    for word in words:
        assert word in text, text


# --- tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors(TENSORS, CONFIG, dtype))
    assert read_header(path).config == CONFIG
    read = read_tensors(path, TENSORS)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():  # small whole numbers and 0.5 are exact in float16
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype
    halves = read_tensors(path, TENSORS, dtype=torch.float16)
    assert halves["b4.weight"].dtype == torch.float16
    assert halves["pre"].dtype == torch.bool


def test_views_of_one_storage_are_saved_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "b": whole.t(), "c": whole[1:, ::2]}
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors(tensors, CONFIG, torch.float32))
    for name, tensor in read_tensors(path, tensors).items():
        assert torch.equal(tensor, tensors[name])


def test_empty_token_sets_are_files_too(tmp_path: Path) -> None:
    empty = {"b4.p": torch.zeros(0, 3)}
    path = tmp_path / "tokens.safetensors"
    path.write_bytes(encode_tensors(empty, CONFIG, torch.float32))
    assert read_tensors(path, empty)["b4.p"].shape == (0, 3)


def test_missing_extra_and_misshapen_are_named_at_once(tmp_path: Path) -> None:
    extra = {f"extra{i}": torch.zeros(1) for i in range(8)}
    path = toy(tmp_path / "model.safetensors", **{"b4.strength": None, "b4.weight": torch.zeros(3, 2)}, **extra)
    with pytest.raises(ModelFileError) as error:
        read_tensors(path, TENSORS)
    assert_readable(error, str(path), "missing: b4.strength", "extra4 and 3 more", "[3, 2], expected [2, 3]")
    assert "extra5" not in str(error.value)


def test_type_of_number_is_checked(tmp_path: Path) -> None:
    path = toy(tmp_path / "model.safetensors", pre=torch.tensor([1.0]))
    with pytest.raises(ModelFileError) as error:
        read_tensors(path, TENSORS)
    assert_readable(error, "pre F32, expected BOOL")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused_when_saving(value: float) -> None:
    with pytest.raises(ModelFileError, match=r"NaN or infinite values in b4\.weight"):
        encode_tensors({"b4.weight": torch.tensor([0.0, value])}, CONFIG, torch.float32)


def test_too_large_for_half_precision_is_refused_when_saving() -> None:
    with pytest.raises(ModelFileError, match="too large for float16"):
        encode_tensors({"b4.weight": torch.tensor([1e6])}, CONFIG, torch.float16)


def test_too_large_for_half_precision_is_refused_when_loading(tmp_path: Path) -> None:
    path = toy(tmp_path / "model.safetensors", **{"b4.strength": torch.tensor(1e6)})
    assert read_tensors(path, TENSORS, torch.bfloat16)["b4.strength"].isfinite()
    with pytest.raises(ModelFileError, match=r"as float16: NaN or infinite values in b4\.strength"):
        read_tensors(path, TENSORS, torch.float16)


def some_bytes() -> bytes:
    config = config_to_json("StyleGAN2Generator", StyleGAN2Config(32))
    tensors = {f"layer{i}.p": torch.full((i + 1, 2), float(i)) for i in range(20)}
    return dump_json(config) + encode_tensors(tensors, config, torch.float32)


def test_bytes_do_not_depend_on_the_hash_seed() -> None:
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    script = "import sys, test_storage; sys.stdout.buffer.write(test_storage.some_bytes())"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert done.stdout == some_bytes()
    assert len(done.stdout) > 2000


def test_files_are_read_not_mapped(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    path = toy(tmp_path / "model.safetensors")
    read = read_tensors(path, TENSORS)
    assert path.name not in Path("/proc/self/maps").read_text()
    path.write_bytes(b"")  # a mapped tensor would now crash the process
    assert torch.equal(read["b4.weight"], TENSORS["b4.weight"])


# --- configurations


@dataclass(frozen=True)
class Inner:
    digest: str
    rank: int = 4


@dataclass(frozen=True)
class Outer:
    base: Inner
    layers: tuple[str, ...]
    size: tuple[int, int]
    ranks: dict[int, int] = field(default_factory=dict)
    clamp: float | None = None


OUTER = Outer(Inner("ab"), ("b4.conv1", "b8.conv0"), (3, 4), {4: 8, 16: 2}, 256.0)


def test_configs_round_trip() -> None:
    for config in (OUTER, StyleGAN2Config(64), StyleGAN2Config(32, 8, 8, 2, {4: 2, 8: 2, 16: 2, 32: 2}, 256.0)):
        name = type(config).__name__
        data = parse_json(dump_json(config_to_json(name, config)), "config.json")
        assert config_from_json(name, type(config), data, "config.json") == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": [3, 4, 5]}, "size must be"),
        ({"size": [3, True]}, r"size\[1\] must be int, not 'True'"),
        ({"layers": "b4"}, "layers must be"),
        ({"layers": ["b4", 4]}, r"layers\[1\] must be str"),
        ({"ranks": {"four": 8}}, "ranks must have whole numbers"),
        ({"ranks": {"4": "8"}}, r"ranks\.4 must be int"),
        ({"base": {"rank": 2}}, "base lacks the keys digest"),
        ({"base": {"digest": "a", "extra": 1}}, "base has unknown keys: extra"),
        ({"base": None}, "base must be Inner"),
        ({"clamp": "256"}, "clamp must be float"),
        ({"colour": 1, "shade": 2}, "unknown keys: colour, shade"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        config_from_json("Outer", Outer, {**config_to_json("Outer", OUTER), **change}, "config.json")
    assert_readable(error, "config.json")


def test_newer_minor_format_warns_once_and_loads() -> None:
    data = {**config_to_json("Outer", OUTER), "format_version": "1.7", "colour": 1, "shade": 2}
    with pytest.warns(UserWarning, match="format 1.7.*colour, shade") as caught:
        assert config_from_json("Outer", Outer, data, "config.json") == OUTER
    assert len(caught) == 1


def test_newer_keys_further_in_are_left_out_too() -> None:
    data = {**config_to_json("Outer", OUTER), "format_version": "1.7", "base": {"digest": "ab", "salt": 1}, "new": {}}
    with pytest.warns(UserWarning, match=r"left out: new, base\.salt\.$") as caught:
        assert config_from_json("Outer", Outer, data, "config.json") == OUTER
    assert len(caught) == 1


def test_newer_major_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reads up to 1\.x.\nUpgrade it: pip install"):
        config_from_json("Outer", Outer, {**config_to_json("Outer", OUTER), "format_version": "2.0"}, "config.json")


@pytest.mark.parametrize("version", [None, 1, "1", "one.two", "1.0.0", "-1.0"])
def test_format_version_must_be_there(version: object) -> None:
    with pytest.raises(ModelFileError, match="no valid format_version"):
        config_from_json("Outer", Outer, {**config_to_json("Outer", OUTER), "format_version": version}, "config.json")


def test_class_and_value_range_are_checked() -> None:
    data = config_to_json("Outer", OUTER)
    with pytest.raises(ModelFileError, match="config.json is of class 'Outer', not 'Generator'"):
        config_from_json("Generator", Outer, data, "config.json")
    with pytest.raises(ModelFileError, match="value_range must be"):
        config_from_json("Outer", Outer, {**data, "value_range": [0, 255]}, "config.json")


# --- folders


def test_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "model"
    with pytest.raises(SaveError, match="model cannot be written"):  # the second name cannot be written
        write_folder(folder, {"a": b"1", "./a": b"2"})
    assert list((tmp_path / "parent").iterdir()) == []
    write_folder(folder, {"a": b"1", "sub/b": b"2"})
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == ["a", "sub/b"]


def test_existing_folder_keeps_its_other_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "a").write_text("old")
    write_folder(tmp_path, {"a": b"new"})
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "a"]


def test_failed_write_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("a folder in the way")
    with pytest.raises(OSError, match="b"):
        write_folder(tmp_path, {"b/c/d": b"", "a": b"new"})
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_file_as_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(ValueError, match="is a file; give the name of a folder"):
        write_folder(tmp_path / "model", {"a": b""})


def test_saved_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", {"a": b"1"})
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    assert (tmp_path / "model" / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "folder").stat().st_mode


KILLED_WRITERS = """
import json, os, random, signal, sys, time
from pathlib import Path
from refinestyle_hub.storage.atomic import write_folder

folder, rng = Path(sys.argv[1]), random.Random(0)
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        for i in range(json.loads((folder / "config").read_bytes())["i"] + 1, 10**9):
            write_folder(folder, {"weights": b"%d " % i * 20_000, "config": json.dumps({"i": i}).encode()})
    time.sleep(rng.uniform(0.005, 0.05))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    numbers, config = (folder / "weights").read_bytes().split(), json.loads((folder / "config").read_bytes())
    # whole files; the weights of this save or, with a new config still to come, of the one after
    assert len(numbers) == 20_000 and len(set(numbers)) == 1, numbers[:3]
    assert int(numbers[0]) - config["i"] in (0, 1), (numbers[0], config)
print("survived")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked writers")
def test_killed_writers_leave_whole_files(tmp_path: Path) -> None:
    write_folder(tmp_path, {"weights": b"0 " * 20_000, "config": b'{"i": 0}'})
    done = subprocess.run([sys.executable, "-c", KILLED_WRITERS, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "survived\n", done.stderr
