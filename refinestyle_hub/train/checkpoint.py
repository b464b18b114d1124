"""State of a training run as one safetensors file: networks, Adam's state, counters. No pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ModelFileError
from ..runtime.optim import adam_state, load_adam_state
from ..storage.atomic import new_file
from ..storage.tensors import under


__all__ = ["load_networks", "load_optimizers", "read", "read_state", "write"]


def write(
    path: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], state: Mapping[str, Any]
) -> None:
    """Write a state atomically. ``optimizers`` have the names of the networks whose parameters they move."""
    tensors: dict[str, Tensor] = {}
    for part, net in networks.items():
        tensors |= {f"{part}.{name}": x for name, x in net.state_dict().items()}
    for part, optimizer in optimizers.items():
        moments = adam_state(optimizer, dict(networks[part].named_parameters()))
        tensors |= {f"{part}.{name}": x for name, x in moments.items()}
    tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
    with new_file(path) as scratch:
        save_file(tensors, scratch, metadata={"state": json.dumps(dict(state))})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by name, and the state.

    Raises:
        ModelFileError: It is not a file that ``write`` wrote.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["state"])


def read_state(path: Path) -> dict[str, Any]:
    """Return the state alone. Raises ModelFileError as ``read`` does."""
    with _opened(path) as file:
        return dict(json.loads(file.metadata()["state"]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not the state of a training run ({error}). Remove it, or name another folder."
        ) from error


def load_networks(tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module]) -> None:
    """Copy the tensors ``<network>.<name>`` into the networks.

    Raises:
        ModelFileError: A tensor is missing, or has another shape.
    """
    for part, net in networks.items():
        own = net.state_dict()
        saved = {name: tensors[f"{part}.{name}"] for name in own if f"{part}.{name}" in tensors}
        if wrong := sorted(name for name, x in own.items() if name not in saved or saved[name].shape != x.shape):
            names = ", ".join(wrong[:3])
            raise ModelFileError(f"The saved {part} is another network: {names} are missing or of another shape.")
        net.load_state_dict(saved)


def load_optimizers(
    tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> None:
    """Restore Adam's state of the parameters that had one.

    Raises:
        ModelFileError: The state of a parameter is incomplete.
    """
    for part, optimizer in optimizers.items():
        try:
            load_adam_state(optimizer, dict(networks[part].named_parameters()), under(tensors, f"{part}."))
        except KeyError as error:
            raise ModelFileError(f"The saved state of the optimiser of the {part} lacks {error}.") from error
