"""Codes of one latent space in generators of several sizes."""

from __future__ import annotations

from torch import Tensor


__all__ = ["fit_codes"]


def fit_codes(w_plus: Tensor, num_ws: int) -> Tensor:
    """w+ [..., L, D] -> [..., num_ws, D] for another generator of the same latent space.

    Codes count from the layer at 4 px, with two for each doubling, so the same index means the same resolution: the
    codes of finer layers than there are go, and those that are missing repeat the last one.
    """
    count = w_plus.shape[-2]
    if num_ws <= count:
        return w_plus[..., :num_ws, :]
    index = [min(i, count - 1) for i in range(num_ws)]
    return w_plus[..., index, :]
