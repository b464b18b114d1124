"""Typed errors. Each derives from ``RefineStyleHubError`` and from the builtin a caller would expect to catch."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any


__all__ = [
    "BaseMismatchError",
    "CacheError",
    "CardError",
    "ConfigError",
    "DirectionError",
    "DivergedError",
    "DomainError",
    "FaceNotFoundError",
    "FetchError",
    "HubAccessError",
    "HubConnectionError",
    "LayerError",
    "MergeError",
    "MissingDependencyError",
    "ModelFileError",
    "ModelNotFoundError",
    "PictureError",
    "RefineStyleHubError",
    "SaveError",
    "ShapeError",
    "UnsafePickleError",
    "UnsupportedModelError",
    "counted",
    "listed",
    "no_such",
    "printable",
]


class RefineStyleHubError(Exception):
    """Base of every error that this package raises on purpose. Its text is at most three lines, with a way out."""

    def __str__(self) -> str:  # KeyError would show the repr, with quotes
        return str(self.args[0]) if self.args else ""


class ConfigError(RefineStyleHubError, ValueError):
    """A configuration value is of the wrong kind, out of range, or of a newer format."""


class ShapeError(RefineStyleHubError, ValueError):
    """A tensor has another shape than the model needs."""


class LayerError(RefineStyleHubError, KeyError):
    """A layer name that the generator does not have."""


class MergeError(RefineStyleHubError, ValueError):
    """Tokens that cannot become part of a generator's weights."""


class DirectionError(RefineStyleHubError, KeyError):
    """An editing direction that is not known, or that does not fit the generator."""


class DomainError(RefineStyleHubError, KeyError):
    """A domain that the pipeline does not have."""


class BaseMismatchError(RefineStyleHubError, ValueError):
    """A token set, encoder or direction was made for another generator."""


class ModelNotFoundError(RefineStyleHubError, FileNotFoundError):
    """No model under that bundled name, folder or Hub id."""

    def __init__(self, message: str, *, repo_id: str | None = None) -> None:
        super().__init__(message)
        self.repo_id = repo_id  # where it was looked for on the Hub


class ModelFileError(RefineStyleHubError, ValueError):
    """A model file is damaged, incomplete, or holds something other than what its config says."""

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path  # the file


class UnsafePickleError(ModelFileError):
    """A pickle names something to run that no checkpoint needs. It was not run."""


class UnsupportedModelError(RefineStyleHubError, ValueError):
    """A checkpoint is sound, but of a network that this package does not have."""


class PictureError(RefineStyleHubError, ValueError):
    """A file is not a picture that can be used."""


class FaceNotFoundError(RefineStyleHubError, ValueError):
    """No usable face in a picture."""


class MissingDependencyError(RefineStyleHubError, ImportError):
    """An optional package is needed for what was asked; ``name`` is the module that cannot be imported."""


class DivergedError(RefineStyleHubError, ArithmeticError):
    """The numbers of a run are no longer finite. What it reached before is kept."""

    kept: Any = None  # where a whole run was asked for: the ``TokenSet`` that was best before


class HubAccessError(RefineStyleHubError, PermissionError):
    """The Hub knows the repo ``repo_id`` but does not let this user read or write it."""

    def __init__(self, message: str, *, repo_id: str | None = None) -> None:
        super().__init__(message)
        self.repo_id = repo_id


class HubConnectionError(RefineStyleHubError, ConnectionError):
    """The Hub cannot be reached, or broke off while the repo ``repo_id`` was asked for."""

    def __init__(self, message: str, *, repo_id: str | None = None) -> None:
        super().__init__(message)
        self.repo_id = repo_id


class FetchError(RefineStyleHubError, ConnectionError):
    """The package ``requirement``, which a model is made from, could not be fetched."""

    def __init__(self, message: str, *, requirement: str) -> None:
        super().__init__(message)
        self.requirement = requirement


class SaveError(RefineStyleHubError, OSError):
    """The file or folder ``path`` cannot be written: no room, no right to, or something else in its place."""

    def __init__(self, message: str, *, path: Path, errno: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.errno = errno


class CacheError(RefineStyleHubError, OSError):
    """The cache ``folder`` cannot be written: it is full, or not ours."""

    def __init__(self, message: str, *, folder: Path, errno: int | None = None) -> None:
        super().__init__(message)
        self.folder = folder
        self.errno = errno


class CardError(RefineStyleHubError, ValueError):
    """A model card lacks what it must say, or says it in a form that the Hub refuses."""


# --- Words of messages ----------------------------------------------------------------------------------------------


def printable(text: object, limit: int = 80) -> str:
    """What a file says, fit for a message: short, on one line, without control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)[:limit])


def listed(names: list[str]) -> str:
    """Up to five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(printable(name) for name in names[:5]) + more


def counted(count: int, thing: str) -> str:
    """How many of a thing whose plural ends in s: "1 picture", "2,000 pictures"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def no_such(kind: str, name: object, known: Collection[str]) -> str:
    """Say that there is no ``kind`` of that name, what was probably meant, and which are known."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"No {kind} {str(name)[:60]!r}.{hint}\nKnown: {', '.join(sorted(known)) or 'none'}."
