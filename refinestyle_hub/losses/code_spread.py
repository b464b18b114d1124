"""How far the codes of w+ lie from each other."""

from __future__ import annotations

from torch import Tensor


__all__ = ["code_spread"]


def code_spread(w_plus: Tensor) -> Tensor:
    """How far the codes of w+ [N, L, D] lie from their own mean: mean squared distance [N], 0 in W.

    Codes that agree stay editable (Tov et al. 2021, e4e, section 3.2, which penalises the offsets from the first).
    """
    return (w_plus - w_plus.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1)
