"""Process groups end in time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def run(code: str) -> str:
    """Standard output of a process that accelerate takes for the only one of its group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = os.environ | group | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_group_that_was_begun_ends_before_the_interpreter() -> None:
    """What was registered first runs last."""
    out = run(
        "import atexit\n"
        "from torch import distributed\n"
        "from refinestyle_hub.processes import accelerator\n"
        "atexit.register(lambda: print(distributed.is_initialized()))\n"
        "first, second = accelerator(), accelerator()\n"
        "print(distributed.is_initialized(), first.num_processes, second.is_main_process)\n"
    )
    assert out.split() == ["True", "1", "True", "False"]


def test_a_group_of_the_callers_own_is_theirs_to_end() -> None:
    out = run(
        "import atexit\n"
        "from torch import distributed\n"
        "from refinestyle_hub.processes import accelerator\n"
        "distributed.init_process_group('gloo')\n"
        "atexit.register(distributed.destroy_process_group)\n"
        "atexit.register(lambda: print(distributed.is_initialized()))\n"
        "accelerator()\n"
    )
    assert out.split() == ["True"]
