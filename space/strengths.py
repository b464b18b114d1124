"""Strengths by name, as clients of the API give them: checked, and refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from refinestyle_hub.boundary.numbers import MAX_SEED
from refinestyle_hub.editing.directions import Directions

from . import limits, messages
from .session import Look


def checked_edits(edits: Mapping[str, Any], directions: Collection[str]) -> dict[str, float]:
    """The edits that change anything. Raises the message for a visitor if one is unknown or out of range."""
    bounds = -limits.MAX_STRENGTH, limits.MAX_STRENGTH
    checked = _checked(edits, directions, bounds, messages.BAD_EDITS, messages.UNKNOWN_EDIT)
    return {name: strength for name, strength in checked.items() if strength}


def checked_domains(domains: Mapping[str, Any], known: Collection[str]) -> dict[str, float]:
    """A mix of domains. Raises the message for a visitor if they are too many, unknown or out of range."""
    if isinstance(domains, Mapping) and len(domains) > limits.MIXED:
        raise messages.refuse(messages.TOO_MANY_DOMAINS)
    return _checked(domains, known, limits.DOMAIN_STRENGTHS, messages.BAD_DOMAINS, messages.UNKNOWN_DOMAIN)


def _checked(
    strengths: Mapping[str, Any], known: Collection[str], bounds: tuple[float, float], malformed: str, unknown: str
) -> dict[str, float]:
    if not isinstance(strengths, Mapping):
        raise messages.refuse(malformed)
    low, high = bounds
    for name, strength in strengths.items():
        if name not in known:
            raise messages.refuse(unknown, name=name, known=list(known))
        if not (isinstance(strength, int | float) and low <= strength <= high):
            raise messages.refuse(messages.BAD_STRENGTH, name=name, low=low, high=high)
    return {name: float(strength) for name, strength in strengths.items()}


def linked(
    query: Mapping[str, str], look: Look, directions: Directions, domains: Collection[str]
) -> tuple[Look, list[str]]:
    """The look in a link, from ``look`` on, and the parts of it that are unknown, no numbers or too many.

    What lies beyond the ends of its slider is held to them.
    """
    ends = {
        "edit": {name: direction.info.limits for name, direction in directions.items()},
        "style": dict.fromkeys(domains, limits.DOMAIN_STRENGTHS),
    }
    found: dict[str, dict[str, float]] = {"edit": {}, "style": {}}
    check = {"edit": partial(checked_edits, directions=directions), "style": partial(checked_domains, known=domains)}
    left_out = []
    if re.fullmatch(r"[0-9]{1,10}", query.get("seed", "")):
        look = replace(look, source=min(int(query["seed"]), MAX_SEED))
    for key, text in query.items():
        kind, _, name = key.partition(".")
        if kind in found and name:
            try:
                low, high = ends[kind][name]
                found[kind] = check[kind]({**found[kind], name: min(max(float(text), low), high)})
            except (KeyError, ValueError, gr.Error):
                left_out.append(name)
    return replace(look, edits=found["edit"] or look.edits, domains=found["style"] or look.domains), left_out
