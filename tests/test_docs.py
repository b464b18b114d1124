"""What the docs name is there: commands with their options, and names of the package."""

from __future__ import annotations

import importlib
import re
import shlex
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import typer.main

from refinestyle_hub.cli import app


ROOT = Path(__file__).parent.parent
PAGES = sorted(p for p in ROOT.rglob("*.md") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts))
CARDS = [page for page in PAGES if "pretrained" in page.parts or page.parent.name == "model_cards"]
TEXTS = [page for page in PAGES if page not in CARDS]
COMMANDS = typer.main.get_command(app)
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)
CODE = re.compile(r"`((?:refinestyle|python) [^`\n]+)`")
VARIABLE = re.compile(r"""^(?:export )?(\w+)=["']?(.*?)["']?$""", re.MULTILINE)
PYTHONS = {"python", "python3", ".venv/bin/python"}
KNOWN = {"cd", "curl", "mv", "npm", "pip", "tar", ".venv/bin/pip", ".venv/bin/ruff", ".venv/bin/mypy"}  # not ours
SHELL = {"export", "for", "do", "done"}
OTHERS = {"--no-deps", "--nproc_per_node", "--pack-destination", "--standalone"}  # of pip, npm and torch
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")
IMPORT = re.compile(r"^from (refinestyle_hub[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def options_of(command: Any) -> set[str]:
    found = {option for p in command.params for option in [*p.opts, *p.secondary_opts] if option.startswith("-")}
    return found | {"--help"}


def all_options(command: Any) -> set[str]:
    found = options_of(command)
    for child in getattr(command, "commands", {}).values():
        found |= all_options(child)
    return found


@cache
def scripts() -> str:
    """The source of all scripts, which name their options."""
    files = (path for folder in ("benchmarks", "tools", "training") for path in (ROOT / folder).rglob("*.py"))
    return "".join(path.read_text(encoding="utf-8") for path in files)


def shell_lines(page: Path) -> list[list[str]]:
    """Words of each command in the page's blocks for a shell, with what its variables stand for."""
    found = []
    text = "".join(FENCE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    text = re.sub(r"\$\(\(.*?\)\)", "0", text)  # sums
    for name, value in VARIABLE.findall(text):
        text = text.replace(f"${name}", value)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found.append(words)
    # without variables that are set for the command, or alone
    commands = [list(dropwhile(lambda word: re.match(r"\w+=", word), words)) for words in found]
    return [words for words in commands if words and words[0] not in SHELL]


def parsed(words: list[str]) -> str:
    """What is wrong with a call of ``refinestyle``, by its own parser; nothing is done."""
    command: Any = COMMANDS
    try:
        context = command.make_context("refinestyle", words)
        while hasattr(command, "commands"):
            rest = [*context._protected_args, *context.args]
            name, command, rest = command.resolve_command(context, rest)
            context = command.make_context(name, rest, parent=context)
    except Exception as error:
        return f"refinestyle {' '.join(words)}: {getattr(error, 'message', error)}"
    return ""


def source_with_neighbours(script: Path) -> str:
    """The text of a script, and of those beside it that it takes something from, such as options."""
    source = script.read_text(encoding="utf-8")
    beside = [script.with_name(f"{name}.py") for name in re.findall(r"^from (\w+) import", source, re.MULTILINE)]
    return source + "".join(source_with_neighbours(path) for path in beside if path.is_file())


def script_problem(words: list[str], page: Path) -> str:
    """What is wrong with a call of a script: it is not there, or an option is not its own."""
    script = next((folder / words[0] for folder in (page.parent, ROOT) if (folder / words[0]).is_file()), None)
    if script is None:
        return f"there is no {words[0]}"
    if script.suffix == ".sh":  # which hands its options on
        return ""
    source = source_with_neighbours(script)
    unknown = [word for word in words if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source]
    return f"{words[0]} has no {', '.join(unknown)}" if set(unknown) - {"--help"} else ""


def problem(words: list[str], page: Path) -> str:
    """What is wrong with a command in a block for a shell."""
    if "refinestyle_hub" in words:  # of -m
        return parsed(words[words.index("refinestyle_hub") + 1 :])
    if words[0] == "refinestyle":
        return parsed(words[1:])
    if words[0] in PYTHONS | {"bash"}:
        return "" if words[1] == "-m" else script_problem(words[1:], page)
    return "" if words[0] in KNOWN else f"{words[0]} is no command that is known here"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_line_for_a_shell_is_understood(page: Path) -> None:
    assert [found for words in shell_lines(page) if (found := problem(words, page))] == []


@pytest.mark.parametrize("page", CARDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_card_names_a_command_that_is_understood(page: Path) -> None:
    lines = re.findall(r"^(refinestyle [^\n]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [found for line in lines if (found := problem(shlex.split(line), page))] == []


def test_a_wrong_line_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = (
        "refinestyle generate ffhq-1024", "refinestyle generat x", "refinestyle invert M a.png --out o --steps -1",
        "refinestyle train generator D --out o --batch x", "python app.py --port 1", "python none.py", "rm -rf x",
        "X=1 refinestyle info", "accelerate launch -m refinestyle_hub invert M", "true && refinestyle demo --port 0",
    )  # fmt: skip
    for line in lines:
        page.write_text(f"```bash\n{line}\n```\n")
        assert [found for words in shell_lines(page) if (found := problem(words, page))], line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    for call in [*CODE.findall(text), *re.findall(r"^(refinestyle [^\n]+)$", text, re.MULTILINE)]:
        program, *words = shlex.split(call.partition(", then ")[0], comments=True)
        if program == "python":
            wrong.append(script_problem(words, page))
            continue
        command: Any = COMMANDS
        for word in words:
            choices = word.split("|")  # as in list|info
            if not set(choices) <= set(getattr(command, "commands", {})):
                break
            command = command.commands[choices[0]]
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        known = all_options(command) if getattr(command, "commands", {}) else options_of(command)
        wrong.append(" ".join(words) if given - known else "")
    assert [one for one in wrong if one] == []


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
