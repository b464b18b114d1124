"""Reading a pickle without executing it.

A pickle is a program for a small stack machine, and the danger is in three of its instructions: GLOBAL looks a name
up, REDUCE calls it, BUILD sets an object's attributes. The machine below has them too, but here a name is only text:
it is looked up in the table ``BUILDERS`` of this file, never imported, and what a name builds is a tensor, a plain
container or an inert ``Record``. Of the standard library only ``pickletools`` is used, which decodes instructions.

Sizes are bounded by the file: containers grow by one entry per instruction, nothing is copied by the memo, a tensor
is a view of bytes that the file holds, and no loop or recursion follows the data's own structure.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelFileError, UnsafePickleError


__all__ = ["Record", "Storage", "remaining", "unpickle"]

MAX_INSTRUCTIONS = 1_000_000  # a training state with optimisers takes a tenth
MAX_COPIED = 1_000_000  # entries and letters, beyond the size of the file: one argument may go to many calls
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
}
NUMPY_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")

# Instructions of the protocols 2 to 5, as published files have them; text as Python 2 wrote it is taken for Latin-1
# fmt: off
LITERALS = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})
# fmt: on
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class Record:
    """An object of the file that is not rebuilt: the name of its class, and its attributes."""

    name: str
    state: dict[str, Any]


@dataclass(frozen=True)
class Storage:
    """The memory that tensors of the file are views of."""

    flat: Tensor  # [n]


@dataclass(frozen=True)
class Name:
    """A global of the file: text, whatever it names elsewhere."""

    text: str


Builder: TypeAlias = Callable[..., Any]


# --- What names may build -------------------------------------------------------------------------------------------


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
    """Python 3 fills it afterwards; Python 2 gave the pairs here."""
    return {_key(key): value for key, value in pairs}


def _set(members: Any) -> set[Any]:
    return {_key(member) for member in members}


def _latin(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 writes them."""
    _check(type(text) is str and encoding == "latin1")
    encoded: bytes = text.encode("latin-1")
    return encoded


def _numpy_type(kind: Any, *_: Any) -> Record:
    _check(kind in NUMPY_TYPES)
    return Record("dtype", {"kind": kind})


def _numpy_scalar(dtype: Any, data: Any) -> float | int | bool:
    _check(type(dtype) is Record and dtype.name == "dtype" and type(data) is bytes)
    values = np.frombuffer(data, dtype=np.dtype("<" + dtype.state["kind"]))
    _check(len(values) == 1)
    scalar: float | int | bool = values[0].item()
    return scalar


def _numpy_array(*_: Any) -> Record:
    """Stands for an array: StyleGAN3 has them, and is to be told from a damaged file."""
    return Record("ndarray", {})


def _namespace() -> Record:
    return Record("Namespace", {})


BUILDERS: dict[str, Builder] = {
    "__builtin__.set": _set,
    "_codecs.encode": _latin,
    "argparse.Namespace": _namespace,  # the training options in rosinality's checkpoints
    "builtins.set": _set,
    "collections.OrderedDict": _dict,
    "dnnlib.util.EasyDict": _dict,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy._core.numeric._frombuffer": _numpy_array,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.numeric._frombuffer": _numpy_array,
    "numpy.dtype": _numpy_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
}


def _key(key: Any) -> str | int:
    """Text or a small number. Nothing nested: hashing follows the nesting on the machine's own stack."""
    _check(type(key) is str or (type(key) is int and abs(key) < MAX_KEY))
    plain: str | int = key
    return plain


def _build(target: Any, state: Any) -> None:
    if type(target) is Record and target.name == "Namespace" and type(state) is dict:
        target.state = state
    elif type(target) is Record and target.name == "dtype":
        _check(type(state) is tuple and len(state) > 1 and state[1] in ("<", "|", "="))  # little-endian
    elif type(target) is Record:
        _check(target.name == "ndarray")
    else:
        # attributes of a dictionary: PyTorch's state_dict carries version numbers
        _check(type(target) is dict and type(state) is dict)


# --- The machine ----------------------------------------------------------------------------------------------------


