"""Tensors and levels of pixels to pictures and back; pictures to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from ..boundary.numbers import whole
from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, PictureError, ShapeError
from ..storage.atomic import new_file


__all__ = [
    "MAX_SIDE",
    "OutputType",
    "check_ending",
    "contact_sheet",
    "from_uint8",
    "save_picture",
    "save_png",
    "to_image",
    "to_images",
    "to_output",
    "to_tensor",
    "to_uint8",
]

MAX_SIDE = 1 << 14  # pixels of a picture that is made
OutputType: TypeAlias = Literal["pil", "np", "pt"]
WRITTEN: dict[str, dict[str, Any]] = {  # by ending: Pillow's format and its options
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "quality": 95, "method": 4},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
    ".bmp": {"format": "BMP"},
}


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """Convert [-1, 1] to the levels 0 to 255, rounded and clamped: uint8 of any shape, on the CPU."""
    return pictures.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def from_uint8(levels: torch.Tensor) -> torch.Tensor:
    """Convert the levels 0 to 255 to float32 in [-1, 1], of any shape. The exact inverse of ``to_uint8``."""
    return levels.float().div_(127.5).sub_(1.0)


def to_tensor(image: Image.Image, size: int | None = None) -> torch.Tensor:
    """PIL RGB -> float32 ``[1, 3, H, W]`` in [-1, 1]; with ``size`` the central square, resampled to size x size."""
    image = image.convert("RGB")
    size = None if size is None else whole(size, "size", 1, MAX_SIDE)
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image))  # [H, W, 3] uint8
    return from_uint8(pixels.permute(2, 0, 1)[None]).contiguous()


def to_image(tensor: torch.Tensor) -> Image.Image:
    """``[3, H, W]`` in [-1, 1] -> PIL RGB, rounded and clamped. Exact inverse of ``to_tensor`` without resampling.

    Raises:
        ShapeError: The tensor is not [3, H, W].
    """
    if tensor.dim() != 3 or tensor.shape[0] != 3:
        raise ShapeError(f"A picture is [3, H, W]; this tensor is {list(tensor.shape)}.")
    return Image.fromarray(to_uint8(tensor).permute(1, 2, 0).contiguous().numpy())


def to_images(tensor: torch.Tensor) -> list[Image.Image]:
    """``[N, 3, H, W]`` in [-1, 1] -> N PIL pictures. Raises ShapeError like ``to_image``."""
    if tensor.dim() != 4:
        raise ShapeError(f"A batch of pictures is [N, 3, H, W]; this tensor is {list(tensor.shape)}.")
    return [to_image(one) for one in tensor]


def to_output(pictures: torch.Tensor, output_type: OutputType) -> Any:
    """``[N, 3, H, W]`` in [-1, 1] -> a list of PIL images, an array uint8 ``[N, H, W, 3]``, or the tensor itself.

    Raises:
        ConfigError: The type is none of "pil", "np" and "pt".
    """
    if output_type == "pt":
        return pictures
    if output_type == "pil":
        return to_images(pictures)
    if output_type == "np":
        return to_uint8(pictures).permute(0, 2, 3, 1).contiguous().numpy()
    raise ConfigError(f"output_type must be 'pil', 'np' or 'pt', not {output_type!r}.")


def save_png(image: Image.Image, path: AnyPath) -> None:
    """Write a PNG without metadata, atomically: whoever reads ``path`` sees the old file or the whole new one."""
    with new_file(path) as scratch:
        Image.fromarray(np.asarray(image)).save(scratch, format="PNG")


def check_ending(path: AnyPath) -> Path:
    """The path of a picture to be written. Raises ConfigError where its ending is of no format that is written."""
    place = user_path(path)
    if place.suffix.lower() not in WRITTEN:
        raise ConfigError(f"{place} has none of the endings of pictures that are written: {', '.join(WRITTEN)}.")
    return place


def save_picture(image: Image.Image, path: AnyPath) -> None:
    """Write a picture without metadata, atomically, in the format that the ending of ``path`` names.

    Transparency is kept where the format has it, and else laid on white.

    Raises:
        ConfigError: Another ending.
        SaveError: It cannot be written.
    """
    how = WRITTEN[check_ending(path).suffix.lower()]
    if image.mode == "RGBA" and how["format"] in ("JPEG", "BMP"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    with new_file(path) as scratch:
        Image.fromarray(np.asarray(image)).save(scratch, **how)


def contact_sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay pictures out row by row on white, each centred in a cell as large as the largest, 2 pixels apart.

    Raises:
        PictureError: There are no pictures.
        ConfigError: There are no columns.
    """
    if not images:
        raise PictureError("A contact sheet needs at least one picture.")
    gap = 2
    columns = min(whole(columns, "columns", 1), len(images))
    rows = -(-len(images) // columns)
    cell_w = max(image.width for image in images) + gap
    cell_h = max(image.height for image in images) + gap
    sheet = Image.new("RGB", (columns * cell_w - gap, rows * cell_h - gap), "white")
    for n, image in enumerate(images):
        row, column = divmod(n, columns)
        left = column * cell_w + (cell_w - gap - image.width) // 2
        top = row * cell_h + (cell_h - gap - image.height) // 2
        sheet.paste(image.convert("RGB"), (left, top))
    return sheet
