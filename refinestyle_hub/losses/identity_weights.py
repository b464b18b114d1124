"""The weights of dlib's identity network, read from dlib's own file without dlib.

The file (``dlib_face_recognition_resnet_model_v1.dat``, CC0) is what dlib's ``serialize`` writes: layers from the
picture on, each behind its name, with its weights as one tensor. Nothing in it is executed, and every size is checked.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..boundary.contents import check_contents, fetch_again, start_of
from ..errors import ModelFileError
from ..storage.tensors import check_finite


__all__ = ["read_weights"]

# Each layer's name, its length before it, and what else stands before its tensor
CONV, SCALE, FULL = b"\x05con_4", b"\x07affine_", b"\x04fc_2\x01\x80\x02\x00\x01"
VERSION = b"\x01\x02"  # of a tensor: four sizes and float32 follow
WIDTHS = [32] * 7 + [64] * 8 + [128] * 6 + [256] * 8  # of the convolutions, in order


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights of ``identity_network.IdentityDistance``: ``stem``, ``blocks.<i>.conv<1 or 2>`` and ``fc`` [256, 128].

    What dlib keeps as a scale and an offset behind each convolution is folded into it.

    Raises:
        ModelFileError: The file is damaged, or does not hold this network.
    """
    check_contents(path, start_of(path), "is not a dlib model")
    tensors = _Tensors(path)
    names = ["stem", *(f"blocks.{i}.conv{j}" for i in range(14) for j in (1, 2))]
    state = {}
    for name, inputs, outputs in zip(names, [3, *WIDTHS], WIDTHS, strict=False):
        side = 7 if name == "stem" else 3
        numbers = outputs * inputs * side**2
        kernel, bias = tensors.after(CONV, numbers + outputs).split([numbers, outputs])
        scale, offset = tensors.after(SCALE, 2 * outputs).chunk(2)
        state[f"{name}.weight"] = kernel.view(outputs, inputs, side, side) * scale[:, None, None, None]
        state[f"{name}.bias"] = bias * scale + offset
    state["fc"] = tensors.after(FULL, 256, 128).view(256, 128)
    check_finite(state, path)
    return state


class _Tensors:
    """The tensors of a file, one after another."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def after(self, layer: bytes, *sizes: int) -> Tensor:
        """The tensor of the next layer of that name, flat, which must have these sizes."""
        head = layer + VERSION + b"".join(_whole(size) for size in (*sizes, 1, 1, 1)[:4])
        start = self.data.find(head, self.at)
        self.at = start + len(head) + 4 * math.prod(sizes)
        if start < 0 or self.at > len(self.data):
            raise ModelFileError(
                f"{self.path} is not dlib's identity network, or is damaged.\n{fetch_again(self.path)}", path=self.path
            )
        values = np.frombuffer(self.data, "<f4", math.prod(sizes), start + len(head))
        return torch.from_numpy(values.astype(np.float32))


def _whole(number: int) -> bytes:
    """A number as dlib writes it: how many bytes it takes, then these, the lowest first."""
    size = (number.bit_length() + 7) // 8
    return bytes([size]) + number.to_bytes(size, "little")
