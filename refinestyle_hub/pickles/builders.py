"""What the names in a pickle may build: a table of text, none of which is imported.

A name of the table builds a tensor or a plain container; any other an inert ``Record``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsafePickleError


__all__ = ["ARRAY", "BUILDERS", "STORAGES", "Builder", "Name", "Record", "Storage", "attach", "is_hostile", "key_of"]

MAX_KEY = 1 << 60  # whole numbers as keys: larger ones can be chosen to have one hash
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
STORAGES |= {name.replace("torch.", "torch.cuda.", 1): dtype for name, dtype in list(STORAGES.items())[:10]}
NUMPY_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
# Whose functions run something, open something or look something up
HOSTILE = re.compile(
    r"(_io|_posixsubprocess|(__)?builtins?(__)?|code|codecs|commands|ctypes|ftplib|functools|getpass|http|imaplib|"
    r"importlib|inspect|io|marshal|mmap|multiprocessing|nt|ntpath|operator|os|pdb|pickle|pip|pkgutil|platform|poplib|"
    r"posix|posixpath|pty|runpy|shutil|signal|site|smtplib|socket|sqlite3|ssl|subprocess|sys|telnetlib|tempfile|"
    r"threading|timeit|types|urllib|urllib2|venv|webbrowser|xmlrpc|zipfile|zipimport)\..*",
    re.DOTALL,
)
# But these names of them are types that hold data, as published checkpoints have them
HARMLESS = re.compile(
    r"(__)?builtins?(__)?\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple|"
    r"xrange|unicode|long|Ellipsis|NotImplemented|type)|"
    r"types\.SimpleNamespace|functools\.partial"
)


@dataclass
class Record:
    """An object of the file that is not rebuilt: the name of its class, and its attributes or entries."""

    name: str
    state: dict[Any, Any]
    arguments: tuple[Any, ...] = ()  # what it was made from


@dataclass(frozen=True)
class Storage:
    """The memory that tensors of the file are views of."""

    flat: Tensor  # [n]


@dataclass(frozen=True)
class Name:
    """A global of the file: text, whatever it names elsewhere."""

    text: str


Builder: TypeAlias = Callable[..., Any]


def is_hostile(name: str) -> bool:
    """Whether a name runs something when it is called, as no checkpoint needs."""
    return name not in BUILDERS and HOSTILE.fullmatch(name) is not None and HARMLESS.fullmatch(name) is None


def _check(condition: bool) -> None:
    if not condition:
        raise ValueError("malformed arguments")


def _whole(values: Any) -> bool:
    return type(values) is tuple and all(type(v) is int and v >= 0 for v in values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of its storage. One with more values than that is refused: a copy of it would fill the memory."""
    _check(type(storage) is Storage and _whole((offset,)) and _whole(size) and _whole(stride))
    _check(len(size) == len(stride) <= 8)
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    _check(count == 0 or (count <= storage.flat.numel() and last < storage.flat.numel()))
    flat: Tensor = storage.flat
    return flat.as_strided(size, stride, offset) if count else flat.new_empty(size)


def _parameter(data: Any, *_: Any) -> Tensor:
    _check(isinstance(data, Tensor))
    tensor: Tensor = data
    return tensor


def _persistent_object(meta: Any) -> Record:
    """An object of NVIDIA's ``torch_utils.persistence``: its source code (``module_src``) is left aside unread."""
    _check(type(meta) is dict and type(meta.get("class_name")) is str and type(meta.get("state")) is dict)
    return Record(meta["class_name"], meta["state"])


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """Python 3 fills it afterwards; Python 2 gave the pairs here, and a counter its counts."""
    return {key_of(key): value for key, value in (pairs.items() if type(pairs) is dict else pairs)}


def _default_dict(*_: Any) -> dict[Any, Any]:
    """What it would make of missing keys is left aside."""
    return {}


