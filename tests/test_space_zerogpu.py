"""The border to ZeroGPU, in a process of its own: a fork needs room for a second one of the size of its parent, and
where memory is short there is none for what the tests of the whole suite have loaded by then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
START = """
import os
import spaces
import space.ui
space.ui.build = lambda pipe, name, notice, gpu: (pipe.device.type, pipe.encoder is not None, name, notice)
import app
print(app.demo, flush=True)
os._exit(0)  # without waiting for the app's own threads
"""


def test_jobs_across_zerogpu() -> None:
    cases = Path(__file__).with_name("zerogpu_cases.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "4 passed" in done.stdout


@pytest.mark.slow
def test_the_app_loads_its_model_on_zerogpu() -> None:
    """There ``spaces`` stands in for CUDA until a call has a GPU, and in the thread that imported it alone."""
    on = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", START]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **on, "REFINESTYLE_MODEL": "mini-faces-128"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["('cuda', True, 'mini-faces-128', '')"], done.stderr[-2000:]
