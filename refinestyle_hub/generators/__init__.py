"""Generators and their discriminator."""

from __future__ import annotations

from .discriminator import Discriminator
from .stylegan2 import Generator


__all__ = ["Discriminator", "Generator"]
