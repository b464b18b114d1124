"""Large tensors lie in huge pages once the package was imported first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROBE = """
import resource
import refinestyle_hub
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


def pages(setting: str | None) -> int:
    """How often the system hands out memory while a tensor of 64 MiB is made."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if setting is None else {"THP_MEM_ALLOC_ENABLE": setting}
    command = [sys.executable, "-c", PROBE]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not SYSTEM.is_file() or "[madvise]" not in SYSTEM.read_text(), reason="no huge pages on request")
def test_large_tensors_lie_in_huge_pages() -> None:
    few, many = pages(None), pages("0")
    assert many > 16_000  # of 4 KiB
    assert few < many / 4
