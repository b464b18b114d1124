"""Options of a command made from the fields of a configuration: one place says what there is, and what it means.

The help of an option is what the field's metadata says ("help").
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypeVar, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from ..storage.schema import construct, read_json


__all__ = ["build", "with_options"]

C = TypeVar("C")


def with_options(config: type, skip: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command ``f(..., given)``: for every field of ``config`` it gets an option.

    The fields of a dataclass within ``config`` get options of their own names, which must differ from all others.
    ``given`` receives the values of those options that were used, as they would stand in a JSON file.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        options = _options(config, skip)

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            given: dict[str, Any] = {}
            for option in options:
                if (value := values.pop(option.field.name)) is not None:
                    place = given if option.part is None else given.setdefault(option.part, {})
                    place[option.field.name] = value
            command(**values, given=given)

        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
        parameters += [_parameter(option.field, option.hint) for option in options]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapped

    return decorate


def build(config: type[C], given: Mapping[str, Any], file: Path | None, base: Mapping[str, Any] | None = None) -> C:
    """A configuration from ``base``, over that a JSON file, over that the options given.

    Raises:
        ConfigError: A key is unknown, or a value is of the wrong type or out of range.
        ModelFileError: The file is not a JSON object.
    """
    values = dict(base or {})
    for layer in (read_json(file) if file else {}, given):
        for name, value in layer.items():
            nested = isinstance(value, Mapping) and is_dataclass(get_type_hints(config).get(name))
            values[name] = {**values.get(name, {}), **value} if nested else value
    made: C = construct(config, values)
    return made


class _Option(NamedTuple):
    field: Field[Any]
    hint: Any
    part: str | None  # the field of the configuration whose value has this field


def _options(config: type, skip: Collection[str], part: str | None = None) -> list[_Option]:
    hints, found = get_type_hints(config), []
    for field in fields(config):
        if is_dataclass(hints[field.name]):
            found += _options(hints[field.name], skip, field.name)
        elif field.name not in skip:
            found.append(_Option(field, hints[field.name], part))
    return found


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    flag = "--" + field.name.replace("_", "-")
    kind, parser, metavar = _kind(hint)
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    shown = "" if default in (MISSING, None, "") else f" [default: {default}]"
    help_ = escape(field.metadata["help"] + shown)
    option = typer.Option(flag, help=help_, show_default=False, parser=parser, metavar=metavar)
    annotation: Any = Annotated[Optional[kind], option]  # noqa: UP045  it is made at run time
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(hint: Any) -> tuple[Any, Callable[[str], Any] | None, str | None]:
    """Annotated type of a field -> type for typer, parser of its own, and how the value is written."""
    origin, args = get_origin(hint), get_args(hint)
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
