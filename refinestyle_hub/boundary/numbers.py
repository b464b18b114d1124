"""A number as a user gives it -> ``int``, ``float`` or ``bool``: Python's, numpy's, or a tensor that holds one."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ConfigError, printable


__all__ = ["MAX_SEED", "check_seed", "flag", "real", "whole"]

LARGEST = 3.4e38  # what float32 holds
MAX_SEED = 2**32 - 1


def whole(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number that int64 holds; 2.0 is one, True is none. Raises ConfigError, which says what it may be."""
    number = _number(value)
    if number is None or not abs(number) < 1 << 63 or number != int(number) or not _within(number, low, high):
        raise ConfigError(f"{name} must be a whole number{_range(low, high)}, not {printable(repr(value))}.")
    return int(number)


def real(value: Any, name: str, low: float | None = None, high: float | None = None) -> float:
    """A number that float32 holds. Raises ConfigError, which says what ``name`` may be."""
    number = _number(value)
    if number is None or not abs(number) <= LARGEST or not _within(number, low, high):
        raise ConfigError(f"{name} must be a finite number{_range(low, high)}, not {printable(repr(value))}.")
    return float(number)


def flag(value: Any, name: str) -> bool:
    """Yes or no; 1 and 0 count, texts do not: "no" would be a yes. Raises ConfigError."""
    found = _item(value)
    if not isinstance(found, bool | int) or found not in (0, 1):
        raise ConfigError(f"{name} must be True or False, not {printable(repr(value))}.")
    return bool(found)


def check_seed(seed: Any) -> int:
    """A seed as ``int``. Raises ConfigError where it is not a whole number from 0 to 2**32 - 1."""
    return whole(seed, "A seed", 0, MAX_SEED)


def _item(value: Any) -> Any:
    """The value in a scalar of numpy or PyTorch, or in an array of one value; others as they are."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        try:
            return value.item()
        except (RuntimeError, TypeError, ValueError):  # such as a tensor on the meta device, which holds none
            return None
    return value


def _number(value: Any) -> int | float | None:
    """None where it is no single number."""
    value = _item(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _within(number: float, low: float | None, high: float | None) -> bool:
    return (low is None or number >= low) and (high is None or number <= high)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f" of {high} or less"
    return f" of {low} or more" if high is None else f" from {low} to {high}"
