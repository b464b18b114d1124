"""The pictures of a style as an adaptation takes them: squares of the generator's size, aligned by their faces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..boundary.paths import user_path
from ..errors import ConfigError, PictureError
from ..faces.photo import read_photo
from ..generators.base import Window
from ..images import PictureSource, is_single, list_pictures, to_tensor, to_uint8
from ..losses.pixel import shrink
from .settings import MAX_PICTURES


__all__ = ["WHOLE_SIDE", "Align", "References", "load_references"]

Align: TypeAlias = Literal["auto", "none"]
WHOLE_SIDE = 256  # pixels: larger pictures are averaged to this or less, and their details seen in crops


@dataclass(frozen=True, eq=False)
class References:
    """Example pictures of a style."""

    pictures: Tensor  # [M, 3, R, R] in [-1, 1]
    names: tuple[str, ...]
    aligned: tuple[bool, ...]  # whether a face was found, and cut out as FFHQ does; else it is the central square
    ignored: tuple[str, ...] = ()  # other files in the folders that were named
    sides: tuple[int, ...] = ()  # pixels of each square in the file that it was cut from, where that is known
    unreadable: Mapping[str, str] = field(default_factory=dict)  # why pictures in folders are left out, by their paths

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def small(self) -> Tensor:
        """The pictures as they are compared whole, [M, 3, r, r], r at most WHOLE_SIDE."""
        return shrink(self.pictures, WHOLE_SIDE)

    @property
    def pixels(self) -> Tensor:
        """Some of their pixels as they are, [M, 3, r, r]: means of strokes and paper are colours of neither."""
        step = max(1, self.pictures.shape[-1] // WHOLE_SIDE)
        return self.pictures[..., ::step, ::step]

    def part(self, numbers: Sequence[int], window: Window) -> References:
        """The same window of some of them."""
        top, left, side = window
        pictures = self.pictures[list(numbers), :, top : top + side, left : left + side]
        return References(pictures, tuple(self.names[i] for i in numbers), tuple(self.aligned[i] for i in numbers))

    @property
    def digest(self) -> str:
        """Digest of the pixels, 16 hexadecimal digits: a run continues only with the pictures that it began with."""
        return hashlib.sha256(to_uint8(self.pictures).contiguous().numpy().tobytes()).hexdigest()[:16]

    @property
    def report(self) -> dict[str, Any]:
        """Names of the pictures that were aligned by their face, of those used as they are, and of what was left."""
        return {
            "aligned": [name for name, yes in zip(self.names, self.aligned, strict=True) if yes],
            "as_they_are": [name for name, yes in zip(self.names, self.aligned, strict=True) if not yes],
            "ignored": list(self.ignored),
            "unreadable": dict(self.unreadable),
        }


def load_references(pictures: PictureSource | Sequence[PictureSource], size: int, align: Align = "auto") -> References:
    """Read 1 to 20 pictures as squares of ``size``.

    Args:
        pictures: Paths, file contents, open files, PIL images, or pixels in memory; or one of these. A folder stands
            for its pictures, and those of them that cannot be read are left out.
        size: R, height and width of the squares.
        align: "auto" cuts faces out as FFHQ does, and takes the central square where none is found (drawn faces often
            are not); "none" takes the central square of all.

    Raises:
        ConfigError: There are not 1 to 20 pictures, or ``align`` is unknown.
        PictureError: A picture that is named itself cannot be used, or none is left; the message names it.
        MissingDependencyError: The face detector is not installed, which "none" does not need.
    """
    if align not in ("auto", "none"):
        raise ConfigError(f"align must be 'auto' or 'none', not {align!r}.")
    if not is_single(pictures) and not isinstance(pictures, Iterable):
        raise ConfigError(f"Pictures are paths, PIL images or arrays, or a list of these, not {pictures!r:.80}.")
    found, ignored = _expanded([pictures] if is_single(pictures) else list(pictures))  # type: ignore[list-item, arg-type]
    if not 1 <= len(found) <= MAX_PICTURES:
        raise ConfigError(f"A domain is made from 1 to {MAX_PICTURES} pictures, not {len(found)}.")
    tensors, names, aligned, sides = [], [], [], []
    unreadable: dict[str, str] = {}
    for number, (source, named) in enumerate(found, 1):
        place = user_path(source) if isinstance(source, str | os.PathLike) else None
        name = place.name if place else f"picture {number}"
        try:
            photo = read_photo(source, "optional" if align == "auto" else "none")
        except PictureError as error:
            why = str(error).removeprefix(f"{place}: ")
            if named:
                raise PictureError(f"{name}: {why}") from error
            unreadable[str(place)] = why
            continue
        crop = photo.crop(size)
        tensors.append(to_tensor(crop.image))
        sides.append(
            min(photo.image.size) if crop.quad is None else round(float(np.hypot(*(crop.quad[1] - crop.quad[0]))))
        )
        names.append(name)
        aligned.append(bool(photo.faces))
    if not tensors:
        raise PictureError(f"No picture can be used. {': '.join(next(iter(unreadable.items())))}")
    return References(torch.cat(tensors), tuple(names), tuple(aligned), tuple(ignored), tuple(sides), unreadable)


def _expanded(sources: Sequence[PictureSource]) -> tuple[list[tuple[PictureSource, bool]], list[str]]:
    """Pictures, with those that lie in folders, and whether each is named itself; and the other files there."""
    pictures: list[tuple[PictureSource, bool]] = []
    ignored: list[str] = []
    for source in sources:
        if not isinstance(source, str | os.PathLike) or not user_path(source).is_dir():
            pictures.append((source, True))
            continue
        inside, left_out = list_pictures(user_path(source))
        pictures += [(path, False) for path in inside]
        ignored += left_out
    return pictures, ignored
