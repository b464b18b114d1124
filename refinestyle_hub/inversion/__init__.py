"""Inversion: from a picture to w+ and tokens, by an encoder and by optimisation."""

from __future__ import annotations

from .inversion import Inversion
from .optimise import InversionSettings, OnStep, invert


__all__ = ["Inversion", "InversionSettings", "OnStep", "invert"]
