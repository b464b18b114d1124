"""The pictures of a style as an adaptation takes them: squares of the generator's size, aligned by their faces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..boundary.paths import user_path
from ..errors import ConfigError, PictureError
from ..faces.photo import read_photo
from ..images import PictureSource, is_single, list_pictures, to_tensor, to_uint8
from .settings import MAX_PICTURES


__all__ = ["Align", "References", "load_references"]

Align: TypeAlias = Literal["auto", "none"]


@dataclass(frozen=True, eq=False)
class References:
    """Example pictures of a style."""

    pictures: Tensor  # [M, 3, R, R] in [-1, 1]
    names: tuple[str, ...]
    aligned: tuple[bool, ...]  # whether a face was found, and cut out as FFHQ does; else it is the central square
    ignored: tuple[str, ...] = ()  # other files in the folders that were named

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def digest(self) -> str:
        """Digest of the pixels, 16 hexadecimal digits: a run continues only with the pictures that it began with."""
        return hashlib.sha256(to_uint8(self.pictures).contiguous().numpy().tobytes()).hexdigest()[:16]

    @property
    def report(self) -> dict[str, Any]:
        """Names of the pictures that were aligned by their face, of those used as they are, and of other files."""
        return {
            "aligned": [name for name, yes in zip(self.names, self.aligned, strict=True) if yes],
            "as_they_are": [name for name, yes in zip(self.names, self.aligned, strict=True) if not yes],
            "ignored": list(self.ignored),
        }


def load_references(pictures: PictureSource | Sequence[PictureSource], size: int, align: Align = "auto") -> References:
    """Read 1 to 20 pictures as squares of ``size``.

    Args:
        pictures: Paths, file contents, open files or PIL images, or one of these. A folder stands for its pictures.
        size: R, height and width of the squares.
        align: "auto" cuts faces out as FFHQ does, and takes the central square where none is found (drawn faces often
            are not); "none" takes the central square of all.

    Raises:
        ConfigError: There are not 1 to 20 pictures, or ``align`` is unknown.
        PictureError: A picture cannot be used; the message names it.
        MissingDependencyError: The face detector is not installed, which "none" does not need.
    """
    if align not in ("auto", "none"):
        raise ConfigError(f"align must be 'auto' or 'none', not {align!r}.")
    found, ignored = _expanded([pictures] if is_single(pictures) else list(pictures))  # type: ignore[list-item, arg-type]
    if not 1 <= len(found) <= MAX_PICTURES:
        raise ConfigError(f"A domain is made from 1 to {MAX_PICTURES} pictures, not {len(found)}.")
    tensors, names, aligned = [], [], []
    for number, source in enumerate(found, 1):
        place = user_path(source) if isinstance(source, str | os.PathLike) else None
        name = place.name if place else f"picture {number}"
        try:
            photo = read_photo(source, "optional" if align == "auto" else "none")
        except PictureError as error:
            raise PictureError(f"{name}: {str(error).removeprefix(f'{place}: ')}") from error
        tensors.append(to_tensor(photo.crop(size).image))
        names.append(name)
        aligned.append(bool(photo.faces))
    return References(torch.cat(tensors), tuple(names), tuple(aligned), tuple(ignored))


def _expanded(sources: Sequence[PictureSource]) -> tuple[list[PictureSource], list[str]]:
    """Pictures, with those that lie in folders; and the names of the other files there."""
    pictures: list[PictureSource] = []
    ignored: list[str] = []
    for source in sources:
        if not isinstance(source, str | os.PathLike) or not user_path(source).is_dir():
            pictures.append(source)
            continue
        inside, left_out = list_pictures(user_path(source))
        pictures += inside
        ignored += left_out
    return pictures, ignored
