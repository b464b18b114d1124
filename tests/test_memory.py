"""Large tensors lie in huge pages, and what was freed stays with programs of our own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest


SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROBE = """
import resource
import refinestyle_hub
{first}
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(faults() for _ in range(4)))
"""

KEEP = "from refinestyle_hub.runtime.allocator import keep_memory; keep_memory()"


def pages(setting: str | None, first: str = "") -> list[int]:
    """How often the system hands out memory while a tensor of 64 MiB is made and dropped, each of four times."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if setting is None else {"THP_MEM_ALLOC_ENABLE": setting}
    command = [sys.executable, "-c", PROBE.format(first=first)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [int(count) for count in answer.split()]


on_request = pytest.mark.skipif(
    not SYSTEM.is_file() or "[madvise]" not in SYSTEM.read_text(), reason="no huge pages on request"
)


@on_request
def test_large_tensors_lie_in_huge_pages() -> None:
    few, many = min(pages(None)), min(pages("0"))
    assert many > 16_000  # of 4 KiB
    assert few < many / 4


@on_request
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_that_stays_comes_in_small_pages() -> None:
    assert pages(None, KEEP)[0] > 16_000


KEPT = """
import resource, sys
from pathlib import Path
from refinestyle_hub.runtime.allocator import give_back_memory, keep_memory
keep_memory()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = [torch.ones(4 << 20) for _ in range(4)]  # 16 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
for _ in range(12):  # some glibc take aligned memory only from larger holes, which come about in a few rounds
    faults()
again, held = min(faults() for _ in range(3)), megabytes()
give_back_memory()
print(again, held - megabytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_there_for_the_next_and_can_be_given_back() -> None:
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}
    command = [sys.executable, "-c", KEPT]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    again, given = map(int, answer.split())
    assert again < 1000  # pages of 4 KiB; all four tensors lie in 16,384
    assert given > 32  # MB of the 64
