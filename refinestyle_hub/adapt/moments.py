"""Adam's moments as plain tensors by name, so that a run can stop anywhere and go on as if it had not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


__all__ = ["adam_state", "restore_adam"]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def adam_state(adam: torch.optim.Optimizer, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``<leaf>.step``, ``.exp_avg`` and ``.exp_avg_sq`` of every leaf that has moved; copies."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, leaf in leaves.items()
        for key, value in adam.state.get(leaf, {}).items()
    }


def restore_adam(adam: torch.optim.Optimizer, leaves: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Inverse of ``adam_state``; a leaf without moments starts afresh."""
    adam.state.clear()
    for name, leaf in leaves.items():
        if f"{name}.exp_avg" in state:
            adam.state[leaf] = {
                key: state[f"{name}.{key}"].to("cpu" if key == "step" else leaf.device, copy=True) for key in MOMENTS
            }
