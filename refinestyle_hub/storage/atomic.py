"""Atomic writing: a reader sees the old files or the new ones, never a part of one."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..boundary.paths import AnyPath, user_path
from ..errors import ModelFileError, RefineStyleHubError, SaveError


__all__ = ["check_place", "new_file", "new_folder", "write_file", "write_folder"]

ADVICE = {
    errno.ENOSPC: "Make room there, or name another place.",
    errno.EFBIG: "The system limits how large a file may be (ulimit -f): raise the limit, or name another place.",
    errno.EDQUOT: "Make room there, or name another place.",
    errno.EACCES: "Name a place that you may write to.",
    errno.EPERM: "Name a place that you may write to.",
    errno.EROFS: "Name a place that you may write to.",
    errno.EISDIR: "A folder has that name: name a file in it, or another one.",
    errno.ENOTDIR: "A file is where a folder is needed: name another place.",
    errno.EEXIST: "Something of that name is in the way: name another place.",
    errno.ENOTEMPTY: "Something of that name is in the way: name another place.",
    errno.ENAMETOOLONG: "Use a shorter name.",
}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file that could not be written: of a full disk the system says neither which nor where."""
    try:
        yield
    except RefineStyleHubError:
        raise
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror or error}."
        advice = ADVICE.get(error.errno or 0, "Name another place.")
        raise SaveError(f"{why}\n{advice}", path=path, errno=error.errno) from error


def check_place(folder: AnyPath) -> None:
    """Check before long work that its results can be written into ``folder``, which need not exist yet.

    Raises:
        SaveError: They cannot.
    """
    folder = user_path(folder)
    with _told(folder):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryDirectory(dir=there, prefix=".", suffix=".tmp"):
            pass


def _scratch(path: Path) -> Path:
    """A name beside ``path`` that no reader takes for a file of a model, also where that name is as long as can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")


@contextmanager
def new_file(path: AnyPath) -> Iterator[Path]:
    """Yield a scratch path; what the block writes there replaces ``path`` if the block ends well, else vanishes.

    Raises:
        SaveError: It cannot be written.
    """
    path = user_path(path)
    with _told(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():  # such as /dev/null, which would be replaced
            raise FileExistsError(errno.EEXIST, "It is a device or a pipe")
        scratch = _scratch(path)
        try:
            yield scratch
            with scratch.open("rb+") as file:
                os.fsync(file.fileno())  # the contents before the name: else a power cut could leave an empty file
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: AnyPath) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` (which must not exist) if the block ends well, else vanishes.

    Raises:
        SaveError: It cannot be written.
    """
    folder = user_path(folder)
    with _told(folder):
        scratch = _scratch(folder)
        scratch.mkdir()
        try:
            yield scratch
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_file(path: AnyPath, content: bytes) -> None:
    """Write one file; its folder is made if need be. Raises SaveError."""
    with new_file(path) as scratch:
        scratch.write_bytes(content)


def write_folder(folder: AnyPath, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (relative name -> content) into ``folder``; other files there are left alone.

    A new folder appears whole or not at all. In an existing one every file is first written beside its place and then
    renamed over it, in the given order, so none is ever truncated. Give the weights before the config: if the process
    dies between the two, the weights' own copy of their config no longer equals ``config.json`` and loading says so,
    or the two configs are equal and the new part is complete.

    Raises:
        ModelFileError: ``folder`` is a file.
        SaveError: It cannot be written.
    """
    folder = user_path(folder)
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
