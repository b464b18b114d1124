"""Every option and argument that is a path is read as every function reads one, whichever command has it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ..boundary.paths import user_path


__all__ = ["read_paths"]


def read_paths(app: typer.Typer) -> None:
    """Let each command of ``app``, and of the groups below it, have its paths through ``user_path``."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _reading(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            read_paths(group.typer_instance)


def _reading(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        return command(**{name: _read(value) for name, value in values.items()})

    return wrapped


def _read(value: Any) -> Any:
    if isinstance(value, Path):
        return user_path(value)
    return [_read(part) for part in value] if isinstance(value, list) else value
