"""What the tests of runs share: an end at some step, and two processes that share the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class Stop(Exception):
    pass


def stop_at(count: int) -> Callable[[int, int, dict[str, float]], None]:
    """A ``progress`` that stops a training when so many pictures have been seen."""

    def progress(seen: int, total: int, figures: dict[str, float]) -> None:
        if seen >= count:
            raise Stop

    return progress


def in_two_processes(script: Path, lines: list[str], *arguments: object) -> None:
    """Write the script, and run it to its end under torch's launcher."""
    script.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
