"""Pictures of visitors: the loader with its limits, their faces, and pictures as they travel."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from refinestyle_hub.adapt import MAX_PICTURES, References, load_references
from refinestyle_hub.errors import FaceNotFoundError, PictureError
from refinestyle_hub.faces.align import face_quad
from refinestyle_hub.faces.photo import FaceSearch, Photo, read_photo
from refinestyle_hub.images import contact_sheet

from . import limits, messages


Pixels = NDArray[np.uint8]  # [H, W, 3]

ACCENT = (15, 118, 110)
FRAMED = 512  # pixels, the long side of a photo with its frames


def open_photo(path: str | None, faces: FaceSearch = "required") -> Photo:
    """An upload as upright RGB without metadata, and its faces without those that are too small to use.

    Raises the message for a visitor if it cannot be used.
    """
    if not path:
        raise messages.refuse(messages.NO_PHOTO)
    try:
        photo = read_photo(path, faces, max_bytes=limits.MAX_BYTES, max_pixels=limits.MAX_PIXELS)
    except FaceNotFoundError as error:
        raise messages.refuse(messages.NO_FACE) from error
    except PictureError as error:  # where it lies on this machine is nobody's business
        told = str(error).removeprefix(f"{path}: ").replace(path, os.path.basename(path))
        raise messages.refuse(html.escape(told)) from error
    large = tuple(face for face in photo.faces if face.width >= limits.MIN_FACE)
    if photo.faces and not large:
        raise messages.refuse(messages.FACE_TOO_SMALL, width=photo.faces[0].width)
    return Photo(photo.image, large)


def framed(photo: Photo) -> Pixels:
    """A small copy of the photo with a frame around the crop of each face; that of the largest stands out."""
    small = ImageOps.contain(photo.image, (FRAMED, FRAMED))
    scale = small.width / photo.image.width
    draw = ImageDraw.Draw(small)
    for index, face in enumerate(photo.faces):
        corners = [(float(x), float(y)) for x, y in (face_quad(face.landmarks) + 0.5) * scale]
        colour, width = (ACCENT, 4) if index == 0 else ((255, 255, 255), 2)
        draw.line([*corners, corners[0], corners[1]], fill=colour, width=width, joint="curve")
    return np.asarray(small)


def read_references(paths: Sequence[str] | None, size: int) -> tuple[References, dict[str, str]]:
    """Pictures of a style as squares of ``size``, and those that cannot be used: file name -> why.

    Faces are aligned where they are found. Raises the message for a visitor if none can be used.
    """
    if not paths:
        raise messages.refuse(messages.NO_PICTURES)
    if len(paths) > MAX_PICTURES:
        raise messages.refuse(messages.TOO_MANY_PICTURES, count=len(paths))
    pictures, names, refused = [], [], {}
    for path in paths:
        name = os.path.basename(path)
        try:
            pictures.append(open_photo(path, "none").image)
            names.append(name)
        except gr.Error as error:
            refused[name] = str(error.message)
    if not pictures:
        raise messages.refuse(messages.left_out(refused).replace("**", ""))
    return replace(load_references(pictures, size), names=tuple(names)), refused


def side_by_side(pictures: Sequence[Pixels], columns: int, side: int = 0) -> Pixels:
    """Pictures row by row on white, each reduced to ``side`` pixels if it is larger and ``side`` is not 0."""
    images = [Image.fromarray(picture) for picture in pictures]
    images = [x.resize((side, side), Image.Resampling.LANCZOS) if 0 < side < x.width else x for x in images]
    return np.asarray(images[0] if len(images) == 1 else contact_sheet(images, columns))


# --- Pictures as they travel ---


def encoded(pixels: Pixels, kind: str, **how: Any) -> bytes:
    """A picture as the contents of a file, saved by Pillow as it is told."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **how)
    return data.getvalue()


def webp(pixels: Pixels) -> bytes:
    """A picture to keep: a tenth as large as PNG, and no eye can tell."""
    return encoded(pixels, "WEBP", quality=95, method=2)


def opened(data: bytes) -> Pixels:
    """The pixels of a picture that was kept."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def address(pixels: Pixels) -> str:
    """A picture to look at, as an address that holds it whole: JPEG, which is written in an instant, in no file."""
    content = encoded(pixels, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