class _Machine:
    def __init__(self, where: object, builders: Mapping[str, Builder], persistent: Builder | None, room: int) -> None:
        self.where = where
        self.builders = builders
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.room = room  # entries and letters that may still be copied

    def pop(self, count: int) -> list[Any]:
        """The topmost ``count`` values, which must lie above the last mark."""
        start = len(self.stack) - count
        _check(start >= (self.marks[-1] if self.marks else 0))
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_to_mark(self) -> list[Any]:
        values = self.stack[self.marks.pop() :]
        del self.stack[len(self.stack) - len(values) :]
        return values

    def top(self, kind: type) -> Any:
        _check(type(self.stack[-1]) is kind)
        return self.stack[-1]

    def name(self, module: Any, name: Any) -> Name:
        _check(type(module) is str and type(name) is str)
        text = f"{module}.{name}"
        if text.startswith("dnnlib.tflib."):
            raise ModelFileError(
                f"{self.where} is a pickle of TensorFlow's StyleGAN, which holds another kind of network.\n"
                "Convert it first with legacy.py of NVIDIA's stylegan2-ada-pytorch, then give the result here."
            )
        if text not in self.builders and text not in STORAGES and text != "numpy.ndarray":
            raise UnsafePickleError(
                f"{self.where} cannot be read: it asks for {text[:80]!r}, which no StyleGAN2 checkpoint needs.\n"
                "Nothing in it was executed. Only tensors, plain containers and the published networks are read."
            )
        return Name(text)

    def call(self, callee: Any, arguments: Any) -> Any:
        _check(type(callee) is Name and callee.text in self.builders and type(arguments) is tuple)
        self.room -= sum(len(argument) for argument in arguments if type(argument) in (str, list, tuple, dict))
        _check(self.room >= 0)
        return self.builders[callee.text](*arguments)

    def run(self, stream: BinaryIO) -> Any:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            _check(count < MAX_INSTRUCTIONS)
            if instruction.name == "STOP":
                return self.pop(1)[0]
            self.step(instruction.name, argument)
        raise EOFError

    def step(self, instruction: str, argument: Any) -> None:
        stack = self.stack
        if instruction in LITERALS:
            stack.append(argument)
            return
        if instruction in CONSTANTS:
            stack.append(CONSTANTS[instruction])
            return
        if instruction in EMPTY:
            stack.append(EMPTY[instruction]())
            return
        if instruction in TUPLES:
            stack.append(tuple(self.pop(TUPLES[instruction])))
            return
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "APPEND":
                (value,) = self.pop(1)
                self.top(list).append(value)
            case "APPENDS":
                values = self.pop_to_mark()
                self.top(list).extend(values)
            case "ADDITEMS":
                values = self.pop_to_mark()
                self.top(set).update(_key(value) for value in values)
            case "SETITEM":
                key, value = self.pop(2)
                self.top(dict)[_key(key)] = value
            case "SETITEMS":
                entries = self.pop_to_mark()
                self.top(dict).update((_key(k), v) for k, v in zip(entries[::2], entries[1::2], strict=True))
            case "GLOBAL":
                stack.append(self.name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.name(*self.pop(2)))
            case "REDUCE" | "NEWOBJ":
                stack.append(self.call(*self.pop(2)))
            case "BUILD":
                (state,) = self.pop(1)
                _build(stack[-1], state)
            case "BINPERSID" if self.persistent is not None:
                stack.append(self.persistent(*self.pop(1)))
            case _:
                raise ValueError(f"instruction {instruction}")


def remaining(stream: BinaryIO) -> int:
    """Bytes from the stream's position to its end."""
    position = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    stream.seek(position)
    return end - position


def unpickle(
    stream: BinaryIO,
    where: object,
    *,
    persistent: Callable[[Any], Storage] | None = None,
    builders: Mapping[str, Builder] | None = None,
) -> Any:
    """The value of the pickle that starts at the stream's position; the position ends up behind it.

    Tensors come as views of their storages, objects of ``torch_utils.persistence`` as ``Record``, the rest as plain
    Python values.

    Args:
        where: The name of the file in messages.
        persistent: Returns the storage for a persistent id, as PyTorch's own files have them.
        builders: What else names may build, beside ``BUILDERS``.

    Raises:
        UnsafePickleError: It has a name that no checkpoint needs.
        ModelFileError: It is damaged, or something other than a checkpoint.
    """
    # protocol 2 has bytes as texts, which are encoded: the storages of a whole checkpoint, once
    machine = _Machine(where, {**BUILDERS, **(builders or {})}, persistent, MAX_COPIED + remaining(stream))
    try:
        return machine.run(stream)
    except ModelFileError:
        raise
    except Exception as error:  # damaged bytes break pickletools and builders in nearly any way
        raise ModelFileError(f"{where} cannot be read as a checkpoint: damaged ({type(error).__name__}).") from error
