"""Reading a pickle without executing it.

A pickle is a program for a small stack machine, and the danger is in three of its instructions: GLOBAL looks a name
up, REDUCE calls it, BUILD sets an object's attributes. The machine below has them too, but here a name is only text:
it is looked up in the table ``BUILDERS``, never imported. What a name of the table builds is a tensor or
a plain container. Any other name, such as ``torch.device`` or a class that nobody here knows, builds an inert
``Record``: its name and what the file gave it, as data. Of the standard library only ``pickletools`` is used, which
decodes instructions.

Names that run something when they are called (``os.system``, ``eval``) are refused, so that their owner is warned. It
is not what makes this safe.

Sizes are bounded by the file: containers grow by one entry per instruction, nothing is copied by the memo, a tensor
is a view of bytes that the file holds, and no loop or recursion follows the data's own structure.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from ..errors import ModelFileError, UnsafePickleError
from .builders import ARRAY, BUILDERS, STORAGES, Builder, Name, Record, attach, is_hostile, key_of


__all__ = ["remaining", "unpickle"]

MAX_INSTRUCTIONS = 1_000_000  # a training state with optimisers takes a tenth
MAX_COPIED = 1_000_000  # entries and letters, beyond the size of the file: one argument may go to many calls

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


def _check(condition: bool) -> None:
    if not condition:
        raise ValueError("malformed instructions")


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
        if is_hostile(text):
            raise UnsafePickleError(
                f"{self.where} cannot be read: it asks for {text[:80]!r}, which no StyleGAN2 checkpoint needs.\n"
                "Nothing in it was executed. Only tensors, plain containers and the published networks are read."
            )
        return Name(text)

    def copy(self, *values: Any) -> None:
        """Take what copying these needs from the room there is."""
        self.room -= sum(len(value) for value in values)
        _check(self.room >= 0)

    def call(self, callee: Any, arguments: Any) -> Any:
        _check(type(callee) is Name and callee.text not in STORAGES and type(arguments) is tuple)
        self.copy(*(argument for argument in arguments if type(argument) in (str, list, tuple, dict)))
        if callee.text.endswith("._frombuffer"):
            self.copy(*arguments[:1])
        if callee.text not in self.builders:
            return Record(callee.text, {}, arguments)
        return self.builders[callee.text](*arguments)

    def fill(self, entries: list[Any]) -> None:
        """Entries for the topmost value: a dictionary, or an inert object that is like one."""
        target = self.stack[-1]
        _check(type(target) in (dict, Record) and len(entries) % 2 == 0)
        into = target.state if type(target) is Record else target
        into.update((key_of(key), value) for key, value in zip(entries[::2], entries[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        """Values for the topmost value: a list, or an inert object that is like one."""
        target = self.stack[-1]
        _check(type(target) in (list, Record))
        into = target.state.setdefault("values", []) if type(target) is Record else target
        _check(type(into) is list)
        into.extend(values)

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
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "ADDITEMS":
                values = self.pop_to_mark()
                self.top(set).update(key_of(value) for value in values)
            case "SETITEM":
                self.fill(self.pop(2))
            case "SETITEMS":
                self.fill(self.pop_to_mark())
            case "FROZENSET":
                stack.append({key_of(value) for value in self.pop_to_mark()})
            case "POP":
                self.pop(1)
            case "GLOBAL":
                stack.append(self.name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.name(*self.pop(2)))
            case "REDUCE" | "NEWOBJ":
                stack.append(self.call(*self.pop(2)))
            case "NEWOBJ_EX":
                callee, arguments, _ = self.pop(3)
                stack.append(self.call(callee, arguments))
            case "BUILD":
                (state,) = self.pop(1)
                if type(stack[-1]) is Record and stack[-1].name == ARRAY:
                    self.copy(*(part for part in state if type(part) is bytes))
                attach(stack[-1], state)
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
    persistent: Callable[[Any], Any] | None = None,
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
    machine = _Machine(where, {**BUILDERS, **(builders or {})}, persistent, MAX_COPIED + 2 * remaining(stream))
    try:
        return machine.run(stream)
    except ModelFileError:
        raise
    except Exception as error:  # damaged bytes break pickletools and builders in nearly any way
        raise ModelFileError(f"{where} cannot be read as a checkpoint: damaged ({type(error).__name__}).") from error
