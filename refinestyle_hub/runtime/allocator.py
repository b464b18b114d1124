"""Memory that maps were in stays with the process for the next ones, where glibc hands it out.

A step of an inversion takes and frees gigabytes of maps in all. By default glibc gives each large one back to the
system, which hands out zeroed pages again one by one: a quarter of a step on a virtual machine, and more where two
threads ask at once. Elsewhere than on glibc nothing changes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any


__all__ = ["give_back_memory", "keep_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from glibc's malloc.h
FREE = 2**31 - 1  # bytes at the end of the heap that are kept; the most that an int holds


def keep_memory() -> None:
    """Keep freed memory until ``give_back_memory``, and in one heap for all threads.

    It holds for the whole process, so importing the package does not do it; programs call it before they make the
    first tensor. Maps then come in small pages: to clear room for huge ones can take the system seconds, which pays
    where memory is got again and again, and not where it stays.
    """
    if glibc := _glibc():
        os.environ["THP_MEM_ALLOC_ENABLE"] = "0"
        glibc.mallopt(M_MMAP_MAX, 0)
        glibc.mallopt(M_TRIM_THRESHOLD, FREE)
        glibc.mallopt(M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return freed memory to the system, after work that took much."""
    if glibc := _glibc():
        glibc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library that Python runs on, if it is glibc."""
    library: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None
