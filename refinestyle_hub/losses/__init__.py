"""Distances between pictures, and regularisers of what is optimised."""

from __future__ import annotations

from .code_spread import code_spread
from .perceptual import Perceptual
from .pixel import mse, shrink


__all__ = ["Perceptual", "code_spread", "mse", "shrink"]
