"""The table of ``domains.py``: of each baseline the best learning rate, and of several seeds their mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any


__all__ = ["best", "kernel", "table"]

Row = Mapping[str, Any]
Rows = Mapping[str, Row]  # names are KIND, KIND@RATE, each with #SEED where it is not the first seed
FEATURES = ("trunk_features", "attribute_features", "discriminator_features")  # the first that is there ranks


def kernel(row: Row) -> float:
    """What rows are ranked by."""
    value: float = next(row[name] for name in FEATURES if row.get(name))["kernel_x1000"]
    return value


def best(rows: Rows, kind: str) -> str | None:
    """Of a kind's rows of the first seed the name of that with the smallest kernel distance."""
    found = [name for name in rows if name.partition("@")[0] == kind and "#" not in name]
    return min(found, key=lambda name: kernel(rows[name])) if found else None


def figure(part: str, key: str) -> Callable[[Row], float | None]:
    """Reads a figure, which is None where it could not be measured."""
    return lambda row: row[part][key] if row.get(part) else None


COLUMNS: tuple[tuple[str, Callable[[Row], float | None], str], ...] = (
    ("numbers", lambda row: row["numbers"], ",.0f"),
    ("KB", lambda row: row["bytes"] / 1e3, ",.0f"),
    ("steps", lambda row: row["steps"], ".0f"),
    ("CPU s", lambda row: row["cpu_seconds"], ".0f"),
    ("trunk kernel x1000", figure("trunk_features", "kernel_x1000"), ".0f"),
    ("gap closed", figure("trunk_features", "gap_closed"), ".0%"),
    ("attribute kernel x1000", figure("attribute_features", "kernel_x1000"), ".1f"),
    ("D kernel x1000", figure("discriminator_features", "kernel_x1000"), ".1f"),
    ("diversity", figure("diversity", "intra_perceptual"), ".3f"),
    ("identity drift", figure("landmarks", "identity"), ".3f"),
    ("landmark drift", figure("landmarks", "drift"), ".3f"),
    ("faces found", figure("landmarks", "share"), ".0%"),
)


def cell(rows: Sequence[Row], read: Callable[[Row], float | None], form: str) -> str:
    """A figure, or of several seeds their mean and standard deviation; a dash where there is none."""
    found = [value for row in rows if (value := read(row)) is not None]
    if not found:
        return "-"
    mean = format(statistics.mean(found), form)
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{mean} ± {spread:{form}}" if spread else mean


def table(style: str, rows: Rows) -> str:
    """Markdown."""
    shown: dict[str, list[Row]] = {}
    for kind in dict.fromkeys(name.partition("#")[0].partition("@")[0] for name in rows):
        if name := best(rows, kind):
            shown[name.replace("@", ", rate ")] = [
                row for other, row in rows.items() if other.partition("#")[0] == name
            ]
    columns = [column for column in COLUMNS if any(cell(part, *column[1:]) != "-" for part in shown.values())]
    lines = [f"## {style}", "", "| | " + " | ".join(name for name, *_ in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for name, part in shown.items():
        lines.append(f"| {name} | " + " | ".join(cell(part, *column[1:]) for column in columns) + " |")
    return "\n".join(lines)
