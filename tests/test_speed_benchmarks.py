"""The speed benchmarks run, and their tables have every case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[1]
BENCHMARK = ROOT / "benchmarks" / "speed.py"


def run(tmp_path: Path, *options: str) -> dict[str, dict[str, dict[str, float]]]:
    if not BENCHMARK.is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARK), "--quick", "--threads", "1", "--json", str(report), *options]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found: dict[str, dict[str, dict[str, float]]] = json.loads(report.read_text())
    return found


def test_the_table_has_every_case_as_a_ratio_to_the_chain(tmp_path: Path) -> None:
    found: dict[str, Any] = run(tmp_path, "--bf16", "--profile", "--device", "cpu")
    for n in (1, 2):
        for way in ("forward", "forward and backward"):
            table = found[f"StyleGAN2 32 px, batch {n}, {way}"]
            ours = ["plain", "one set", "a set per sample"]
            assert list(table) == ["bare chain", *ours, *(f"{name} bfloat16" for name in ours)]
            assert table["bare chain"]["ratio"] == 1
            assert all(case["seconds"] > 0 for case in table.values())
            for case in table.values():
                assert any("conv" in name for name in case["operators"])  # processors have different ones
                assert sum(case["operators"].values()) == pytest.approx(1)


def test_growth_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = run(tmp_path, "--plots", str(tmp_path / "plots"), "--device", "cpu")["growth"]
    assert list(found) == ["batch", "T", "domains", "resolution"]
    assert (tmp_path / "plots" / "growth.svg").stat().st_size > 1000


@pytest.mark.slow
def test_the_way_of_a_user_has_every_step(tmp_path: Path) -> None:
    way = run(tmp_path, "--way", "--rounds", "1", "--model", "mini-faces-128")["way"]
    assert len(way) == 12
    assert all(taken["now"] > 0 for taken in way.values())
