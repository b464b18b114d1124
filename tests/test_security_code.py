"""What no file of the package may do, read off their syntax trees: run what it was given, or reach for the network."""

from __future__ import annotations

import ast
from pathlib import Path

import refinestyle_hub


PACKAGE = Path(refinestyle_hub.__file__).parent
FILES = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "space").rglob("*.py")]

PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FETCHES = {"download_url_to_file", "get_state_dict", "load_state_dict_from_url", "urlretrieve"}
NETWORK = {"aiohttp", "ftplib", "http", "httpx", "requests", "socket", "urllib"}
OFFLINE = {"urllib.parse"}  # of these, what only reads addresses
DOWNLOADS = {"HfApi", "cached_download", "hf_hub_download", "snapshot_download"}


def offences(tree: ast.AST) -> list[str]:
    """Imports and calls that could execute what a file holds."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.partition(".")[0] in PICKLERS]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in PICKLERS:
                found.append(module)
            case ast.ImportFrom(module="torch", names=names) if any(alias.name == "load" for alias in names):
                found.append("torch.load")
            case ast.Attribute(value=ast.Name(id="torch") | ast.Attribute(attr="hub"), attr="load"):
                found.append("torch.load")
            case ast.Call(func=ast.Name(id=("eval" | "exec" | "compile" | "__import__") as function)):
                found.append(function)
            case ast.Call(func=ast.Attribute(attr="load", value=ast.Name(id="np" | "numpy")), keywords=keywords):
                if not any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in keywords):
                    found.append("numpy.load")
    return found


def clients(tree: ast.AST) -> set[str]:
    """What a file has to reach the network."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names if alias.name.partition(".")[0] in NETWORK}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found |= {module} if module.partition(".")[0] in NETWORK and module not in OFFLINE else set()
                found |= {alias.name for alias in names if alias.name in DOWNLOADS}
            case ast.Attribute(attr=name) if name in FETCHES:
                found.add(name)
    return found


def test_the_checks_see_what_they_should() -> None:
    code = ["import pickle", "from dill import loads", "torch.load(f)", "torch.hub.load(r)", "eval('1')", "np.load(f)"]
    assert [offences(ast.parse(line)) for line in code] == [
        ["pickle"],
        ["dill"],
        ["torch.load"],
        ["torch.load"],
        ["eval"],
        ["numpy.load"],
    ]
    assert offences(ast.parse("model.eval(); safetensors.torch.load(b); np.load(f, allow_pickle=False)")) == []
    code = [
        "import urllib.request",
        "from huggingface_hub import HfApi",
        "from .http import x",
        "from urllib.parse import x",
    ]
    assert [clients(ast.parse(line)) for line in code] == [{"urllib.request"}, {"HfApi"}, set(), set()]


def test_nothing_in_the_package_unpickles_or_evaluates() -> None:
    """Not even ``convert``: its unpickler is a machine of its own, and ``pickletools`` only decodes."""
    assert len(FILES) > 20
    found = {str(path.relative_to(PACKAGE.parent)): offences(ast.parse(path.read_text("utf-8"))) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}
    decoders = [path.name for path in FILES if "pickletools" in path.read_text("utf-8")]
    assert decoders == ["unpickle.py"]


def test_models_come_and_go_by_one_floor() -> None:
    """CLIP and timm's backbones, where they are asked for, come by their own libraries."""
    found = {
        path.relative_to(PACKAGE.parent).as_posix(): clients(ast.parse(path.read_text("utf-8"))) for path in FILES
    }
    found = {path: names for path, names in found.items() if names and path.startswith("refinestyle_hub/")}
    assert found == {
        "refinestyle_hub/hub/sources.py": {"HfApi", "hf_hub_download"},
        "refinestyle_hub/hub/torch_cache.py": {"download_url_to_file", "urllib.request"},
        "refinestyle_hub/hub/push.py": {"HfApi"},
        "refinestyle_hub/cli/models.py": {"socket"},  # whether the demo's port is free; nothing is sent
    }
