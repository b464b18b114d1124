"""Pixels in memory -> a PIL image: arrays of numpy, tensors, and whatever gives itself as an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import PictureError


__all__ = ["image_of_array"]

CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
OVERSHOOT = 1.5  # what a generator draws is about [-1, 1]


def image_of_array(pixels: Any) -> Image.Image:
    """The picture in an array or tensor, on any device and of any type of number.

    Args:
        pixels: ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` with 1 to 4 channels (grey, with alpha, RGB, RGBA), or one
            such picture in a batch. Whole numbers are levels from 0 to 255, of uint16 up to 65535. Fractions are in
            [0, 1], or in [-1, 1], as networks have them, where some are negative.

    Raises:
        PictureError: Another shape, or numbers out of range.
    """
    if not isinstance(pixels, torch.Tensor):
        return _image(np.asarray(pixels), channels_first=False)
    tensor = pixels.detach()
    try:
        values = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:  # on the meta device, sparse, quantised
        first = str(error).splitlines()[0][:120]
        raise PictureError(
            f"The tensor holds no plain pixels ({first}). Give it as tensor.cpu().to_dense()."
        ) from None
    return _image(values, channels_first=True)


def _image(array: NDArray[Any], channels_first: bool) -> Image.Image:
    shape = list(array.shape)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 4:
        raise PictureError(f"An array {shape} holds {shape[0]} pictures: give them one by one, as in array[0].")
    if array.ndim == 2:
        array = array[..., None]
    first, last = (array.ndim == 3 and array.shape[place] in CHANNELS for place in (0, -1))
    if not array.size or not (first or last):
        raise PictureError(
            f"An array {shape} is no picture: that is [H, W], [H, W, C] or [C, H, W] of 1 to 4 channels."
        )
    if first and (channels_first or not last):
        array = np.moveaxis(array, 0, -1)
    levels = np.ascontiguousarray(_levels(array))
    mode = CHANNELS[levels.shape[-1]]
    return Image.fromarray(levels[..., 0] if mode == "L" else levels)


def _levels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers of any type -> levels from 0 to 255."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        levels: NDArray[np.uint8] = array
        return levels
    if kind == "b":
        return np.where(array, 255, 0).astype(np.uint8)
    if kind not in "iuf":
        raise PictureError(f"An array of {array.dtype} holds no pixels: give uint8, or fractions from 0 to 1.")
    values = array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise PictureError("The array has NaN or infinite values, which are no pixels.")
    if kind == "f" and low >= 0 and high <= 1:
        values = values * 255
    elif kind == "f" and -OVERSHOOT <= low < 0 and high <= OVERSHOOT:
        values = (values.clip(-1, 1) + 1) * 127.5
    elif kind == "u" and array.dtype.itemsize == 2:
        values = values * (255 / 65535)
    elif kind == "f" or low < 0 or high > 255:
        raise PictureError(
            f"The array has values from {low:g} to {high:g}. Pixels are whole numbers from 0 to 255, or fractions in "
            "[0, 1] or [-1, 1]: convert it, as in array.astype('uint8') or, of 16 bits, 'uint16'."
        )
    return np.rint(values).astype(np.uint8)
