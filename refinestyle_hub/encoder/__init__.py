"""The encoder: from a picture to w+ and tokens in one pass."""

from __future__ import annotations

from .encoder import Encoded, Encoder


__all__ = ["Encoded", "Encoder"]
