"""A number as a user gives it -> ``int`` or ``float``: Python's, numpy's, or a tensor that holds one."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ConfigError, printable


__all__ = ["real", "whole"]


def whole(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number; 2.0 is one, True is none. Raises ConfigError, which says what ``name`` may be."""
    number = _number(value)
    if number is None or not math.isfinite(number) or number != int(number) or not _within(number, low, high):
        raise ConfigError(f"{name} must be a whole number{_range(low, high)}, not {printable(repr(value))}.")
    return int(number)


def real(value: Any, name: str, low: float | None = None, high: float | None = None) -> float:
    """A finite number. Raises ConfigError, which says what ``name`` may be."""
    number = _number(value)
    if number is None or not math.isfinite(number) or not _within(number, low, high):
        raise ConfigError(f"{name} must be a finite number{_range(low, high)}, not {printable(repr(value))}.")
    return float(number)


def _number(value: Any) -> int | float | None:
    """None where it is no single number. Scalars of numpy and PyTorch, and arrays of one value, have ``item``."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _within(number: float, low: float | None, high: float | None) -> bool:
    return (low is None or number >= low) and (high is None or number <= high)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f" of {high} or less"
    return f" of {low} or more" if high is None else f" from {low} to {high}"
