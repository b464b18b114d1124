"""What is pushed as a Space: ``python tools/space_folder.py FOLDER`` assembles and checks it, and uploads nothing."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


__all__ = ["assemble", "main", "problems"]

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("app.py", "README.md", "requirements.txt", "LICENSE", "space", "refinestyle_hub", "docs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
PLATFORM = re.compile(r"(gradio|spaces|huggingface[_-]hub)\b")  # installed by it; pins of ours would break it
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
MAX_FILE, MAX_ALL = 50_000_000, 150_000_000  # bytes


def assemble(folder: Path, root: Path = ROOT) -> None:
    """Copy what belongs to the Space into a new folder."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=LEFT_OUT)
        else:
            shutil.copy2(source, folder / part)


def problems(folder: Path) -> Iterator[str]:
    """Everything for which the Hub would refuse the folder, or for which the Space would not start."""
    yield from _of_the_card(folder)
    yield from _of_the_files(folder)
    for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if PLATFORM.match(line):
            yield f"requirements.txt lists {line}, which the platform installs itself"


def _of_the_card(folder: Path) -> Iterator[str]:
    from huggingface_hub import SpaceCard

    try:
        card: dict[str, Any] = SpaceCard.load(folder / "README.md").data.to_dict()
    except Exception as error:  # whatever the YAML library raises
        yield f"the front matter of README.md cannot be read: {' '.join(str(error).split())[:200]}"
        return
    wanted = {"sdk": "gradio", "sdk_version": version("gradio"), "license": "apache-2.0", "title": "RefineStyle"}
    for key, value in wanted.items():
        if card.get(key) != value:
            yield f"README.md: {key} is {card.get(key)!r}, not {value!r}"
    if not (folder / str(card.get("app_file"))).is_file():
        yield f"README.md: app_file {card.get('app_file')!r} is not there"
    if not 0 < len(card.get("short_description") or "") <= 60:
        yield "README.md: short_description must have 1 to 60 characters"
    if card.get("hf_oauth") is not True or card.get("hf_oauth_scopes") != ["contribute-repos"]:
        yield "README.md: sign-in must ask for contribute-repos and nothing more"
    if not {card.get("colorFrom"), card.get("colorTo")} <= set(COLOURS):
        yield f"README.md: colorFrom and colorTo must be among {', '.join(COLOURS)}"
    if not re.fullmatch(r"3\.1[0-9]", str(card.get("python_version"))):
        yield f"README.md: python_version is {card.get('python_version')!r}"


def _of_the_files(folder: Path) -> Iterator[str]:
    total = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        total += size
        if size > MAX_FILE:
            yield f"{name} has {size / 1e6:.0f} MB"
        if path.is_symlink() or path.suffix in (".pt", ".pkl", ".pth", ".ckpt", ".log", ".zip"):
            yield f"{name} does not belong there"
        if re.search(rb"hf_[A-Za-z0-9]{30,}", path.read_bytes()):
            yield f"{name} seems to hold a token of the Hub"
    if total > MAX_ALL:
        yield f"all together it has {total / 1e6:.0f} MB"


def starts(folder: Path) -> str:
    """Build the app as the Space would, in its folder and by a process of its own; empty if that works."""
    command = [sys.executable, "-c", "import app; assert app.demo.title == 'RefineStyle'"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python tools/space_folder.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder, for what would be pushed")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} exists already")
    assemble(options.folder)
    found = list(problems(options.folder))
    if not found and (error := starts(options.folder)):
        found.append(f"the app does not start: {error}")
    for cache in options.folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    for problem in found:
        print(problem)
    if not found:
        count = sum(path.is_file() for path in options.folder.rglob("*"))
        print(f"{count} files are ready: hf upload OWNER/NAME {options.folder} . --repo-type space")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
