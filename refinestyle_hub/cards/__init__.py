"""Model cards: written from the files of a model alone. No network, no templates.

A card is written from three things: the saved files (sizes, shapes, base), ``card.json`` beside them (``facts``), and
the words of ``kinds``. Its body consists of marked sections. They are rewritten each time; whatever else stands in
the file is left as it is.
"""

from __future__ import annotations

from .facts import FACTS, README, Card, Metric, Picture, dump_card, read_card, read_text
from .kinds import kind_of
from .licences import check_rights, relicensed, stated_licence
from .metadata import base_tag, check
from .rendering import edited, render, write_card


__all__ = [
    "FACTS",
    "README",
    "Card",
    "Metric",
    "Picture",
    "base_tag",
    "check",
    "check_rights",
    "dump_card",
    "edited",
    "kind_of",
    "read_card",
    "read_text",
    "relicensed",
    "render",
    "stated_licence",
    "write_card",
]
