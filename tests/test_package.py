"""The house rules that a machine can check: floors, imports, names and lengths of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "refinestyle_hub"
SPACE = ROOT / "space"

# From the ground up: a file at the top of the package or a folder; a module imports from its own floor or from below.
FLOORS = [
    "errors",
    "boundary",
    "config",
    "runtime",
    "pickles",
    "storage",
    "cards",
    "hub",
    "images",
    "faces",
    "tokens",
    "generators",
    "losses",
    "encoder",
    "inversion",
    "editing",
    "adapt",
    "pipeline",
    "evaluation",
    "convert",
    "train",
    "cli",
    "__init__",
    "__main__",
]
SPACE_FLOORS = [
    "__init__",
    "limits",
    "messages",
    "guard",
    "theme",
    "turns",
    "images",
    "files",
    "agents",
    "session",
    "model",
    "strengths",
    "tokenfiles",
    "admission",
    "jobs",
    "page",
    "handlers",
    "tabs",
    "ui",
]
MAX_LINES = 400
MAX_PIPELINE = 300
MAX_ON_TOP = 6

HEAVY = ["gradio", "dlib", "lpips", "transformers", "datasets", "accelerate", "torchvision", "matplotlib"]
# Imported by the functions that need them: slow to import, or not installed everywhere.
LAZY = {*HEAVY, "huggingface_hub", "timm", "torch.distributed.nn", "torch._dynamo"}
INFERENCE = ["pipeline", "inversion", "editing", "faces.align", "generators", "tokens", "hub"]
TRAINING = ["train", "evaluation.metrics", "evaluation.domain"]


class Import(NamedTuple):
    """One import of one module by another."""

    by: str
    of: str
    runs: bool  # at run time, not for the type checker alone
    inside: bool  # inside a function


def modules() -> dict[str, Path]:
    """Every module of the package and of the demo by its dotted name."""
    paths = [*PACKAGE.rglob("*.py"), *SPACE.rglob("*.py")]
    found = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def import_nodes(tree: ast.AST, inside: bool = False, runs: bool = True) -> Iterator[tuple[ast.stmt, bool, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside, runs
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from import_nodes(node, inside or function, runs and not typing)


@cache
def imports() -> tuple[Import, ...]:
    """All imports in the package and in the demo, of modules of these two or of others."""
    known, found = modules(), []
    for name, path in known.items():
        parent = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node, inside, runs in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                assert isinstance(node, ast.ImportFrom)
                base = parent[: len(parent) - node.level + 1] if node.level else []
                whole = ".".join([*base, *filter(None, [node.module])])
                targets = [f"{whole}.{a.name}" if f"{whole}.{a.name}" in known else whole for a in node.names]
            found += [Import(name, target, runs, inside) for target in targets]
    return tuple(dict.fromkeys(found))


def floor(module: str) -> tuple[int, int]:
    """Package or demo, and the height in it. Raises ValueError for a module that stands on no floor."""
    top, _, rest = module.partition(".")
    floors = FLOORS if top == "refinestyle_hub" else SPACE_FLOORS
    return int(top == "space"), floors.index(rest.split(".")[0] or "__init__")


def short(module: str) -> str:
    return module.removeprefix("refinestyle_hub.")


def ours(module: str) -> bool:
    return module.partition(".")[0] in ("refinestyle_hub", "space")


def test_every_module_stands_on_a_floor() -> None:
    assert len(modules()) > 100
    lost = []
    for module in modules():
        try:
            floor(module)
        except ValueError:
            lost.append(module)
    assert lost == []


@pytest.mark.parametrize(("folder", "floors"), [(PACKAGE, FLOORS), (SPACE, SPACE_FLOORS)], ids=["package", "space"])
def test_every_floor_is_there(folder: Path, floors: list[str]) -> None:
    gone = [name for name in floors if not (folder / f"{name}.py").is_file() and not (folder / name).is_dir()]
    assert gone == []
    assert len(floors) == len(set(floors))


def test_imports_run_downward() -> None:
    upward = {(short(i.by), short(i.of)) for i in imports() if ours(i.of) and floor(i.of) > floor(i.by)}
    assert upward == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in imports():
        if found.of in graph and found.runs:
            graph[found.by].add(found.of)
    while leaves := {module for module, below in graph.items() if not below & graph.keys()}:
        graph = {module: below for module, below in graph.items() if module not in leaves}
    assert graph == {}, "each of these imports another of them"


def test_imports_stand_at_the_top() -> None:
    """Except of what is heavy. The command line imports all of it late, so that ``--help`` is quick."""
    inside = {
        (short(i.by), i.of)
        for i in imports()
        if i.inside and not {i.of, i.of.partition(".")[0]} & LAZY and not short(i.by).startswith("cli.")
    }
    assert inside == set()


def test_file_names_are_unique() -> None:
    for folder in (PACKAGE, SPACE):
        names = Counter(path.name for path in folder.rglob("*.py") if path.name != "__init__.py")
        assert [name for name, count in names.items() if count > 1] == []
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ON_TOP


def test_no_file_is_longer_than_400_lines() -> None:
    folders = ("refinestyle_hub", "space", "tests", "benchmarks", "tools", "training")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path.name for path, count in lines.items() if count > MAX_LINES} == set()
    assert lines[PACKAGE / "pipeline.py"] <= MAX_PIPELINE


def loaded(names: list[str], probe: list[str]) -> list[str]:
    """Which of ``probe`` a fresh interpreter has loaded after importing ``names``."""
    code = f"import sys\nfor m in {names!r}: __import__(m)\nprint([m for m in {probe!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    found: list[str] = ast.literal_eval(done.stdout)
    return found


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded(["refinestyle_hub"], [*HEAVY, "huggingface_hub"]) == []


def test_drawing_needs_neither_training_nor_the_heavy_third_parties() -> None:
    names = [f"refinestyle_hub.{name}" for name in INFERENCE]
    training = [f"refinestyle_hub.{name}" for name in TRAINING]
    assert loaded(names, HEAVY + training) == []


def test_loading_needs_no_uploader() -> None:
    uploader = [f"refinestyle_hub.{name}" for name in ("hub.push", "cards")]
    assert loaded(["refinestyle_hub.hub.pretrained"], uploader) == []


def test_every_public_name_can_be_imported() -> None:
    import refinestyle_hub

    for name in refinestyle_hub.__all__:
        assert getattr(refinestyle_hub, name).__doc__
