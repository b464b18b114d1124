"""Atomic writing: a reader sees the old files or the new ones, never a part of one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelFileError


__all__ = ["new_folder", "write_folder"]


# --- Writing --------------------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` (which must not exist) if the block ends well, else vanishes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (relative name -> content) into ``folder``; other files there are left alone.

    A new folder appears whole or not at all. In an existing one every file is first written beside its place and then
    renamed over it, in the given order, so none is ever truncated. Give the weights before the config: if the process
    dies between the two, the weights' own copy of their config no longer equals ``config.json`` and loading says so,
    or the two configs are equal and the new part is complete.

    Raises ModelFileError when ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelFileError(f"{folder} is a file; save_pretrained needs the name of a folder.")
    if not folder.exists():
        with new_folder(folder) as scratch:
            for name, content in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                _write(scratch / name, content)
        return
    written: list[tuple[Path, Path]] = []
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            written.append((temporary, path))
            _write(temporary, content)
        for temporary, path in written:
            os.replace(temporary, path)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
