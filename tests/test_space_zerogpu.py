"""The border to ZeroGPU, in a process of its own: a fork needs room for a second one of the size of its parent, and
where memory is short there is none for what the tests of the whole suite have loaded by then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_jobs_across_zerogpu() -> None:
    cases = Path(__file__).with_name("zerogpu_cases.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, cwd=cases.parents[1], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "4 passed" in done.stdout
