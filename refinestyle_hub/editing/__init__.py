"""Editing directions: what they are, how they are applied and found."""

from __future__ import annotations

from .directions import Direction, Directions, apply
from .discover import difference_of_means, find_from_labels, pca, sefa


__all__ = ["Direction", "Directions", "apply", "difference_of_means", "find_from_labels", "pca", "sefa"]
