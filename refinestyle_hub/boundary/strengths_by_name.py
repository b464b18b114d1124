"""Strengths by name, as edits and domains are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import ConfigError, printable


__all__ = ["by_name"]

K = TypeVar("K")
V = TypeVar("V")


def by_name(value: Mapping[K, V] | None, what: str, example: str) -> Mapping[K, V]:
    """The mapping, empty for None. Raises ConfigError for a list, a text and the like, with an ``example``."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        given: Any = value
        raise ConfigError(f"{what} are strengths by name, such as {example}, not {printable(repr(given))}.")
    return value
