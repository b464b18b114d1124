"""RefineStyle: a frozen StyleGAN2 generator refined by low-rank token sets."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any


# Large feature maps in huge pages, where the system has them: a fifth of the time of drawing on a CPU goes into
# handing out small ones. torch reads it as it allocates for the first time; whoever sets it before decides.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


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
