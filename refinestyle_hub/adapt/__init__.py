"""Adaptation of a frozen generator to a new domain: 1 to 20 pictures, or other terms -> one token set."""

from __future__ import annotations

from .adaptation import STEPS, Adaptation
from .context import Context, Features, Learner, Term
from .references import Align, References, load_references
from .settings import MAX_PICTURES, AdaptSettings, preset
from .state import AdaptState


__all__ = [
    "MAX_PICTURES",
    "STEPS",
    "AdaptSettings",
    "AdaptState",
    "Adaptation",
    "Align",
    "Context",
    "Features",
    "Learner",
    "References",
    "Term",
    "load_references",
    "preset",
]
