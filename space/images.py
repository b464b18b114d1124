"""Pictures of strangers: the loader with its limits, their faces, and pictures to look at and to download."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gradio.utils import get_upload_folder
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from refinestyle_hub.errors import FaceNotFoundError, PictureError
from refinestyle_hub.faces import Face, align, face_quad, find_faces
from refinestyle_hub.images import FORMATS, load_picture

from . import limits, messages


__all__ = ["Pixels", "crops_of", "faces_in", "framed", "png_file", "read_photo", "square"]

Pixels = NDArray[np.uint8]  # [H, W, 3]

ACCENT = (15, 118, 110)
FRAMED = 512  # pixels, the long side of a photo with its frames


def read_photo(path: str | None) -> Image.Image:
    """An upload as upright RGB without metadata; refused with its message before a pixel is decoded if it can be."""
    if not path:
        raise messages.refuse(messages.NO_PHOTO)
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise messages.refuse(messages.NOT_A_PICTURE) from error
    if size > limits.MAX_BYTES:
        raise messages.refuse(messages.too_many_bytes(size))
    width, height = _size_in_header(path)
    if width * height > limits.MAX_PIXELS:
        raise messages.refuse(messages.too_many_pixels(width, height))
    try:
        return load_picture(path, max_bytes=limits.MAX_BYTES, max_pixels=limits.MAX_PIXELS)
    except PictureError as error:
        raise messages.refuse(messages.NOT_A_PICTURE) from error


def _size_in_header(path: str) -> tuple[int, int]:
    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            return picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise messages.refuse(messages.FAR_TOO_MANY_PIXELS) from error
    except Exception as error:  # header parsers of damaged files raise nearly anything
        raise messages.refuse(messages.NOT_A_PICTURE) from error


def faces_in(image: Image.Image) -> list[Face]:
    """The faces of a photo, the largest first; those too small to use are left out."""
    try:
        faces = find_faces(image)
    except FaceNotFoundError as error:
        raise messages.refuse(messages.NO_FACE) from error
    large = [face for face in faces if face.width >= limits.MIN_FACE]
    if not large:
        raise messages.refuse(messages.face_too_small(faces[0].width))
    return large


def square(image: Image.Image, size: int) -> Pixels:
    """The central square, for a photo that is a crop already."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))


def crops_of(image: Image.Image, faces: Sequence[Face], size: int) -> list[Pixels]:
    """The aligned crop of each face, [size, size, 3]."""
    return [np.asarray(align(image, face, size).image) for face in faces]


def framed(image: Image.Image, faces: Sequence[Face], chosen: int) -> Pixels:
    """A small copy of the photo that shows which squares are cut out; that of the chosen face stands out."""
    scale = FRAMED / max(image.size)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    draw = ImageDraw.Draw(small)
    for index, face in enumerate(faces):
        corners = [(float(x), float(y)) for x, y in (face_quad(face.landmarks) + 0.5) * scale]
        colour, width = (ACCENT, 4) if index == chosen else ((255, 255, 255), 2)
        draw.line([*corners, corners[0], corners[1]], fill=colour, width=width, joint="curve")
    return np.asarray(small)


def png_file(pixels: Pixels, name: str = "picture.png") -> str:
    """Write a picture into Gradio's cache, from where it is served and where it is swept; its path.

    Gradio would write an array as well, but over and over into the same file, also while a browser is reading it.
    """
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    folder = Path(get_upload_folder()) / hashlib.sha256(data.getvalue()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{secrets.token_hex(8)}.part"
    part.write_bytes(data.getvalue())
    os.replace(part, folder / name)
    return str(folder / name)
