"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "refinestyle_hub"
HEAVY = ["gradio", "dlib", "lpips", "transformers", "datasets", "accelerate", "torchvision", "matplotlib"]
INFERENCE = ["pipeline", "invert", "inversion", "edit", "faces", "generator", "tokens", "refine", "hub"]
TRAINING = ["train", "metrics", "evaluate_domain"]


def imported(modules: list[str], probe: list[str]) -> list[str]:
    """Which of ``probe`` a fresh interpreter has loaded after importing ``modules``."""
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint([m for m in {probe!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    found: list[str] = ast.literal_eval(done.stdout)
    return found


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert imported(["refinestyle_hub"], [*HEAVY, "huggingface_hub"]) == []


def test_drawing_needs_neither_training_nor_the_heavy_third_parties() -> None:
    modules = [f"refinestyle_hub.{name}" for name in INFERENCE]
    training = [f"refinestyle_hub.{name}" for name in TRAINING]
    assert imported(modules, HEAVY + training) == []


def relative_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports at its top level, relative to the package."""
    here = list(path.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            found.add((base + (node.module or node.names[0].name).split("."))[0])
    return found


def test_imports_run_downward() -> None:
    floors = [
        {"errors", "config"},
        {"resample", "refine"},
        {"generator", "discriminator", "tokens", "losses", "encoder"},
        {"invert", "edit", "faces", "adapt"},
        {"pipeline"},
        {"cli"},
    ]
    height = {name: i for i, floor in enumerate(floors) for name in floor}
    wrong = []
    for name, level in height.items():
        paths = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else (PACKAGE / name).rglob("*.py")
        for path in paths:
            wrong += [f"{path.name} -> {other}" for other in relative_imports(path) if height.get(other, -1) > level]
    assert wrong == []


def test_no_file_is_longer_than_500_lines() -> None:
    files = [
        p for folder in ("refinestyle_hub", "space", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 40
    long = {p.name: n for p in files if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500}
    assert long == {}


def test_every_public_name_can_be_imported() -> None:
    import refinestyle_hub

    for name in refinestyle_hub.__all__:
        assert getattr(refinestyle_hub, name).__doc__
