"""A model as named files, wherever they lie: what every source of one can do, and a local folder that does it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..errors import (
    ModelFileError,
    ModelNotFoundError,
    RefineStyleHubError,
    printable,
)


__all__ = ["INDEX", "Folder", "Source", "checked_name", "is_repo_id", "pickle_hint"]


INDEX = "model_index.json"
LONGEST_NAME = 255  # letters of a path inside a model
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def checked_name(name: str) -> PurePosixPath:
    """A relative path without any way out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(character in name for character in "\\:\0"):
        raise ModelFileError(f"{name!r} is not a path inside a model: use a relative one such as domains/sketch.")
    if len(name) > LONGEST_NAME:
        raise ModelFileError(f"'{printable(name)}...' is too long for a path inside a model.")
    return path


def pickle_hint(names: Sequence[str]) -> str:
    """A line of advice if one of the files is a pickle by its name, else nothing."""
    for name in names:
        if name.lower().endswith(PICKLES):
            return f"\n{name!r} is a pickle, which is never read here: refinestyle convert makes a folder of it."
    return ""


class Source(Protocol):
    """A model as named files: a local folder, or a repo on the Hub."""

    def find(self, name: str) -> Path | None:
        """The file ``name``, or None."""

    def is_absent(self, name: str) -> bool:
        """Whether a file that was not found is known not to exist, rather than out of reach."""

    def find_first(self, names: Sequence[str]) -> tuple[str, Path] | None:
        """The first of ``names`` that is there, and its file."""

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a subfolder, sorted."""

    def missing(self, *names: str) -> RefineStyleHubError:
        """The error to raise when none of ``names`` was found."""


@dataclass(frozen=True)
class Folder:
    """A model in a local folder; files are asked for by their path relative to it."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def find(self, name: str) -> Path | None:
        """The file ``name``, or None. Raises ModelFileError if the name or a link leads out of the folder."""
        path = self.root / checked_name(name)
        if not path.is_file():
            return None
        allowed = [self.root.resolve()]
        for parent in self.root.absolute().parents:
            if parent.name == "snapshots":  # huggingface_hub's cache: snapshots/<commit>/x -> blobs/<hash>
                allowed.append(parent.parent.resolve() / "blobs")
        if not any(path.resolve().is_relative_to(folder) for folder in allowed):
            raise ModelFileError(f"{path} is a link out of its model folder; copy the file there instead.")
        return path

    def is_absent(self, name: str) -> bool:
        """Whether a file that was not found is known not to exist."""
        return True

    def find_first(self, names: Sequence[str]) -> tuple[str, Path] | None:
        """The first of ``names`` that is there, and its file."""
        return next(((name, path) for name in names if (path := self.find(name))), None)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a subfolder, sorted."""
        path = self.root / checked_name(folder)
        return sorted(p.name for p in path.iterdir() if p.is_file()) if path.is_dir() else []

    def missing(self, *names: str) -> RefineStyleHubError:
        """The error to raise when none of ``names`` was found."""
        dangling = [name for name in names if (self.root / name).is_symlink()]
        if dangling:
            return ModelNotFoundError(f"{self.root / dangling[0]} is a link to nothing. Copy the file there instead.")
        return ModelNotFoundError(f"{self} has no {' or '.join(names)}.{pickle_hint(self.names())}")


def is_repo_id(name: str) -> bool:
    """Whether ``name`` has the form of a Hub id, ``owner/name``."""
    return (
        bool(re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", name, re.ASCII)) and ".." not in name and "--" not in name
    )
