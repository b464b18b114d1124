"""What the tests of runs share: an end at some step, and two processes that share the work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class Stop(Exception):
    pass


def stop_at(count: int) -> Callable[[int, int, dict[str, float]], None]:
    """A ``progress`` that stops a training when so many pictures have been seen."""

    def progress(seen: int, total: int, metrics: dict[str, float]) -> None:
        if seen >= count:
            raise Stop

    return progress


def in_two_processes(script: Path, lines: list[str], *arguments: object) -> None:
    """Write the script, and run it to its end in two processes with what torch's launcher tells them.

    The launcher itself would be a third process that imports torch.
    """
    script.write_text("\n".join(lines) + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = os.environ | common | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        for process in processes:
            output = process.communicate(timeout=300)[0]
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.communicate()
