"""Checkpoints in files small enough to be carried: weights in half precision, in parts of at most 15.5 MB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


LARGEST = 15_500_000  # bytes of a part's tensors; 16 MiB with its header


def write_parts(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a state as ``part-<i>.safetensors``; a crash leaves the older files."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        tensor = tensor.half() if tensor.is_floating_point() else tensor
        bytes_ = tensor.numel() * tensor.element_size()
        if size + bytes_ > LARGEST:
            parts.append({})
            size = 0
        parts[-1][name] = tensor.contiguous()
        size += bytes_
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        save_file(part, folder / f"new-{i}")
    for i in range(len(parts)):
        (folder / f"new-{i}").replace(folder / f"part-{i}.safetensors")


def read_parts(folder: Path) -> dict[str, Tensor]:
    """All tensors of the safetensors files in a folder, in fp32: parts, or the encoder that was made of them."""
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
