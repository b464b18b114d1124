"""A path as a user writes it -> ``Path``. Every function and option that takes one goes this way."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError, printable


__all__ = ["AnyPath", "is_address", "is_clearly_path", "user_path"]

AnyPath: TypeAlias = str | os.PathLike[str]


def is_address(value: object) -> bool:
    """Whether it is an address on the web, which no function takes for a path."""
    return isinstance(value, str) and re.match(r"(?i)(https?|s3|gs|ftp):/", value.strip()) is not None


def is_clearly_path(value: AnyPath) -> bool:
    """Whether it can only be a path, by the way it is written, and neither a name nor a Hub id."""
    if not isinstance(value, str):
        return True
    begins = re.match(r"[.~/]|[A-Za-z]:/|file:", value) is not None
    return begins or "\\" in value or value.endswith("/") or value.count("/") > 1


def user_path(value: AnyPath) -> Path:
    """The path that was written: ``~`` is the home folder, and ``file://`` names a local file.

    Raises:
        ConfigError: It is empty, too long, not a path, or an address on the web.
    """
    if not isinstance(value, str | bytes | os.PathLike):
        raise ConfigError(f"A path is a text or a pathlib.Path, not {printable(repr(value))}.")
    text = os.fsdecode(value)
    if not text.strip():
        raise ConfigError("A path is empty: name a file or a folder ('.' is the present one).")
    if "\0" in text:
        raise ConfigError(f"'{printable(text)}' cannot be a path: it has a null character.")
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif is_address(text):
        raise ConfigError(f"'{printable(text)}' is an address: download the file first, then name it here.")
    path = Path(os.path.expanduser(text))
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(
                f"'{printable(path.name)}...' is too long for a path here: use a shorter name."
            ) from None
    return path
