"""What the docs name is there: commands with their options, and names of the package."""

from __future__ import annotations

import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest
import typer.main

from refinestyle_hub.cli import app


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "training").glob("*/README.md"))]
COMMANDS = typer.main.get_command(app)
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)
OTHERS = {"--no-deps", "--nproc_per_node", "--pack-destination", "--standalone"}  # of pip, npm and torch
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")
IMPORT = re.compile(r"^from (refinestyle_hub[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def options_of(command: click.Command) -> set[str]:
    found = {option for p in command.params for option in [*p.opts, *p.secondary_opts] if option.startswith("-")}
    return found | {"--help"}


def all_options(command: click.Command) -> set[str]:
    found = options_of(command)
    for child in getattr(command, "commands", {}).values():
        found |= all_options(child)
    return found


@cache
def scripts() -> str:
    """The source of all scripts, which name their options."""
    files = (path for folder in ("benchmarks", "tools", "training") for path in (ROOT / folder).rglob("*.py"))
    return "".join(path.read_text(encoding="utf-8") for path in files)


def calls(page: Path) -> list[list[str]]:
    """Words of each call of ``refinestyle`` in the page's code."""
    lines = [
        line
        for block in FENCE.findall(page.read_text(encoding="utf-8"))
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "refinestyle" in words:
            found.append(words[words.index("refinestyle") + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_exist_with_their_options(page: Path) -> None:
    wrong = []
    for words in calls(page):
        command: click.Command = COMMANDS
        for word in words:
            if word not in getattr(command, "commands", {}):
                break
            command = command.commands[word]  # type: ignore[attr-defined]
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        wrong += [" ".join(words)] if getattr(command, "commands", {}) or given - options_of(command) else []
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text_exist(page: Path) -> None:
    named = set(OPTION.findall(page.read_text(encoding="utf-8"))) - OTHERS
    assert {option for option in named - all_options(COMMANDS) if f'"{option}"' not in scripts()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_imports_in_the_docs_work(page: Path) -> None:
    for module, names in IMPORT.findall(page.read_text(encoding="utf-8")):
        found = importlib.import_module(module)
        for name in names.split(", "):
            assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")
