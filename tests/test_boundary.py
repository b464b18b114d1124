"""What users hand over: paths, numbers, and files that are other than their names say."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from refinestyle_hub.boundary.contents import contents_of
from refinestyle_hub.boundary.numbers import real, whole
from refinestyle_hub.boundary.paths import user_path
from refinestyle_hub.errors import ConfigError, ModelFileError, ModelNotFoundError, RefineStyleHubError, SaveError
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pickles.torch_files import read_torch
from refinestyle_hub.storage.atomic import write_file, write_folder
from refinestyle_hub.tokens.token_set import TokenSet


ODD_NAMES = [
    "with space",
    "a#b",
    "100%",
    "[x]",
    "a'b",
    'a"b',
    "ü ñ 漢",
    "a&b;c",
    "$HOME",
    "*",
    "a=b",
    "-x",
    "\udcff",
    "a\nb",
]


# --- Paths ----------------------------------------------------------------------------------------------------------


def test_paths_as_users_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    assert user_path(Path("~/a")) == tmp_path / "a"
    assert user_path(os.fsencode(tmp_path / "b")) == tmp_path / "b"
    assert user_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert user_path("~no-such-user/a") == Path("~no-such-user/a")
    for name in ODD_NAMES:
        assert user_path(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a\0b", "null character"),
        ("https://example.org/a.png", "is an address: download"),
        ("s3://bucket/a", "is an address"),
        ("a" * 300, "too long"),
        (None, "not None"),
        (7, "not 7"),
        (["a"], r"not \['a'\]"),
    ],
)
def test_what_is_no_path(path: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        user_path(path)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_written_and_read(domain: Path, tmp_path: Path, name: str) -> None:
    tokens = TokenSet.from_pretrained(domain)
    tokens.save_pretrained(tmp_path / name)
    assert TokenSet.from_pretrained(tmp_path / name).layers.keys() == tokens.layers.keys()


def test_home_folder_in_every_kind_of_call(
    domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    TokenSet.from_pretrained("~/domain").save_pretrained("~/copy")
    assert (tmp_path / "copy" / "config.json").is_file()
    assert run("domains", "download", "~/domain", "--out=~/again")[0] == 0
    assert (tmp_path / "again" / "config.json").is_file()
    assert not (tmp_path / "~").exists()


def test_a_name_as_long_as_can_be(tmp_path: Path) -> None:
    write_file(tmp_path / ("a" * 255), b"1")
    assert (tmp_path / ("a" * 255)).read_bytes() == b"1"


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "two",
    [
        2,
        2.0,
        np.int64(2),
        np.uint8(2),
        np.float32(2),
        np.array(2),
        np.array([2]),
        torch.tensor(2),
        torch.tensor([2.0]),
    ],
)
def test_whole_numbers_of_all_kinds(two: Any) -> None:
    found = whole(two, "steps", 0)
    assert (found, type(found)) == (2, int)
    assert real(two, "truncation") == 2.0


@pytest.mark.parametrize(
    "value", [None, True, "2", 2.5, float("nan"), float("inf"), [2], np.array([1, 2]), Decimal(2), -1, 1 << 70]
)
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match="steps must be a whole number from 0 to 9, not "):
        whole(value, "steps", 0, 9)


@pytest.mark.parametrize(
    "value", [None, False, "1", float("nan"), np.float32("inf"), torch.tensor([1.0, 2.0]), 1j, {}]
)
def test_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(ConfigError, match="truncation must be a finite number, not "):
        real(value, "truncation")


# --- Files that are something else ----------------------------------------------------------------------------------


def packed(kind: str) -> bytes:
    import bz2
    import gzip
    import lzma
    import tarfile
    import zipfile

    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("x"))
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as packer:
            packer.writestr("model.pt", b"x")
    return {"gzip": gzip.compress(b"x"), "bzip2": bz2.compress(b"x"), "xz": lzma.compress(b"x")}.get(
        kind
    ) or buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
OTHERS = {
    "pointer": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "page": (PAGE, "a web page", "log-in"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text", "Download"),
    "json": (b'{"error": "not found"}', "a JSON text", "Name the file"),
    "text": (b"Not Found", "a text", "Name the file"),
    "empty": (b"", "empty", "Download"),
    "gzip": (packed("gzip"), "packed with gzip", "Unpack"),
    "bzip2": (packed("bzip2"), "packed with bzip2", "Unpack"),
    "xz": (packed("xz"), "packed with xz", "Unpack"),
    "tar": (packed("tar"), "a tar archive", "Unpack"),
    "picture": (b"\x89PNG\r\n\x1a\n", "a picture", "Name the file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "PyTorch"),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "a.pt": read_torch,
    "a.PKL": read_torch,
    "a.safetensors": TokenSet.from_pretrained,
    "b.safetensors": Inversion.from_pretrained,
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", READERS)
def test_weights_that_are_no_weights(tmp_path: Path, kind: str, name: str) -> None:
    content, what, advice = OTHERS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        READERS[name](tmp_path / name)
    for part in (str(tmp_path / name), what, advice):
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_zip_that_is_no_checkpoint_and_a_program(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(packed("zip"))
    with pytest.raises(ModelFileError, match="it holds model.pt.\nUnpack it first"):
        read_torch(tmp_path / "a.pt")
    import zipfile

    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", b"N.")
        archive.writestr("b/code/__torch__.py", b"")
    with pytest.raises(ModelFileError, match="TorchScript"):
        read_torch(tmp_path / "b.pt")


def test_pointers_in_place_of_a_folder_s_files(domain: Path) -> None:
    (domain / "config.json").write_bytes(POINTER)
    with pytest.raises(ModelFileError, match=r"(?s)config.json.*git lfs pull"):
        TokenSet.from_pretrained(domain)


def test_folders_and_links_where_a_file_is_due(tmp_path: Path, domain: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="is a folder(, and no file)?. Name the file in it"):
        read_torch(tmp_path / "folder.pt")
    with pytest.raises(ModelNotFoundError, match="a link to nothing"):
        read_torch(tmp_path / "link.pt")
    (domain / "config.json").unlink()
    (domain / "config.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="config.json is a link to nothing"):
        TokenSet.from_pretrained(domain)


def test_what_is_right_is_left_alone() -> None:
    tensors = safetensors.torch.save({"x": torch.zeros(1)})
    buffer = io.BytesIO()
    torch.save({"x": 1}, buffer)
    assert [getattr(contents_of(start), "kind", None) for start in (tensors, buffer.getvalue(), b"\x80\x04N.")] == [
        "safetensors",
        "zip",
        "pickle",
    ]


# --- Places that cannot be written ----------------------------------------------------------------------------------


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SaveError, match=r"a.bin cannot be written: No space left on device.\nMake room") as caught:
        write_file(tmp_path / "a.bin", b"1")
    assert (caught.value.path, caught.value.errno) == (tmp_path / "a.bin", errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


def test_things_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="folder cannot be written: Is a directory"):
        write_file(tmp_path / "folder", b"")
    with pytest.raises(SaveError, match="file/a cannot be written: "):
        write_file(tmp_path / "file" / "a", b"")
    with pytest.raises(SaveError, match="a/b cannot be written: "):
        write_folder(tmp_path / "file" / "a" / "b", {"c": b""})
    with pytest.raises(SaveError, match="/proc/a cannot be written: "):
        write_file("/proc/a", b"")


# --- What is printed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii"])
def test_any_console_shows_any_name(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    code = f"""
from refinestyle_hub.cli import console, main
console.accept_any_text()
console.emit({{}}, {ODD_NAMES!r}[6] + chr(0xdcff) + chr(27) + "[31m", False)
main(["edit", "mini-faces-128", "漢\\udcff.safetensors", "--out", "a.png"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, cwd=tmp_path)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert b"\\udcff" in done.stdout
    assert b"error: " in done.stderr


def test_every_error_of_ours_is_one_of_ours() -> None:
    assert issubclass(SaveError, RefineStyleHubError)
    assert issubclass(SaveError, OSError)
