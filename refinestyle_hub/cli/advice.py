"""Where a model of dlib is missing, what a command can be given instead: the option that it has, not Python's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import typer

from ..errors import MissingDependencyError


__all__ = ["advise_options"]

OPTIONS = {"aligned": "--aligned", "align": "--align none"}  # by the parameter of a command that looks for faces


def advise_options(app: typer.Typer) -> None:
    """Let each command of ``app``, and of the groups below it, name its own option for doing without dlib's models."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _advising(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            advise_options(group.typer_instance)


def _advising(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        try:
            return command(**values)
        except MissingDependencyError as error:
            raise MissingDependencyError(_in_options(str(error), values), name=error.name) from error

    return wrapped


def _in_options(text: str, values: Mapping[str, Any]) -> str:
    """``text`` with the option of a command that got these values; without advice where it has none, or has it on."""
    from ..faces.dlib_models import WITHOUT_FACES, WITHOUT_IDENTITY

    faces = next((option for name, option in OPTIONS.items() if name in values and values[name] is not True), None)
    identity = "--w-only --steps 0" if "w_only" in values else None
    for advice, option in ((WITHOUT_FACES, faces), (WITHOUT_IDENTITY, identity)):
        if option is not None:
            text = text.replace(advice, f"pass {option}")
        else:
            text = text.replace(f"\nOr {advice}.", "").replace(f", or {advice}.", ".")
    return text
