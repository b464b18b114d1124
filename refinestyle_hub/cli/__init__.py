"""The command line, ``refinestyle``.

Every command is a function in a module of its kind: ``pictures``, ``adapt``, ``models``, ``checkpoints``,
``direction_commands``, ``sharing``, ``train``, ``evaluate``. This module imports none of the networks, so that
``--help`` is quick; commands import what they use when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from ..errors import RefineStyleHubError
from ..runtime.allocator import keep_memory
from . import adapt, checkpoints, console, direction_commands, evaluate, models, pictures, sharing, train
from .advice import advise_options
from .path_options import read_paths


__all__ = ["app", "main"]

app = typer.Typer(
    name="refinestyle",
    help="Invert, edit and adapt portraits with a frozen generator, refined by low-rank token sets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(pictures.generate)
app.command("invert")(pictures.invert)
app.command("edit")(pictures.edit)
app.command("faces")(pictures.faces)
app.command("adapt")(adapt.adapt)
app.add_typer(train.train, name="train", help="Train a network on your pictures.")
app.add_typer(evaluate.evaluate, name="evaluate")
app.command("info")(models.info)
app.command("get")(models.get)
app.command("convert")(checkpoints.convert)
app.command("export")(checkpoints.export)
app.command("push")(sharing.push)
app.add_typer(sharing.domains, name="domains")
app.add_typer(direction_commands.directions, name="directions")
app.command("demo")(models.demo)
read_paths(app)
advise_options(app)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 it cannot be done as asked, 2 wrong usage, 130 interrupted."""
    console.accept_any_text()
    keep_memory()
    try:
        app(args, prog_name="refinestyle")
    except (RefineStyleHubError, OSError) as error:
        if os.environ.get("REFINESTYLE_TRACEBACK"):
            raise
        print(f"error: {console.plain(str(error))}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
