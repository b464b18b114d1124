"""Adaptation of a frozen generator to a new domain: 1 to 20 pictures, or other terms -> one token set."""

from __future__ import annotations

from .adaptation import STEPS, STEPS_WITHOUT_DISCRIMINATOR, Adaptation, Preview
from .context import Context, Features, Learner, Term
from .few_shot import AdaptOptions, Pictures, few_shot_adaptation
from .references import Align, References, load_references
from .settings import MAX_PICTURES, AdaptSettings, preset
from .shortcomings import lacks
from .state import AdaptState
from .text import TEXT_STEPS, ClipTerm, TextAdaptation, load_clips, picture_term, text_adaptation, text_settings


__all__ = [
    "MAX_PICTURES",
    "STEPS",
    "STEPS_WITHOUT_DISCRIMINATOR",
    "TEXT_STEPS",
    "AdaptOptions",
    "AdaptSettings",
    "AdaptState",
    "Adaptation",
    "Align",
    "ClipTerm",
    "Context",
    "Features",
    "Learner",
    "Pictures",
    "Preview",
    "References",
    "Term",
    "TextAdaptation",
    "few_shot_adaptation",
    "lacks",
    "load_clips",
    "load_references",
    "picture_term",
    "preset",
    "text_adaptation",
    "text_settings",
]
