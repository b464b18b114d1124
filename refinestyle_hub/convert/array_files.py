"""Files with arrays of numbers, of whatever library: their arrays by name, as tensors. Nothing is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..boundary.contents import check_contents, fetch_again, is_safetensors, start_of
from ..errors import ModelFileError, counted, listed
from ..pickles.torch_files import read_torch
from .networks_in_files import describe, tensor_of
from .nvidia import read_safetensors


__all__ = ["FINEST", "read_arrays"]

FINEST = 18  # codes of StyleGAN2 at 1024 px: published w+ have no more, but tables of style channels do
MAX_BYTES = 64 << 20  # the largest published file, StyleCLIP's table, takes 18 MB


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a ``.npy``, ``.npz``, ``.safetensors`` or PyTorch file by name; one without a name has "".

    What a file is, its first bytes say, not its ending. Numbers become float32.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: It is too large, damaged, or holds no arrays.
    """
    start = start_of(path)
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(
            f"{path} is larger than {MAX_BYTES >> 20} MiB, and no file of directions or latents is that large.",
            path=path,
        )
    zipped = start.startswith(b"PK") and (b".npy" in start[:300] or path.suffix.lower() == ".npz")
    if start.startswith(b"\x93NUMPY") or zipped:
        return _read_numpy(path)
    if is_safetensors(start):
        return {name: t.float() for name, t in read_safetensors(path).items()}
    check_contents(path, start, "cannot be read as arrays of numbers", "zip", "pickle")
    content: Any = read_torch(path)
    if (alone := tensor_of(content)) is not None:
        return {"": alone.float()}
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path} holds {_told(content)}: one tensor is expected, or several by name.\n"
            'Save it so: torch.save(TENSOR, FILE), or torch.save({"smile": TENSOR, "age": TENSOR}, FILE).',
            path=path,
        )
    found = {str(name): tensor_of(value) for name, value in content.items()}
    return {name: t.float() for name, t in found.items() if t is not None and not t.is_complex()}


def _told(content: Any) -> str:
    """What a file holds in place of arrays, in a few words."""
    if not isinstance(content, list | tuple):
        return describe(content)
    shapes = {str(list(t.shape)) for value in content if (t := tensor_of(value)) is not None}
    kind = f"{type(content).__name__} of {counted(len(content), 'value')}"
    return f"a {kind}" + (f", with tensors of {listed(sorted(shapes))}" if shapes else "")


def _read_numpy(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            alone = isinstance(content, np.ndarray)
            arrays = {"": content} if alone else {name: content[name] for name in content.files}
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
            return {n: torch.from_numpy(a.astype(np.float32)) for n, a in arrays.items() if a.dtype.kind in "biuf"}
    except (OSError, ValueError, TypeError, EOFError, KeyError, BadZipFile) as error:
        if "allow_pickle" in str(error):
            why, advice = ": it holds Python objects, which may run code", "Save its numbers alone, with numpy.save."
        else:
            why, advice = f" ({type(error).__name__})", fetch_again(path)
        raise ModelFileError(f"{path} cannot be read as arrays of numbers{why}.\n{advice}", path=path) from error
