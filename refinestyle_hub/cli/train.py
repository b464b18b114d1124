"""``refinestyle train``: made only when asked for, since its options come from the settings of the training loops."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class TrainGroup(TyperGroup):
    """The commands in ``training``, which imports the networks that they train."""

    names = ("generator", "encoder", "attributes")

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the help."""
        return list(self.names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None."""
        if cmd_name not in self.names:
            return None
        from . import training

        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(cmd_name)(getattr(training, cmd_name))
        return typer.main.get_command(single)
