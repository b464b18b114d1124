"""Generators, by one interface, and their discriminator."""

from __future__ import annotations

from .base import GENERATORS, Generator
from .discriminator import Discriminator
from .mobile import MobileStyleGANGenerator
from .stylegan2 import StyleGAN2Generator


__all__ = ["GENERATORS", "Discriminator", "Generator", "MobileStyleGANGenerator", "StyleGAN2Generator"]