def _size(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _subclass(rebuild: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of a class of its own, such as ``nn.Buffer``: the tensor."""
    _check(type(rebuild) is Name and rebuild.text in TENSORS and type(arguments) is tuple)
    return BUILDERS[rebuild.text](*arguments)


def _member(owner: Any, name: Any = None) -> Record:
    """A member of an enumeration, which Python 3.11 writes as a call of ``getattr``."""
    if type(owner) is not Name or type(name) is not str:
        raise UnsafePickleError("It cannot be read: it calls 'getattr', which no checkpoint needs. It was not run.")
    return Record(f"{owner.text}.{name}", {})


def _set(members: Any) -> set[Any]:
    return {key_of(member) for member in members}


def _latin(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 writes them."""
    _check(type(text) is str and encoding == "latin1")
    encoded: bytes = text.encode("latin-1")
    return encoded


def _numpy_type(kind: Any, *_: Any) -> Record:
    _check(type(kind) is str)
    return Record("dtype", {"kind": kind.lstrip("<|=")})


def _is_number(dtype: Any) -> bool:
    return type(dtype) is Record and dtype.name == "dtype" and dtype.state.get("kind") in NUMPY_TYPES


def _numpy_scalar(dtype: Any, data: Any) -> float | int | bool | Record:
    _check(type(dtype) is Record and dtype.name == "dtype")
    if not _is_number(dtype):
        return Record("scalar", {})
    _check(type(data) is bytes)
    values = np.frombuffer(data, dtype=np.dtype("<" + dtype.state["kind"]))
    _check(len(values) == 1)
    scalar: float | int | bool = values[0].item()
    return scalar


def _numpy_array(*_: Any) -> Record:
    """An array, whose values follow; of objects and texts none do."""
    return Record(ARRAY, {})


def _numpy_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Record:
    """An array, as protocol 5 has it."""
    array = Record(ARRAY, {})
    _fill(array, shape, dtype, order == "F", data)
    return array


def _fill(array: Record, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
    """Give an array its values, under "values" as a tensor: as many as the file has bytes for."""
    if not _is_number(dtype):
        return
    _check(isinstance(data, bytes | bytearray) and _whole(shape) and len(shape) <= 8)
    values = np.frombuffer(bytes(data), dtype=np.dtype("<" + dtype.state["kind"]))
    ordered = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    kind = np.int64 if dtype.state["kind"] in ("u2", "u4", "u8") else ordered.dtype  # which PyTorch hardly has
    array.state["values"] = torch.from_numpy(np.array(ordered, dtype=kind, order="C"))


ARRAY = "ndarray"  # the name of a record that stands for an array
TENSORS = (  # how PyTorch writes them
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor_v2",
)
BUILDERS: dict[str, Builder] = {
    "__builtin__.set": _set,
    "_codecs.encode": _latin,
    "addict.addict.Dict": _dict,
    "builtins.dict": _dict,
    "builtins.getattr": _member,
    "builtins.set": _set,
    "collections.Counter": _dict,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "dnnlib.util.EasyDict": _dict,
    "easydict.EasyDict": _dict,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy._core.numeric._frombuffer": _numpy_buffer,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.numeric._frombuffer": _numpy_buffer,
    "numpy.dtype": _numpy_type,
    "torch.Size": _size,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
}


def key_of(key: Any) -> Any:
    """Text, or a small number or constant, or a few of them; of an inert object its name.

    Nothing nested: hashing follows the nesting on the machine's own stack.
    """
    if isinstance(key, Name):
        return key.text
    if isinstance(key, Record):
        return key.name
    _check(_is_plain(key) or (type(key) is tuple and len(key) <= 8 and all(_is_plain(part) for part in key)))
    return key


def _is_plain(key: Any) -> bool:
    return key is None or type(key) in (str, bool, float, bytes) or (type(key) is int and abs(key) < MAX_KEY)


def attach(target: Any, state: Any) -> None:
    """Attributes are entries of a record. Those of other values, such as a dictionary's, are left aside."""
    if type(target) is Record and target.name == "dtype":
        _check(type(state) is tuple and len(state) > 1)
        if state[1] not in ("<", "|", "="):  # big-endian
            target.state["kind"] = ""
    elif type(target) is Record and target.name == ARRAY:
        _check(type(state) is tuple and len(state) == 5)
        _fill(target, *state[1:])
    elif type(target) is Record:
        if type(state) is tuple and len(state) == 2:  # of an object with slots: their values come second
            state = state[0] if type(state[0]) is dict else state[1]
        if not target.state and type(state) is dict:
            target.state = state
    else:
        _check((type(target) is dict and type(state) is dict) or type(target) is Tensor)
