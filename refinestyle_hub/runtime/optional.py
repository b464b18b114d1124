"""Packages that only some users need: imported where they are needed, with advice where they are not installed."""

from __future__ import annotations

import importlib
import shlex
from typing import Any

from ..errors import MissingDependencyError


__all__ = ["optional"]


def optional(module: str, purpose: str, *install: str, otherwise: str = "") -> Any:
    """The module of an optional package.

    Args:
        module: Its dotted name.
        purpose: What needs it, as the subject of a sentence: "The text objective".
        install: What ``pip install`` takes: packages, or an extra of ours such as "refinestyle-hub[train]".
        otherwise: A sentence on how to do without.

    Raises:
        MissingDependencyError: It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        advice = f"Install it: pip install {shlex.join(install)}"
        raise MissingDependencyError(
            "\n".join(filter(None, [f"{purpose} needs {package}, which cannot be imported.", advice, otherwise])),
            name=package,
        ) from error
