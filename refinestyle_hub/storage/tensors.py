"""Safetensors files: strict reading, byte-stable writing.

A part is two files. ``config.json`` says what it is; ``<stem>[.variant].safetensors`` holds the numbers and, as its
one metadata entry, the same JSON, so that the file also travels alone and a config of another save is noticed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..boundary.contents import check_contents, fetch_again, start_of
from ..errors import ModelFileError, listed, printable
from .schema import MAX_JSON, parse_json


__all__ = ["Header", "check_finite", "encode_tensors", "read_all_tensors", "read_header", "read_tensors", "under"]

METADATA_KEY = "refinestyle"  # one key only: safetensors writes several in random order


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise ModelFileError if any value is NaN or infinite (safetensors does not look)."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise ModelFileError(f"{where}: NaN or infinite values in {listed(bad)}.")


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
    check_contents(path, start_of(path), "is not a safetensors file", "safetensors")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_JSON, size - 8):
            raise ModelFileError(
                f"{path} is not a safetensors file, or it is truncated ({size} bytes).\n{fetch_again(path)}", path=path
            )
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
                raise ModelFileError(f"The header of {path} is malformed at '{printable(name)}'.", path=path)
    if max(ends) != size - 8 - length:
        raise ModelFileError(
            f"{path} is damaged: {size} bytes, but its header describes {8 + length + max(ends)}.\n"
            f"{fetch_again(path)}",
            path=path,
        )
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
    found = "; ".join(f"{kind}: {listed(names)}" for kind, names in problems.items() if names)
    if found:
        raise ModelFileError(f"{path} does not hold the tensors of its config.\n{found}.", path=path)


def read_tensors(
    path: Path, template: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, header: Header | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, floating-point ones as ``dtype``.

    ``template`` gives the names, shapes and kinds of number that must be there, no more and no less. The header is
    checked before any data is read; it is the given one, if the caller has looked at it before. The file is read as
    bytes, never mapped: a mapped file cannot be replaced on Windows, and changes under its readers elsewhere.

    Raises:
        ModelFileError: The file is damaged; a tensor is missing, unexpected, misshapen or of another type; or a value
            is not finite.
    """
    header = header or read_header(path)
    _check_header(header, template, path)
    return _read(path, header, dtype)


def read_all_tensors(path: Path) -> dict[str, Tensor]:
    """Whatever tensors a safetensors file holds, floating-point ones as float32; raises what ``read_tensors`` does."""
    return _read(path, read_header(path), torch.float32)


def _read(path: Path, header: Header, dtype: torch.dtype) -> dict[str, Tensor]:
    content = path.read_bytes()
    if len(content) != header.size or not content.startswith(header.start):
        raise ModelFileError(f"{path} was replaced while it was read. Load it again.", path=path)
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, AssertionError) as error:
        raise ModelFileError(f"{path} is damaged: {printable(error)}.\n{fetch_again(path)}", path=path) from None
    read = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    check_finite(read, path if dtype == torch.float32 else f"{path} as {str(dtype).removeprefix('torch.')}")
    return read
