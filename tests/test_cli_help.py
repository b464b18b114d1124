"""What ``--help`` says of every command: defaults of all settings, and arguments in one form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from refinestyle_hub.cli import app
from refinestyle_hub.train.attribute_settings import AttributeTraining
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.generator_settings import GeneratorTraining


def help_of(*command: str) -> str:
    """The text, on one line."""
    found = CliRunner().invoke(app, [*command, "--help"], terminal_width=200, env={"TERM": "dumb"})
    assert found.exit_code == 0
    return " ".join(re.sub(r"[^ -~]", " ", found.output).split())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("generator", GeneratorTraining), ("encoder", EncoderTraining), ("attributes", AttributeTraining)],
)
def test_the_settings_of_a_training_show_their_defaults(name: str, settings: type) -> None:
    plain = [f.default for f in fields(settings) if isinstance(f.default, int | float)]
    text = help_of("train", name)
    assert len(plain) > 5
    assert text.count("[default: ") >= len(plain)
    for default in plain:
        assert f"[default: {default}]" in text
    if name == "encoder":
        assert "[default: 64,128,256,512]" in text


def arguments(group: Any, *names: str) -> Iterator[tuple[str, str | None]]:
    """The command, and how it writes an argument."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from arguments(command, *names, name)
        else:
            found = [one for one in command.params if one.param_type_name == "argument"]
            yield from ((" ".join([*names, name]), one.metavar) for one in found)


def test_arguments_are_written_in_capitals() -> None:
    found = list(arguments(typer.main.get_command(app)))
    assert len(found) > 20
    for command, metavar in found:
        assert re.fullmatch("[A-Z]+", metavar or ""), command
