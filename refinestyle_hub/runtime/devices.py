"""Devices and types of numbers as users name them."""

from __future__ import annotations

import re
from typing import Any

import torch

from ..errors import ConfigError, printable


__all__ = ["floating", "usable_device"]


def usable_device(device: Any) -> torch.device:
    """The device, after a number was put on it. Raises ConfigError where there is no such device here."""
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    except (
        RuntimeError,
        AssertionError,
        TypeError,
        ValueError,
    ) as error:  # no such name; no driver; torch without that device
        reason = re.split(r"\.?(?:\s*\n|\. )", str(error).strip())[0]  # PyTorch goes on for pages
        name = printable(repr(device if isinstance(device, str) else str(device)))
        raise ConfigError(f"The device {name} cannot be used here: {reason}.") from error


def floating(dtype: Any) -> torch.dtype:
    """The type of number. Raises ConfigError where it is none of fractions, or a text."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"dtype must be a floating-point type such as torch.float16, not {printable(repr(dtype))}.")
    return dtype
