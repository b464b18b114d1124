"""Inversion: from a picture to w+ and tokens, by an encoder and by optimisation."""

from __future__ import annotations

from .inversion import Inversion, inversions
from .inversion_settings import InversionSettings
from .optimise import OnStep, invert


__all__ = ["Inversion", "InversionSettings", "OnStep", "inversions", "invert"]
