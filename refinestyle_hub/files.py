"""Model files: strict reading, atomic and byte-stable writing. No pickle, no network.

A part is two files. ``config.json`` says what it is; ``<stem>[.variant].safetensors`` holds the numbers and, as its
one metadata entry, the same JSON, so that the file also travels alone and a config of another save is noticed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import ConfigError, ModelFileError


__all__ = [
    "FORMAT_VERSION",
    "check_finite",
    "config_from_json",
    "config_to_json",
    "construct",
    "dump_json",
    "encode_tensors",
    "from_json",
    "printable",
    "read_header",
    "read_json",
    "read_tensors",
    "write_folder",
]

FORMAT_VERSION = "1.0"  # major: old readers must refuse; minor: old readers may ignore the new keys
METADATA_KEY = "refinestyle"  # one key only: safetensors writes several in random order
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
    if path.stat().st_size > MAX_JSON:
        raise ModelFileError(f"{path} is larger than {MAX_JSON >> 20} MiB: that is not a config.")
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
    wanted = _choices(hint) if origin is Literal else getattr(hint, "__name__", hint)
    raise ConfigError(f"{name} must be {wanted}, not '{printable(value)}'.")


def _choices(hint: Any) -> str:
    *most, last = (repr(choice) for choice in get_args(hint))
    return f"{', '.join(most)} or {last}" if most else last


def check_choices(made: Any) -> None:
    """Whether each field of a dataclass that is one of some words is one of them; raises ConfigError."""
    for name, hint in get_type_hints(type(made)).items():
        if get_origin(hint) is Literal and (value := getattr(made, name)) not in get_args(hint):
            raise ConfigError(f"{name} must be {_choices(hint)}, not '{printable(str(value))}'.")


def construct(cls: Any, data: Mapping[str, Any], name: str = "", ignored: list[str] | None = None) -> Any:
    """A dataclass from plain JSON values, each checked against its field's type; raises ConfigError.

    Unknown keys, here or in a dataclass within, are an error, or are left out and added to the list ``ignored``.
    """
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(data) - set(fields))
    if unknown and ignored is None:
        raise ConfigError(f"{name or cls.__name__} has unknown keys: {_some(unknown)}.")
    needed = {f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING}
    if needed - set(data):
        raise ConfigError(f"{name or cls.__name__} lacks the keys {_some(sorted(needed - set(data)))}.")
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
        ConfigError: a newer major format, a value of the wrong type or out of range.
        ModelFileError: another class, no format version, another value range.
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
            f"these keys are not understood and left out: {_some(ignored)}.",
            stacklevel=4,
        )
    return config


# --- Tensors --------------------------------------------------------------------------------------------------------


def printable(text: object) -> str:
    """What a file says, fit for a message: short, on one line, without control characters."""
    return repr(str(text)[:80])[1:-1]


def _some(names: list[str]) -> str:
    """Up to five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(printable(name) for name in names[:5]) + more


def check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise ModelFileError if any value is NaN or infinite (safetensors does not look)."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise ModelFileError(f"{where}: NaN or infinite values in {_some(bad)}.")


def encode_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype) -> bytes:
    """A safetensors file with floating-point tensors as ``dtype`` and ``config`` as its one metadata entry.

    Raises ModelFileError when a value is not finite, or is not any more as ``dtype``.
    """
    check_finite(tensors, "Not saved")
    plain = {}
    for name, t in tensors.items():
        t = t.detach().to("cpu", dtype if t.is_floating_point() else t.dtype)
        plain[name] = t.clone(memory_format=torch.contiguous_format)  # safetensors refuses tensors that share memory
    check_finite(plain, f"Not saved: too large for {str(dtype).removeprefix('torch.')} (save without a variant)")
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return safetensors.torch.save(plain, metadata={METADATA_KEY: text})


