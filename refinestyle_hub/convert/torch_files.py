"""The one place that opens PyTorch's own files, which hold a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import ModelFileError


__all__ = ["read_torch"]


def read_torch(path: Path) -> Any:
    """The tensors and plain containers in a ``.pt`` or ``.pth`` file. Nothing in it is executed.

    Raises:
        ModelFileError: damaged, no such file, or anything in it is not a tensor or plain container.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler raises nearly anything on damaged files
        raise ModelFileError(f"{path} cannot be read as tensors only ({type(error).__name__}).") from error
