"""Strengths by name, as clients of the API give them: checked, and refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from refinestyle_hub.boundary.numbers import MAX_SEED

from . import limits, messages
from .session import Look


def checked_edits(edits: Mapping[str, Any], directions: Sequence[str]) -> dict[str, float]:
    """The edits that change anything. Raises the message for a visitor if one is unknown or out of range."""
    if not isinstance(edits, Mapping):
        raise messages.refuse(messages.BAD_EDITS)
    for name, strength in edits.items():
        if name not in directions:
            raise messages.refuse(messages.UNKNOWN_EDIT, name=name, known=list(directions))
        _check(name, strength, -limits.MAX_STRENGTH, limits.MAX_STRENGTH)
    return {name: float(strength) for name, strength in edits.items() if strength}


def checked_domains(domains: Mapping[str, Any], known: Sequence[str]) -> dict[str, float]:
    """A mix of domains. Raises the message for a visitor if they are too many, unknown or out of range."""
    if not isinstance(domains, Mapping):
        raise messages.refuse(messages.BAD_DOMAINS)
    if len(domains) > limits.MIXED:
        raise messages.refuse(messages.TOO_MANY_DOMAINS)
    for name, strength in domains.items():
        if name not in known:
            raise messages.refuse(messages.UNKNOWN_DOMAIN, name=name, known=list(known))
        _check(name, strength, *limits.DOMAIN_STRENGTHS)
    return {name: float(strength) for name, strength in domains.items()}


def _check(name: str, strength: object, low: float, high: float) -> None:
    if not (isinstance(strength, int | float) and low <= strength <= high):
        raise messages.refuse(messages.BAD_STRENGTH, name=name, low=low, high=high)


def linked(
    query: Mapping[str, str], look: Look, directions: Sequence[str], domains: Sequence[str]
) -> tuple[Look, list[str]]:
    """The look in a link, from ``look`` on, and the parts of it that are unknown or out of range."""
    edits: dict[str, float] = {}
    styles: dict[str, float] = {}
    left_out = []
    if re.fullmatch(r"[0-9]{1,10}", query.get("seed", "")):
        look = replace(look, source=min(int(query["seed"]), MAX_SEED))
    for key, text in query.items():
        kind, _, name = key.partition(".")
        if kind not in ("edit", "style") or not name:
            continue
        try:
            if kind == "edit":
                edits |= checked_edits({name: float(text)}, directions)
            else:
                styles |= checked_domains({**styles, name: float(text)}, domains)
        except (ValueError, gr.Error):
            left_out.append(name)
    return replace(look, edits=edits or look.edits, domains=styles or look.domains), left_out
