"""Which latent a seed stands for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..boundary.numbers import check_seed
from ..errors import ConfigError, printable


__all__ = ["latents_of_seeds"]


def latents_of_seeds(seeds: Iterable[int] | int, z_dim: int) -> Tensor:
    """Return z [N, z_dim]: the latents that the published tools of StyleGAN2 draw for these seeds, or for one.

    Raises:
        ConfigError: There is no seed, or one is not a whole number from 0 to 2**32 - 1.
    """
    if isinstance(seeds, str | bytes):
        raise ConfigError(f"Seeds are whole numbers, such as [0, 1, 2] or range(4), not {printable(repr(seeds))}.")
    rows: list[NDArray[np.float64]] = []
    for seed in seeds if isinstance(seeds, Iterable) and getattr(seeds, "ndim", True) else [seeds]:
        number = check_seed(seed)
        rows.append(np.random.RandomState(number).randn(z_dim))  # noqa: NPY002
    if not rows:
        raise ConfigError("There is nothing to draw: give at least one seed.")
    return torch.from_numpy(np.stack(rows)).to(torch.float32)
