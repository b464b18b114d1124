"""``log.jsonl`` of a run: one JSON object a line, which says after how many pictures ("seen") it was written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_folder


__all__ = ["LOG", "append", "rewind"]

LOG = "log.jsonl"


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
    """Infinite where a line was cut off, or the next one written onto its rest."""
    try:
        return float(json.loads(line)["seen"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
