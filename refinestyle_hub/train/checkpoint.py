"""State of a training run as one safetensors file: networks, Adam's moments, counters. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelFileError


__all__ = ["load_networks", "load_optimizer", "read", "write"]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write atomically. ``optimizers`` are named like the network they move; without them the file is compact."""
    from safetensors.torch import save_file

    tensors = {
        f"{part}.{name}": t.detach().to(dtype).contiguous()
        for part, net in networks.items()
        for name, t in net.state_dict().items()
    }
    for part, optimizer in optimizers.items():
        for name, p in networks[part].named_parameters():
            for key, value in optimizer.state[p].items():
                tensors[f"{part}.{name}.{key}"] = value.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"state": json.dumps(dict(state))})
    temporary.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the state.

    Raises:
        ModelFileError: not a file that ``write`` wrote.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["state"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is not the state of a training run: {error}") from error


def load_networks(tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], strict: bool = True) -> set[str]:
    """Copy the tensors into the networks; returns the names ``<network>.<tensor>`` that were filled.

    Raises:
        ModelFileError: with ``strict``, a tensor is missing or has another shape.
    """
    filled = set()
    for part, net in networks.items():
        own = net.state_dict()
        fitting = {
            name: tensors[f"{part}.{name}"].to(t.dtype)
            for name, t in own.items()
            if f"{part}.{name}" in tensors and tensors[f"{part}.{name}"].shape == t.shape
        }
        if strict and len(fitting) < len(own):
            missing = ", ".join(sorted(set(own) - set(fitting))[:3])
            raise ModelFileError(f"The saved {part} is another network: {missing} are missing or of another shape.")
        net.load_state_dict(own | fitting)
        filled |= {f"{part}.{name}" for name in fitting}
    return filled


def load_optimizer(tensors: Mapping[str, Tensor], part: str, net: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Restore Adam's moments of every parameter that had some; False when the file has none."""
    found = False
    for name, p in net.named_parameters():
        own = {key: tensors.get(f"{part}.{name}.{key}") for key in MOMENTS}
        moments = {key: t.to(p.device if key != "step" else "cpu") for key, t in own.items() if t is not None}
        if len(moments) == len(MOMENTS):
            optimizer.state[p] = moments
            found = True
    return found
