"""torch.compile as an offer: once for each kind of arguments, kept on disk, and never a reason to fail.

``compile=True`` of a ``from_pretrained`` asks for it, or REFINESTYLE_COMPILE=1 for everything.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ConfigError, printable


__all__ = ["SWITCH", "Compiled", "compile_behind", "leave_unusable_cache", "wanted"]

log = logging.getLogger(__name__)

SWITCH = "REFINESTYLE_COMPILE"
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's
LIMIT = 32  # kinds of arguments; each has a graph of its own, and further ones are computed without
NO_COMPILER = "No C++ compiler was found, so nothing is compiled: all goes at the usual speed. CXX may name one."
R = TypeVar("R")
_compiling = threading.Lock()  # PyTorch compiles one function at a time
_behind: queue.SimpleQueue[Callable[[], object]] | None = None  # what a thread of its own shall compile


def wanted(choice: bool | None) -> bool:
    """Whether to compile: as the caller says or, where that is None, as REFINESTYLE_COMPILE does.

    Raises:
        ConfigError: The variable is neither 1 nor 0.
    """
    if choice is not None:
        return choice
    value = os.environ.get(SWITCH, "").strip()
    if value not in ("", "0", "1"):
        raise ConfigError(f"{SWITCH} is 1 to compile and 0 not to, not {printable(repr(value))}.")
    return value == "1"


def compile_behind() -> None:
    """From now on compile in a thread of its own: nobody waits, and is answered without until a graph is ready."""
    global _behind
    if _behind is None:
        _behind = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(_behind,), name="compile", daemon=True).start()


def _serve(line: queue.SimpleQueue[Callable[[], object]]) -> None:
    while True:
        line.get()()


class Compiled(Generic[R]):
    """A function of tensors and networks, compiled when a kind of arguments is first seen.

    Meanwhile other threads compute without. After an error of the compiler, which a note tells, so do all new kinds.
    What was compiled is kept in our folder of the cache, or where TORCHINDUCTOR_CACHE_DIR says.
    """

    def __init__(self, function: Callable[..., R]) -> None:
        self.function = function
        self.failed = False
        self.kinds: set[Hashable] = set()  # that are compiled, or shall be
        self._ready: set[Hashable] = set()
        self._graphs: Callable[..., R] | None = None

    def __call__(self, *args: Any) -> R:
        """The function's answer for contiguous tensors; what else is in ``args`` is a part of the graph."""
        how = _Modes(args)
        kind: Hashable = (_kind(args), how.key)
        answer: R | None = None
        if kind in self._ready:
            answer = self._attempt(args)
            if answer is None:
                self._ready.discard(kind)
        elif not self.failed and (kind in self.kinds or len(self.kinds) < LIMIT):
            if _behind is None:
                answer = self._compile(kind, args)
            elif kind not in self.kinds:
                self.kinds.add(kind)
                _behind.put(lambda: how.again(self._compile, kind, args))
        return self.function(*args) if answer is None else answer

    def _compile(self, kind: Hashable, args: Any) -> R | None:
        """The answer, once it is compiled; None where it fails, or where another thread is compiling."""
        if not _compiling.acquire(blocking=_behind is not None):
            return None
        try:
            self.kinds.add(kind)
            _keep_on_disk()
            try:
                from torch._dynamo import config  # which makes the folder of the cache
            except OSError as error:
                self._fail(error)
                return None
            # our own limit is reached first; and what a compiler warns of is nothing that the caller could change
            with config.patch(recompile_limit=2 * LIMIT), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = self._attempt(args)
            if answer is not None:
                self._ready.add(kind)
            return answer
        finally:
            _compiling.release()

    def _attempt(self, args: Any) -> R | None:
        try:
            self._graphs = self._graphs or torch.compile(self.function, dynamic=False)
            return self._graphs(*args)
        except Exception as error:  # of the compiler; were it of the function, it would come again without
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self.failed = True
        log.warning(_explained(error))


class _Modes:
    """How PyTorch computes in this thread, to do the same in another."""

    def __init__(self, args: Any) -> None:
        self.device = next((x.device.type for x in pytree.tree_leaves(args) if isinstance(x, Tensor)), "cpu")
        half = torch.is_autocast_enabled(self.device)
        self.half = torch.get_autocast_dtype(self.device) if half else None
        self.grad, self.inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self.key: Hashable = (self.half, self.grad, self.inference, torch.get_num_threads())

    def again(self, call: Callable[..., object], kind: Hashable, args: Any) -> None:
        """``call(kind, args)`` with tensors of the same kind that have no gradients to hand on."""
        half = torch.autocast(self.device, self.half, enabled=self.half is not None)
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad), half:
            call(kind, pytree.tree_map_only(Tensor, _loose, args))


def _loose(x: Tensor) -> Tensor:
    new = x.detach().requires_grad_(x.requires_grad)
    return nn.Parameter(new, x.requires_grad) if isinstance(x, nn.Parameter) else new


def _kind(args: Any) -> Hashable:
    """All that a graph depends on: structure, sizes and types."""
    leaves, structure = pytree.tree_flatten(args)
    return str(structure), tuple(map(_leaf, leaves))


def _leaf(x: Hashable) -> Hashable:
    if isinstance(x, Tensor):
        return type(x), x.shape, x.dtype, x.device, x.requires_grad
    if isinstance(x, nn.Module):
        return type(x), tuple(map(_leaf, x.parameters()))
    return x


def leave_unusable_cache() -> None:
    """Where TORCHINDUCTOR_CACHE_DIR names a folder that cannot be written, unset it, and say so.

    PyTorch's own, a temporary folder, serves then. Optimisers and torchvision need one as well as the compiler.
    """
    place = os.environ.get(CACHE)
    if place is not None and not _is_usable(Path(place)):
        del os.environ[CACHE]
        log.warning(f"{CACHE} names {printable(place, 200)}, which cannot be written: a temporary folder is used.")


def _keep_on_disk() -> None:
    leave_unusable_cache()
    if CACHE not in os.environ:
        from huggingface_hub.constants import HF_ASSETS_CACHE

        place = Path(HF_ASSETS_CACHE) / "refinestyle-hub" / "compiled"
        if _is_usable(place):  # else PyTorch's own
            os.environ[CACHE] = str(place)


def _is_usable(folder: Path) -> bool:
    """Whether the folder of the cache is there or can be made, and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _explained(error: BaseException) -> str:
    """One sentence on why nothing is compiled."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "InvalidCxxCompiler":
            return NO_COMPILER
        cause = getattr(cause, "inner_exception", None) or cause.__cause__ or cause.__context__
    reason = printable(next(iter(str(error).strip().splitlines()), type(error).__name__), 200)
    return f"torch.compile failed, so nothing more is compiled: the rest goes at the usual speed. It says {reason!r}."