@dataclasses.dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds."""

    tensors: dict[str, tuple[str, list[int]]]  # name -> (dtype as "F32", shape)
    config: dict[str, Any] | None  # the part's config, when the file carries it
    start: bytes  # the file up to its data
    size: int  # of the whole file


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file, without its data.

    Raises ModelFileError for anything but a well-formed header that covers the whole file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_JSON, size - 8):
            raise ModelFileError(f"{path} is not a safetensors file, or it is truncated ({size} bytes).")
        text = file.read(length)
    entries = parse_json(text, f"The header of {path}")
    metadata = entries.pop("__metadata__", {})
    tensors, ends = {}, [0]
    for name, entry in entries.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(_), int(end)], **rest} if not rest:
                tensors[name] = (dtype, shape)
                ends.append(end)
            case _:
                raise ModelFileError(f"The header of {path} is malformed at '{printable(name)}'.")
    if max(ends) != size - 8 - length:
        raise ModelFileError(f"{path} is damaged: {size} bytes, but its header describes {8 + length + max(ends)}.")
    config = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    inside = parse_json(config.encode(), f"The config inside {path}") if isinstance(config, str) else None
    return Header(tensors, inside, length.to_bytes(8, "little") + text, size)


INTEGERS = {torch.bool: ("BOOL",), torch.uint8: ("U8",), torch.int64: ("I64",)}


def _check_header(header: Header, template: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless ``header`` names exactly the tensors of ``template``, with their shapes and kinds of number."""
    shapes, kinds = [], []
    for name in sorted(template.keys() & header.tensors.keys()):
        (dtype, shape), wanted = header.tensors[name], template[name]
        allowed = ("F32", "F16") if wanted.is_floating_point() else INTEGERS[wanted.dtype]
        if shape != list(wanted.shape):
            shapes.append(f"{name} {shape}, expected {list(wanted.shape)}")
        if dtype not in allowed:
            kinds.append(f"{name} {dtype}, expected {' or '.join(allowed)}")
    problems = {
        "missing": sorted(template.keys() - header.tensors.keys()),
        "unexpected": sorted(header.tensors.keys() - template.keys()),
        "wrong shape": shapes,
        "wrong type": kinds,
    }
    found = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
    if found:
        raise ModelFileError(f"{path} does not hold the tensors of its config.\n{found}.")


def read_tensors(
    path: Path, template: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, header: Header | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, floating-point ones as ``dtype``.

    ``template`` gives the names, shapes and kinds of number that must be there, no more and no less. The header is
    checked before any data is read; it is the given one, if the caller has looked at it before. The file is read as
    bytes, never mapped: a mapped file cannot be replaced on Windows, and changes under its readers elsewhere.

    Raises:
        ModelFileError: damaged file, missing, extra or misshapen tensor, wrong dtype, value not finite.
    """
    header = header or read_header(path)
    _check_header(header, template, path)
    content = path.read_bytes()
    if len(content) != header.size or not content.startswith(header.start):
        raise ModelFileError(f"{path} was replaced while it was read. Load it again.")
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, AssertionError) as error:
        raise ModelFileError(f"{path} is damaged: {printable(error)}.") from None
    read = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    check_finite(read, path if dtype == torch.float32 else f"{path} as {str(dtype).removeprefix('torch.')}")
    return read


# --- Writing --------------------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` (which must not exist) if the block ends well, else vanishes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (relative name -> content) into ``folder``; other files there are left alone.

    A new folder appears whole or not at all. In an existing one every file is first written beside its place and then
    renamed over it, in the given order, so none is ever truncated. Give the weights before the config: if the process
    dies between the two, the weights' own copy of their config no longer equals ``config.json`` and loading says so,
    or the two configs are equal and the new part is complete.

    Raises ModelFileError when ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelFileError(f"{folder} is a file; save_pretrained needs the name of a folder.")
    if not folder.exists():
        with new_folder(folder) as scratch:
            for name, content in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                _write(scratch / name, content)
        return
    written: list[tuple[Path, Path]] = []
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            written.append((temporary, path))
            _write(temporary, content)
        for temporary, path in written:
            os.replace(temporary, path)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
