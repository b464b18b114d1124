"""RefineStyle: a frozen StyleGAN2 generator refined by low-rank token sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .editing import Directions
    from .encoder import Encoder
    from .generators import Discriminator, Generator
    from .inversion import Inversion
    from .pipeline import RefineStylePipeline
    from .tokens import TokenSet


__all__ = ["Directions", "Discriminator", "Encoder", "Generator", "Inversion", "RefineStylePipeline", "TokenSet"]

_HOMES = {  # imported at the first use, and torch with them
    "Directions": "editing",
    "Discriminator": "generators",
    "Encoder": "encoder",
    "Generator": "generators",
    "Inversion": "inversion",
    "RefineStylePipeline": "pipeline",
    "TokenSet": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
