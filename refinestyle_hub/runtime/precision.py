"""Networks as users may have changed them: wrapped by torch.compile, or in half precision."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import nn


__all__ = ["full_precision", "plain"]

M = TypeVar("M", bound=nn.Module)


def plain(network: M) -> M:
    """The network itself where torch.compile or parallel training has wrapped it: its class and its names."""
    inner = getattr(network, "_orig_mod", None)
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = network.module
    return network if inner is None else plain(cast(M, inner))


def full_precision(network: M) -> M:
    """The plain network with float32 weights: itself, or a copy. Gradients of half precision vanish."""
    network = plain(network)
    if all(t.dtype == torch.float32 for t in network.state_dict().values() if t.is_floating_point()):
        return network
    return copy.deepcopy(network).float()
