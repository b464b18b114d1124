"""The table of ``domains.py``: of each baseline the best learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


__all__ = ["best_rates", "table"]


def best_rates(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the rows of one baseline that with the smallest kernel distance."""
    kept: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        kind = name.partition("@")[0]
        if kind not in kept or kernel(row) < kernel(kept[kind]):
            kept[kind] = row
    return kept


def kernel(row: dict[str, Any]) -> float:
    """What rows are ranked by."""
    value: float = row["attribute_features"]["kernel_x1000"]
    return value


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("numbers", lambda r: f"{r['numbers']:,}"),
    ("KB", lambda r: f"{r['bytes'] / 1e3:,.0f}"),
    ("training MB", lambda r: f"{r['training_bytes'] / 1e6:.2f}"),
    ("steps", lambda r: f"{r['steps']}"),
    ("s", lambda r: f"{r['seconds']:.0f}"),
    ("kernel x1000", lambda r: figure(r["attribute_features"], "kernel_x1000", ".1f")),
    ("+-", lambda r: figure(r["attribute_features"], "kernel_x1000_std", ".1f")),
    ("gap closed", lambda r: figure(r["attribute_features"], "gap_closed", ".0%")),
    ("Frechet", lambda r: figure(r["attribute_features"], "frechet", ".1f")),
    ("D kernel x1000", lambda r: figure(r["discriminator_features"], "kernel_x1000", ".1f")),
    ("D Frechet", lambda r: figure(r["discriminator_features"], "frechet", ".1f")),
    ("diversity", lambda r: figure(r["diversity"], "intra_perceptual", ".3f")),
    ("landmark drift", lambda r: figure(r["landmarks"], "drift", ".3f")),
    ("measured", lambda r: figure(r["landmarks"], "share", ".0%")),
    ("content drift, sd", lambda r: figure(r["attributes"], "content_deviations", ".2f")),
    ("readable", lambda r: figure(r["attributes"], "share", ".0%")),
    ("learnt with", lambda r: str(r["learnt_with"])),
)


def figure(part: dict[str, Any] | None, key: str, form: str) -> str:
    """A figure, or a dash where it could not be measured."""
    return "-" if part is None or part[key] is None else format(part[key], form)


def table(style: str, rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, best rates only."""
    lines = [
        f"## {style}",
        "",
        "| | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for name, row in best_rates(rows).items():
        lines.append(f"| {name} | " + " | ".join(show(row) for _, show in COLUMNS) + " |")
    return "\n".join(lines)
