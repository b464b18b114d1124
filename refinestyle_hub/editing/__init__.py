"""Editing directions: what they are, how they are applied and found."""

from __future__ import annotations

from .directions import Direction, Directions, apply
from .discover import find_from_labels, pca, sefa


__all__ = ["Direction", "Directions", "apply", "find_from_labels", "pca", "sefa"]
