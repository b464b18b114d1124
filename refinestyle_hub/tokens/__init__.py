"""Token sets, and the modulated convolution that they refine."""

from __future__ import annotations

from .batch import Strength, TokenBatch
from .layer_tokens import LayerTokens
from .parameters import TokenParameters
from .token_set import TokenSet


__all__ = ["LayerTokens", "Strength", "TokenBatch", "TokenParameters", "TokenSet"]
