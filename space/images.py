"""Pictures of visitors: the loader with its limits, their faces, and the files that are shown and downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from refinestyle_hub.adapt import MAX_PICTURES, References, load_references
from refinestyle_hub.errors import FaceNotFoundError, PictureError
from refinestyle_hub.faces.align import face_quad
from refinestyle_hub.faces.photo import FaceSearch, Photo, read_photo
from refinestyle_hub.images import FORMATS, contact_sheet
from refinestyle_hub.storage.atomic import write_file

from . import limits, messages


__all__ = [
    "Pixels",
    "cache_file",
    "crop_of",
    "film_file",
    "framed",
    "keep_swept",
    "open_photo",
    "png",
    "png_file",
    "read_references",
    "side_by_side",
    "sweep_cache",
]

Pixels = NDArray[np.uint8]  # [H, W, 3]

ACCENT = (15, 118, 110)
FRAMED = 512  # pixels, the long side of a photo with its frames
FRAME_MS = 70  # of a film


def open_photo(path: str | None, faces: FaceSearch = "required") -> Photo:
    """An upload as upright RGB without metadata, and its faces without those that are too small to use.

    Raises the message for a visitor if it cannot be used, where possible before a pixel is decoded.
    """
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
        photo = read_photo(path, faces, max_bytes=limits.MAX_BYTES, max_pixels=limits.MAX_PIXELS)
    except FaceNotFoundError as error:
        raise messages.refuse(messages.NO_FACE) from error
    except PictureError as error:
        raise messages.refuse(messages.NOT_A_PICTURE) from error
    large = tuple(face for face in photo.faces if face.width >= limits.MIN_FACE)
    if photo.faces and not large:
        raise messages.refuse(messages.face_too_small(photo.faces[0].width))
    return Photo(photo.image, large)


def _size_in_header(path: str) -> tuple[int, int]:
    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            return picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise messages.refuse(messages.FAR_TOO_MANY_PIXELS) from error
    except Exception as error:  # header parsers of damaged files raise nearly anything
        raise messages.refuse(messages.NOT_A_PICTURE) from error


def crop_of(photo: Photo, size: int, face: int = 0) -> Pixels:
    """The aligned crop of a face, or the central square of a photo without faces, [size, size, 3]."""
    return np.asarray(photo.crop(size, face).image)


def framed(photo: Photo, chosen: int) -> Pixels:
    """A small copy of the photo with a frame around the crop of each face; that of the chosen face stands out."""
    scale = FRAMED / max(photo.image.size)
    small = photo.image.resize([max(round(side * scale), 1) for side in photo.image.size])
    draw = ImageDraw.Draw(small)
    for index, face in enumerate(photo.faces):
        corners = [(float(x), float(y)) for x, y in (face_quad(face.landmarks) + 0.5) * scale]
        colour, width = (ACCENT, 4) if index == chosen else ((255, 255, 255), 2)
        draw.line([*corners, corners[0], corners[1]], fill=colour, width=width, joint="curve")
    return np.asarray(small)


def read_references(paths: Sequence[str] | None, size: int) -> tuple[References, dict[str, str]]:
    """Pictures of a style as squares of ``size``, and those that cannot be used: file name -> why.

    Faces are aligned where they are found. Raises the message for a visitor if none can be used.
    """
    if not paths:
        raise messages.refuse(messages.NO_PICTURES)
    if len(paths) > MAX_PICTURES:
        raise messages.refuse(messages.too_many_pictures(len(paths)))
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
    if side and images[0].width > side:
        images = [image.resize((side, side), Image.Resampling.LANCZOS) for image in images]
    return np.asarray(images[0] if len(images) == 1 else contact_sheet(images, columns))


# --- Files in Gradio's cache, from where they are served and where they are swept ----------------------------------


def cache_file(data: bytes, name: str) -> str:
    """Write a file that is to be shown or downloaded, and return its path.

    The folder is named after the contents, because Gradio would overwrite a file of the same name while a browser
    reads it.
    """
    folder = Path(get_upload_folder()) / hashlib.sha256(data).hexdigest()[:32]
    write_file(folder / name, data)
    return str(folder / name)


def sweep_cache() -> None:
    """Delete what is older than any session. Gradio itself deletes only files that it served since it was started."""
    eldest = time.time() - limits.CACHE_SECONDS[1]
    for path in sorted(Path(get_upload_folder()).rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # another process may sweep as well, and not every folder is empty
            if path.stat().st_mtime > eldest:
                continue
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def keep_swept() -> None:
    """Sweep now, and then at intervals for as long as the process lives."""

    def sweep() -> None:
        while True:
            sweep_cache()
            time.sleep(limits.CACHE_SECONDS[0])

    threading.Thread(target=sweep, daemon=True).start()


def png(pixels: Pixels) -> bytes:
    """A picture as a PNG file."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


def png_file(pixels: Pixels, name: str = "picture.png") -> str:
    """A picture as a PNG file in the cache."""
    return cache_file(png(pixels), name)


def film_file(frames: Sequence[Pixels], name: str = "film.webp") -> str:
    """Frames forwards and backwards in an endless loop, as an animated WebP in the cache."""
    images = [Image.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    side = max(images[0].size)
    if side > limits.FILM_SIDE:
        scale = limits.FILM_SIDE / side
        size = round(images[0].width * scale), round(images[0].height * scale)
        images = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
    data = io.BytesIO()
    images[0].save(
        data, "WEBP", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0, quality=88, method=3
    )
    return cache_file(data.getvalue(), name)
