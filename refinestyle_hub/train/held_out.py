"""Pictures that a training is judged by while it goes on: never those of the test split."""

from __future__ import annotations

from ..errors import ConfigError
from .data import Pictures, open_pictures


__all__ = ["open_held_out"]


def open_held_out(data: str, validate: str, size: int) -> Pictures | None:
    """The split "val" of ``validate``, or where that is empty of ``data``; None if ``data`` has no such split.

    Of a ``validate`` that knows no splits but "train", everything.

    Raises:
        ConfigError: ``validate`` has other splits, but not that one. PictureError: no pictures there.
    """
    try:
        return open_pictures(validate or data, size, "val")
    except ConfigError:
        return _everything(validate, size) if validate else None


def _everything(source: str, size: int) -> Pictures:
    everything = open_pictures(source, size, None)
    try:
        known = len(open_pictures(source, size, "train"))
    except ConfigError:
        known = 0
    if known < len(everything):
        raise ConfigError(f'{source} has splits, but none that is called "val".')
    return everything
