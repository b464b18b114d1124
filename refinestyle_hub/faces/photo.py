"""How a photo comes in: it is read, turned upright, its faces are found, and one of them is cut out.

The pipeline, inversions of folders, the pictures of an adaptation, the command line and the demo all go this way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..boundary.numbers import flag, whole
from ..boundary.paths import AnyPath, user_path
from ..errors import FaceNotFoundError, PictureError, counted
from ..images import MAX_BYTES, MAX_PIXELS, PictureSource, list_pictures, load_picture, to_tensor
from ..images.pixels import MAX_SIDE
from .align import Crop, align
from .detect import Face, find_faces
from .dlib_models import FaceModels


__all__ = ["FaceSearch", "Photo", "read_crops", "read_photo", "search_for"]

FaceSearch: TypeAlias = Literal["required", "optional", "none"]


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture that was read, and the faces that were found in it.

    image: The picture, upright, RGB, without metadata.
    faces: The faces, the largest first. None at all means that the picture is taken as it is.
    """

    image: Image.Image
    faces: tuple[Face, ...] = ()

    def crop(self, size: int, face: int = 0) -> Crop:
        """Cut out a face as FFHQ does, or the central square where there are no faces, of size x size pixels.

        Args:
            size: Height and width of the crop.
            face: Which face, 0 being the largest.

        Raises:
            FaceNotFoundError: There are faces, but none of that number.
        """
        face, size = whole(face, "face"), whole(size, "size", 1, MAX_SIDE)
        if face and not self.faces:
            raise FaceNotFoundError(
                f"The picture is taken as it is, without looking for faces: leave face={face} out."
            )
        if not self.faces:
            return Crop(ImageOps.fit(self.image, (size, size), Image.Resampling.LANCZOS))
        if not 0 <= face < len(self.faces):
            found = counted(len(self.faces), "face")
            raise FaceNotFoundError(f"The picture has {found}, counted from 0; there is no face {face}.")
        return align(self.image, self.faces[face], size)


def read_photo(
    picture: PictureSource,
    faces: FaceSearch = "required",
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    models: FaceModels | None = None,
) -> Photo:
    """Read a picture and find the faces in it.

    Args:
        picture: Path, file contents, open file, PIL image, or pixels as an array or tensor, see ``load_picture``.
        faces: "required" finds faces or raises; "optional" takes a picture in which none is found as it is, as drawn
            faces often are not; "none" takes every picture as it is, and needs no face detector.
        max_bytes: The size of the largest file that is read.
        max_pixels: The largest width x height that is decoded.
        models: The face models to use. None means the installed ones.

    Raises:
        PictureError: The picture cannot be used.
        FaceNotFoundError: A face is required, and there is none.
        MissingDependencyError: dlib or its models are not installed.
    """
    image = load_picture(picture, max_bytes=max_bytes, max_pixels=max_pixels)
    if faces == "none":
        return Photo(image)
    try:
        return Photo(image, tuple(find_faces(image, models=models)))
    except FaceNotFoundError as error:
        if faces == "optional":
            return Photo(image)
        named = f"{user_path(picture)}: " if isinstance(picture, str | os.PathLike) else ""
        raise FaceNotFoundError(f"{named}{error}") from error


def search_for(aligned: bool) -> FaceSearch:
    """How faces are looked for in a picture that is a crop already, or is not. Raises ConfigError for a text."""
    return "none" if flag(aligned, "aligned") else "required"


def read_crops(paths: Sequence[AnyPath], size: int, *, aligned: bool = False) -> tuple[Tensor, dict[str, str]]:
    """Read the largest face of each picture, and say why others were left out.

    Args:
        paths: Pictures, or folders that are searched with those below.
        size: R, height and width of the crops.
        aligned: Whether the pictures are crops already, of which the central square is taken.

    Returns:
        The crops [N, 3, R, R] in [-1, 1]; and why there is none of other pictures and files, by their paths.

    Raises:
        PictureError: A folder has no pictures, or none can be used.
        MissingDependencyError: The face detector is not installed.
    """
    crops: list[Tensor] = []
    skipped: dict[str, str] = {}
    for place in map(user_path, paths):
        found, left_out = list_pictures(place) if place.is_dir() else ([place], {})
        skipped |= {str(place / name): why for name, why in left_out.items()}
        for path in found:
            try:
                crops.append(to_tensor(read_photo(path, search_for(aligned)).crop(size).image))
            except (FaceNotFoundError, PictureError) as error:
                skipped[str(path)] = str(error).removeprefix(f"{path}: ")
    if not crops:
        reasons = "; ".join(f"{path}: {why}" for path, why in list(skipped.items())[:1])
        raise PictureError(f"No picture can be used. {reasons}")
    return torch.cat(crops), skipped
