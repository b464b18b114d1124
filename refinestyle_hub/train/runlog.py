"""``log.jsonl`` of a run: one JSON object a line, which says after how many pictures ("seen") it was written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..storage.atomic import write_folder


__all__ = ["Means", "append", "rewind"]

LOG = "log.jsonl"


class Means:
    """Metrics of the steps since the last line. They are saved with a run, which may stop between two lines."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self.sums: dict[str, tuple[float, int]] = {}  # sum of each metric, and the number of steps that had it

    def add(self, metrics: Mapping[str, float], seconds: float) -> None:
        """Count a step and its seconds."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        for name, value in metrics.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)

    def take(self, batch: int) -> dict[str, float]:
        """Pictures a second ("rate") and the means, which start again from zero."""
        rate = round(self.steps * batch / max(self.seconds, 1e-9), 2)
        means = {name: round(total / count, 5) for name, (total, count) in self.sums.items()}
        self.steps, self.seconds, self.sums = 0, 0.0, {}
        return {"rate": rate, **means}

    def state(self) -> dict[str, Any]:
        """The values to save."""
        return dict(vars(self))

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what ``state`` gave."""
        vars(self).update(state)


def append(out: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the log of the run in ``out``."""
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def rewind(out: Path, seen: int) -> None:
    """Drop what was logged later than ``seen``, and broken lines: a killed run logs that again."""
    file = out / LOG
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    kept = [line for line in lines if _seen(line) <= seen]
    if kept != lines:
        write_folder(out, {LOG: "".join(kept).encode()})


def _seen(line: str) -> float:
    """The pictures seen of a line; infinite for a broken line."""
    try:
        return float(json.loads(line)["seen"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
