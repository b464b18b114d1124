"""Several processes that share the work, under ``accelerate launch`` or ``torchrun``."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import Any

from torch import distributed

from ..errors import MissingDependencyError
from .optional import optional


__all__ = ["Alone", "accelerator", "accelerator_or_alone"]


@dataclass(frozen=True)
class Alone:
    """In place of an ``Accelerator``: a process that shares its work with no other."""

    num_processes: int = 1
    process_index: int = 0

    def wait_for_everyone(self) -> None:
        """Nobody else is there."""


def accelerator(**options: Any) -> Any:
    """An ``accelerate.Accelerator``; the process group that it begins ends before the interpreter does.

    A group that is still there when the interpreter is torn down has threads of its own running, and to end them then
    may abort the process after its work is done. It ends no sooner, since accelerate cannot begin a second one.

    Args:
        options: Arguments of the ``Accelerator``.

    Raises:
        MissingDependencyError: accelerate is not installed.
    """
    accelerate = optional("accelerate", "Sharing work between processes", "refinestyle-hub[train]")
    if distributed.is_available():
        # Its functions take the group of the moment as their default, and PyTorch's optimisers import it sooner or
        # later: were that after the group has begun, the group and its threads would outlive their end.
        import torch.distributed.nn  # noqa: F401
    ours = not _group()
    made = accelerate.Accelerator(**options)
    if ours and _group():
        atexit.register(_end)
    return made


def accelerator_or_alone() -> Any:
    """``accelerator()``; without accelerate, which one process does not need, what stands in for it.

    Raises:
        MissingDependencyError: accelerate is not installed, and a launcher began this process as one of a group.
    """
    try:
        return accelerator()
    except MissingDependencyError:
        if "WORLD_SIZE" in os.environ:
            raise
        return Alone()


def _end() -> None:
    if _group():  # not ended by the caller
        distributed.destroy_process_group()


def _group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
