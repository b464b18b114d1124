"""The pictures of a style as an adaptation takes them: squares of the generator's size, aligned by their faces."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import ConfigError, FaceNotFoundError, PictureError
from ..faces import crop_face
from ..images import PictureSource, load_picture, to_tensor
from .settings import MAX_PICTURES


__all__ = ["Align", "References", "load_references"]

Align: TypeAlias = Literal["auto", "none"]


@dataclass(frozen=True, eq=False)
class References:
    """Example pictures of a style."""

    pictures: Tensor  # [M, 3, R, R] in [-1, 1]
    names: tuple[str, ...]
    aligned: tuple[bool, ...]  # whether a face was found, and cut out as FFHQ does; else it is the central square

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def digest(self) -> str:
        """Of the pixels, 16 hexadecimal digits: tells whether a run goes on with the pictures it began with."""
        levels = self.pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return hashlib.sha256(levels.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]

    @property
    def report(self) -> dict[str, Any]:
        """Which pictures were aligned by their face and which are used as they are."""
        return {
            "aligned": [name for name, yes in zip(self.names, self.aligned, strict=True) if yes],
            "as_they_are": [name for name, yes in zip(self.names, self.aligned, strict=True) if not yes],
        }


def load_references(pictures: Sequence[PictureSource], size: int, align: Align = "auto") -> References:
    """Read 1 to 20 pictures as squares of ``size``.

    Args:
        pictures: paths, file contents, open files or PIL images.
        align: "auto" cuts faces out as FFHQ does, and takes the central square where none is found (drawn faces often
            are not); "none" takes the central square of all.

    Raises:
        ConfigError: no picture, or more than 20; or an unknown ``align``.
        PictureError: one cannot be used; the message names it.
        MissingDependencyError: the face detector is not installed ("none" does without).
    """
    if align not in ("auto", "none"):
        raise ConfigError(f"align must be 'auto' or 'none', not {align!r}.")
    if not 1 <= len(pictures) <= MAX_PICTURES:
        raise ConfigError(f"A domain is made from 1 to {MAX_PICTURES} pictures, not {len(pictures)}.")
    tensors, names, aligned = [], [], []
    for place, source in enumerate(pictures, 1):
        name = Path(source).name if isinstance(source, (str, os.PathLike)) else f"picture {place}"
        try:
            image, found = load_picture(source), False
            if align == "auto":
                with contextlib.suppress(FaceNotFoundError):
                    image, found = crop_face(image, size).image, True
        except PictureError as error:
            raise PictureError(f"{name}: {error}") from error
        tensors.append(to_tensor(image, size))
        names.append(name)
        aligned.append(found)
    return References(torch.cat(tensors), tuple(names), tuple(aligned))
