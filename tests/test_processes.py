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


def test_a_group_that_was_begun_ends_before_the_interpreter_and_nothing_keeps_it() -> None:
    """What was registered first runs last. An optimiser imports modules of PyTorch that would hold the group, and its
    threads, until the process aborts."""
    out = run(
        "import atexit, weakref\n"
        "import torch\n"
        "from refinestyle_hub.runtime.processes import accelerator\n"
        "atexit.register(lambda: print(torch.distributed.is_initialized(), group() is None))\n"
        "first, second = accelerator(), accelerator()\n"
        "torch.optim.Adam([torch.zeros(1, requires_grad=True)])\n"
        "group = weakref.ref(torch.distributed.group.WORLD)\n"
        "print(torch.distributed.is_initialized(), group() is None, first.num_processes, second.is_main_process)\n"
    )
    assert out.split() == ["True", "False", "1", "True", "False", "True"]


def test_a_group_that_the_caller_has_ended_is_not_ended_again() -> None:
    out = run(
        "import sys\n"
        "from torch import distributed\n"
        "from refinestyle_hub.runtime.processes import accelerator\n"
        "sys.stderr = sys.stdout\n"
        "accelerator()\n"
        "distributed.destroy_process_group()\n"
    )
    assert out == ""


def test_a_group_of_the_callers_own_is_theirs_to_end() -> None:
    out = run(
        "import atexit\n"
        "from torch import distributed\n"
        "from refinestyle_hub.runtime.processes import accelerator\n"
        "distributed.init_process_group('gloo')\n"
        "atexit.register(distributed.destroy_process_group)\n"
        "atexit.register(lambda: print(distributed.is_initialized()))\n"
        "accelerator()\n"
    )
    assert out.split() == ["True"]
