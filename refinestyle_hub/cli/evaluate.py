"""``refinestyle evaluate``: figures of what was made, measured against pictures."""

from __future__ import annotations

import typer


__all__ = ["evaluate"]

evaluate = typer.Typer(no_args_is_help=True, help="Measure what was made against pictures.")
