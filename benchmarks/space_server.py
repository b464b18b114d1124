"""The demo in a process of its own, for measurements of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx


__all__ = ["ROOT", "Server"]

ROOT = Path(__file__).resolve().parents[1]
SERVE = """
import sys
sys.path.insert(0, {root!r})
import app
app.demo.launch(**{{**app.launch_settings(), "server_port": {port}}}, server_name="127.0.0.1", quiet=True)
"""


class Server:
    """The demo in a process of its own, with a temporary folder of its own."""

    def __init__(self, model: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        self.folder = folder
        self.environment = {
            **os.environ,
            "REFINESTYLE_MODEL": model,
            "GRADIO_TEMP_DIR": str(folder / "cache"),
            "TMPDIR": str(folder),
            "HF_HUB_OFFLINE": "1",
        }
        self.start()

    def start(self) -> None:
        """Returns once the page is served."""
        began = time.monotonic()
        log = (self.folder / "log").open("a")
        command = [sys.executable, "-c", SERVE.format(root=str(ROOT), port=self.port)]
        self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        while not self.alive():
            if self.process.poll() is not None or time.monotonic() > began + 300:
                raise RuntimeError(f"the demo did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        self.started_in, self.start_cpu = time.monotonic() - began, self.cpu_seconds

    def alive(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}config", timeout=30).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def megabytes(self) -> float:
        """Of memory in use."""
        return self._status("VmRSS") / 1024

    @property
    def most_megabytes(self) -> float:
        """Of memory, the most that was in use at any moment since the start."""
        return self._status("VmHWM") / 1024

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))

    @property
    def cpu_seconds(self) -> float:
        """Of all processors, used so far: on a machine that others use, the time on the clock says little."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """As the kernel would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
