"""Options of a command made from the fields of a configuration: one place says what there is, and what it means.

The help of an option is what the field's metadata says ("help").
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from ..storage.schema import construct, read_json


__all__ = ["build", "with_options"]

C = TypeVar("C")


def with_options(config: type, skip: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command ``f(..., given)``: for every field of ``config`` it gets an option.

    ``given`` receives the values of those options that were used, as they would stand in a JSON file.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        names = [field.name for field in dataclasses.fields(config) if field.name not in skip]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            given = {name: value for name in names if (value := values.pop(name)) is not None}
            command(**values, given=given)

        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own] + _parameters(config, names)
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapped

    return decorate


def build(config: type[C], given: Mapping[str, Any], file: Path | None, base: Mapping[str, Any] | None = None) -> C:
    """A configuration from ``base``, over that a JSON file, over that the options given.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range.
        ModelFileError: the file is not a JSON object.
    """
    values = {**(base or {}), **(read_json(file) if file else {}), **given}
    made: C = construct(config, values)
    return made


def _parameters(config: type, names: Collection[str]) -> list[inspect.Parameter]:
    hints = get_type_hints(config)
    fields = {field.name: field for field in dataclasses.fields(config)}
    return [_parameter(fields[name], hints[name]) for name in names]


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    flag = "--" + field.name.replace("_", "-")
    kind, parser, metavar = _kind(hint)
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    shown = "" if field.default in (dataclasses.MISSING, "") else f" [default: {field.default}]"
    help_ = field.metadata.get("help", "") + shown
    option = typer.Option(flag, help=help_, show_default=False, parser=parser, metavar=metavar)
    annotation: Any = Annotated[Optional[kind], option]  # noqa: UP045  it is made at run time
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(hint: Any) -> tuple[Any, Callable[[str], Any] | None, str | None]:
    """Annotated type of a field -> type for typer, parser of its own, and how the value is written."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _kind(next(a for a in args if a is not type(None)))
    if origin is Literal:
        return str, None, "|".join(str(a) for a in args)
    if origin is tuple:
        return list, _list_of(args[0]), "A,B,..."
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict, _mapping_of(args[1]), "KEY:VALUE,..."
    return hint, None, None


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part.strip()]

    return parse


def _mapping_of(kind: Callable[[str], Any]) -> Callable[[str], dict[str, Any]]:
    def parse(text: str) -> dict[str, Any]:
        pairs = (part.split(":") for part in text.split(",") if part.strip())
        return {key.strip(): kind(value) for key, value in pairs}

    return parse
