"""Every option and argument that is a path is read as every function reads one, whichever command has it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from ..boundary.paths import user_path
from ..errors import ConfigError


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
    """The command with its annotations evaluated once, so that what is set in them is what typer sees."""
    signature = inspect.signature(command, eval_str=True)
    for parameter in signature.parameters.values():
        if get_origin(parameter.annotation) is Annotated:
            kind, information, *_ = get_args(parameter.annotation)
            if _is_path(kind):
                information.parser = _reader(information.file_okay, information.dir_okay)

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        return command(**values)

    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    return wrapped


def _is_path(kind: Any) -> bool:
    """Whether it is Path, Path | None, list[Path] and so on."""
    return kind is Path or (get_origin(kind) is not None and any(map(_is_path, get_args(kind))))


def _reader(file_okay: bool, dir_okay: bool) -> Callable[[str], Path]:
    def path(text: str) -> Path:
        if isinstance(text, Path):
            return text
        try:
            found = user_path(text)
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None
        if not dir_okay and found.is_dir():
            raise typer.BadParameter(f"{found} is a folder: name a file.")
        if not file_okay and found.is_file():
            raise typer.BadParameter(f"{found} is a file: name a folder.")
        return found

    return path
