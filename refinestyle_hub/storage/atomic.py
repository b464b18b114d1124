"""Atomic writing: a reader sees the old files or the new ones, never a part of one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import ModelFileError


__all__ = ["new_file", "new_folder", "write_file", "write_folder"]


def _scratch(path: Path) -> Path:
    """A name beside ``path`` that no reader takes for a file of a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a scratch path; what the block writes there replaces ``path`` if the block ends well, else vanishes."""
    scratch = _scratch(path)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())  # the contents before the name: else a power cut could leave an empty file
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` (which must not exist) if the block ends well, else vanishes."""
    scratch = _scratch(folder)
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write one file; its folder is made if need be."""
    with new_file(path) as scratch:
        scratch.write_bytes(content)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (relative name -> content) into ``folder``; other files there are left alone.

    A new folder appears whole or not at all. In an existing one every file is first written beside its place and then
    renamed over it, in the given order, so none is ever truncated. Give the weights before the config: if the process
    dies between the two, the weights' own copy of their config no longer equals ``config.json`` and loading says so,
    or the two configs are equal and the new part is complete.

    Raises ModelFileError when ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelFileError(f"{folder} is a file; give the name of a folder.", path=folder)
    if not folder.exists():
        with new_folder(folder) as scratch:
            for name, content in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                with (scratch / name).open("xb") as file:  # no file twice
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        return
    with ExitStack() as renames:  # of the last entered first, hence backwards; none if any write fails
        for name, content in reversed(list(files.items())):
            renames.enter_context(new_file(folder / name)).write_bytes(content)
