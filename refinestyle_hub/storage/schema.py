"""Frozen dataclass <-> JSON: strict reading, the same bytes for the same data. No pickle, no network."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..boundary.contents import check_contents, start_of
from ..boundary.fields import choices
from ..errors import ConfigError, ModelFileError, listed, printable


__all__ = [
    "FORMAT_VERSION",
    "MAX_JSON",
    "config_from_json",
    "config_to_json",
    "construct",
    "dump_json",
    "from_json",
    "parse_json",
    "read_json",
]


FORMAT_VERSION = "1.0"  # major: old readers must refuse; minor: old readers may ignore the new keys
MAX_JSON = 4 << 20  # bytes; the header of a 1024 px generator takes 20 KB
VALUE_RANGE = [-1.0, 1.0]  # of every picture that a network of this package reads or draws

C = TypeVar("C")


# --- JSON -----------------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key '{printable(next(k for k in keys if keys.count(k) > 1))}' appears twice")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def parse_json(text: bytes, where: object) -> dict[str, Any]:
    """A JSON object, without duplicate keys, NaN or Infinity. Raises ModelFileError, which names ``where``."""
    try:
        data = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where} is not valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise ModelFileError(f"{where} is not a JSON object.")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a small file."""
    check_contents(path, start_of(path), "is not valid JSON", "json", "text", "empty")
    if path.stat().st_size > MAX_JSON:
        raise ModelFileError(f"{path} is larger than {MAX_JSON >> 20} MiB: that is not a config.", path=path)
    return parse_json(path.read_bytes(), path)


def dump_json(data: Mapping[str, Any]) -> bytes:
    """Readable JSON, the same bytes for the same data in every process."""
    return (json.dumps(data, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


# --- Configurations: frozen dataclass <-> JSON ----------------------------------------------------------------------


def config_to_json(kind: str, config: Any) -> dict[str, Any]:
    """What ``config.json`` of a part of class ``kind`` holds."""
    header = {"class": kind, "format_version": FORMAT_VERSION, "value_range": VALUE_RANGE}
    try:  # through text once, so that tuples are lists and keys strings here as they are in the file
        data: dict[str, Any] = json.loads(dump_json({**dataclasses.asdict(config), **header}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The config of this {kind} cannot be written as JSON: {error}.") from None
    return data


def _is_newer(version: object, where: object) -> bool:
    """Whether the file's minor version is newer than ours; a newer major one is refused."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    if match is None:
        raise ModelFileError(
            f"{where} has no valid format_version: '{printable(version)}', where this package writes {FORMAT_VERSION}."
        )
    major, minor = (int(part) for part in FORMAT_VERSION.split("."))
    if int(match[1]) > major:
        raise ConfigError(
            f"{where} has format {version}; this version of refinestyle-hub reads up to {major}.x.\n"
            "Upgrade it: pip install --upgrade refinestyle-hub"
        )
    return int(match[1]) == major and int(match[2]) > minor


def _typed(value: Any, hint: Any, name: str, ignored: list[str] | None) -> Any:
    """``value`` from JSON as the annotated type ``hint``; raises ConfigError."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _typed(value, next(a for a in args if a is not type(None)), name, ignored)
    if origin is Literal and value in args:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return construct(hint, value, name, ignored)
    if origin is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        if len(kinds) == len(value):
            pairs = enumerate(zip(value, kinds, strict=True))
            return tuple(_typed(v, kind, f"{name}[{i}]", ignored) for i, (v, kind) in pairs)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        key_type, value_type = args
        if key_type is int and not all(re.fullmatch(r"\d{1,9}", key) for key in value):
            raise ConfigError(f"{name} must have whole numbers as its keys.")
        return {key_type(k): _typed(v, value_type, f"{name}.{printable(k)}", ignored) for k, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = choices(hint) if origin is Literal else getattr(hint, "__name__", hint)
    raise ConfigError(f"{name} must be {wanted}, not '{printable(value)}'.")


def construct(cls: Any, data: Mapping[str, Any], name: str = "", ignored: list[str] | None = None) -> Any:
    """A dataclass from plain JSON values, each checked against its field's type; raises ConfigError.

    Unknown keys, here or in a dataclass within, are an error, or are left out and added to the list ``ignored``.
    """
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(data) - set(fields))
    if unknown and ignored is None:
        raise ConfigError(f"{name or cls.__name__} has unknown keys: {listed(unknown)}.")
    needed = {f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING}
    if needed - set(data):
        raise ConfigError(f"{name or cls.__name__} lacks the keys {listed(sorted(needed - set(data)))}.")
    prefix = f"{name}." if name else ""
    if ignored is not None:
        ignored += [prefix + key for key in unknown]
    known = {key: value for key, value in data.items() if key in fields}
    return cls(**{key: _typed(value, hints[key], prefix + key, ignored) for key, value in known.items()})


def from_json(cls: type[C], data: Mapping[str, Any], where: object, ignored: list[str] | None = None) -> C:
    """``construct`` of a JSON object in a file. Raises ConfigError, which names ``where``."""
    try:
        made: C = construct(cls, data, ignored=ignored)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return made


def config_from_json(kind: str, config_class: type[C], data: Mapping[str, Any], where: object) -> C:
    """The configuration in ``config.json`` of a part of class ``kind``.

    Unknown keys of a newer minor format are named in one warning and left out; otherwise they are an error.

    Raises:
        ConfigError: The major format is newer, or a value is of the wrong type or out of range.
        ModelFileError: The class or the value range differs, or there is no format version.
    """
    newer = _is_newer(data.get("format_version"), where)
    if data.get("class") != kind:
        raise ModelFileError(f"{where} is of class '{printable(data.get('class'))}', not '{kind}'.")
    if data.get("value_range") != VALUE_RANGE:
        raise ModelFileError(f"{where}: value_range must be {VALUE_RANGE}, not {printable(data.get('value_range'))}.")
    fields = {key: v for key, v in data.items() if key not in ("class", "format_version", "value_range")}
    ignored: list[str] | None = [] if newer else None
    config = from_json(config_class, fields, where, ignored)
    if ignored:
        warnings.warn(
            f"{where} has format {data['format_version']}, newer than {FORMAT_VERSION}; "
            f"these keys are not understood and left out: {listed(ignored)}.",
            stacklevel=4,
        )
    return config
