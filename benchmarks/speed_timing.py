"""How the speed benchmarks measure: all cases in turn, medians, and the memory that a case needs at its peak."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch


Work = Callable[[], object]
Clock = Callable[[], float]


def wait() -> None:
    """Until an accelerator has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Work, clock: Clock = time.perf_counter) -> float:
    wait()
    began = clock()
    work()
    wait()
    return clock() - began


def interleaved(works: Mapping[str, Work], rounds: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Median seconds of each case over rounds that go through all of them, after one that warms up.

    On a machine that others use as well, a noisy moment then meets all cases, and ratios stay meaningful; with
    ``time.process_time`` and one thread, also where others take most of it.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            taken = seconds(work, clock)
            if i:
                found[name].append(taken)
    return {name: statistics.median(values) for name, values in found.items()}


def peak_memory(work: Work) -> float:
    """MiB that the case takes at its peak beyond what was there before: on CUDA as counted, else of the process."""
    if torch.cuda.is_available():
        wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _resident()
    with _watched() as largest:
        work()
    return (max(largest) - before) / 2**20


def shares(work: Work) -> dict[str, float]:
    """Share of the time that each operator of PyTorch takes by itself, the largest first; of the device on CUDA."""
    work()
    cuda = torch.cuda.is_available()
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as record:
        work()
        wait()
    taken = {x.key: x.self_device_time_total if cuda else x.self_cpu_time_total for x in record.key_averages()}
    total = sum(taken.values())
    return {name: taken[name] / total for name in sorted(taken, key=lambda name: -taken[name])}


def _resident() -> int:
    """Bytes that the process holds; 0 where the system does not say."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.is_file() else 0


@contextmanager
def _watched() -> Iterator[list[int]]:
    largest, done = [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            largest[0] = max(largest[0], _resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        done.set()
        thread.join()


def machine() -> str:
    """What ran this, for the heading of a table."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return f"{torch.get_num_threads()} CPU threads, load {load:.1f}, torch {torch.__version__}"
