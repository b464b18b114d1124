"""Fields of a configuration, held against their types, and names of options: files come typed, code does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ..errors import ConfigError, no_such, printable
from .numbers import flag, real, whole


__all__ = ["check_fields", "check_options", "choices", "setting", "text"]

T = TypeVar("T")


def setting(default: T, text: str) -> T:
    """A field of a dataclass with its default and its help on the command line, in whole sentences."""
    made: T = field(default=default, metadata={"help": text})
    return made


def choices(hint: Any) -> str:
    """The words of a ``Literal``, as a sentence lists them."""
    *most, last = (repr(choice) for choice in get_args(hint))
    return f"{', '.join(most)} or {last}" if most else last


def text(value: Any, name: str) -> str:
    """A text; a path is one as well. Raises ConfigError."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise ConfigError(f"{name} must be a text, not {printable(repr(value))}.")
    return found


READ: dict[Any, Callable[[Any, str], Any]] = {int: whole, float: real, bool: flag, str: text}


def check_fields(made: Any) -> None:
    """Bring the numbers, flags and texts of a frozen dataclass to the types of their fields.

    Raises:
        ConfigError: A value is of another kind, not finite, or none of the words of a ``Literal``.
    """
    for name, hint in get_type_hints(type(made)).items():
        value = getattr(made, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ConfigError(f"{name} must be {choices(hint)}, not '{printable(value)}'.")
        if hint in READ:
            object.__setattr__(made, name, READ[hint](value, name))


def check_options(options: Mapping[str, object], known: Collection[str]) -> None:
    """Raise ConfigError for an option that there is not, with what was meant."""
    for name in options:
        if name not in known:
            raise ConfigError(no_such("option", name, known))
