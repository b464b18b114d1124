"""Anything that a person may give for a picture -> plain RGB."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from ..boundary.contents import contents_of
from ..boundary.paths import user_path
from ..errors import ConfigError, PictureError
from .memory import image_of_array


__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "PictureSource", "is_single", "load_picture"]

# A path, the contents of a file, an open file, or a picture in memory: see ``memory`` for arrays and tensors
PictureSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any] | torch.Tensor"

MAX_BYTES = 64_000_000
MAX_PIXELS = 120_000_000  # phones reach 108 million
ADVICE = "Use JPEG, PNG or WebP."

# Only plain raster formats: Pillow knows more, and one of them (EPS) starts an external interpreter.
# HEIF is there only after pillow_heif.register_heif_opener().
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM")
ORIENTATION = 0x0112  # the EXIF tag


def is_single(source: object) -> bool:
    """Whether it is one picture, or a path, and not a sequence of them; an array of four dimensions is a sequence."""
    if isinstance(source, np.ndarray | torch.Tensor):
        return source.ndim < 4
    return isinstance(source, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(
        source, "read"
    )


def load_picture(
    source: PictureSource, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS, alpha: bool = False
) -> Image.Image:
    """Read a picture as upright sRGB, mode RGB, without any metadata.

    The size in the header is checked before a pixel is decoded. The EXIF orientation is applied, embedded colour
    profiles are converted to sRGB, 16-bit grey is scaled, transparency is laid on white, and of an animation the first
    frame is taken.

    Args:
        source: Path, file contents, open binary file (read from its start where it can seek), PIL image, or an array
            or tensor of pixels, see ``memory.image_of_array``.
        max_bytes: The size of the largest file.
        max_pixels: The largest width x height.
        alpha: Whether to keep transparency: a picture that has some comes as RGBA.

    Raises:
        PictureError: It is missing, damaged, too large, or not a picture. The message names the file and the way out.
    """
    if not isinstance(source, str | os.PathLike):
        return _load(source, max_bytes, max_pixels, alpha)
    try:
        path = user_path(source)
    except ConfigError as error:
        raise PictureError(str(error)) from error
    try:
        return _load(path, max_bytes, max_pixels, alpha)
    except PictureError as error:
        text = str(error)
        raise (error if str(path) in text else PictureError(f"{path}: {text}")) from error.__cause__


def _load(source: Any, max_bytes: int, max_pixels: int, alpha: bool) -> Image.Image:
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, np.ndarray | torch.Tensor) or hasattr(source, "__array__"):
        image = image_of_array(source)
    else:
        image = _open(_read(source, max_bytes))
    width, height = image.size
    if not width * height:
        raise PictureError(f"The picture is empty ({width} x {height} pixels).")
    if width * height > max_pixels:
        raise PictureError(
            f"The picture has {width} x {height} pixels, more than the {max_pixels / 1e6:g} million allowed. "
            "Make it smaller first."
        )
    try:
        image.load()
        image = _upright(image)
        rgb = _to_srgb(_flatten(image, on_white=not alpha))
        if alpha and image.has_transparency_data:
            rgb.putalpha(image.convert("RGBA").getchannel("A"))
    except PictureError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise PictureError(
            f"The picture is damaged or incomplete ({_first_line(error)}). Download or export it again. {ADVICE}"
        ) from error
    return Image.fromarray(np.asarray(rgb))  # from the bare pixels: no EXIF, profile, comment or text survives


def _read(source: Any, max_bytes: int) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, Path):
        data = _read_path(source, max_bytes)
    elif hasattr(source, "read"):
        try:
            if source.seekable():
                source.seek(0)
            data = source.read(max_bytes + 1)
        except Exception as error:  # a disk, a socket, the checksum of an archive
            raise PictureError(f"The file cannot be read: {_first_line(error)}.") from error
        if not isinstance(data, bytes):
            raise PictureError("The file is open in text mode. Open it with open(path, 'rb').")
    else:
        raise PictureError(
            f"A picture is a path, the contents of a file, an open file, a PIL image or an array, not {_kind(source)}."
        )
    if not data:
        raise PictureError(f"The file is empty (0 bytes). Download or export it again. {ADVICE}")
    if len(data) > max_bytes:
        raise PictureError(f"The file is larger than the {max_bytes / 1e6:g} MB allowed. Save it smaller first.")
    return data


def _read_path(path: Path, max_bytes: int) -> bytes:
    if path.is_dir():
        raise PictureError(f"{path} is a folder, and no picture file. Name a picture in it.")
    if not path.is_file():  # also keeps us from waiting on a pipe or device
        dangling = " (a link to nothing)" if path.is_symlink() else ""
        raise PictureError(f"There is no picture file at {path}{dangling}.")
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}.") from error


def _kind(source: object) -> str:
    return f"a {type(source).__name__}" if source is not None else "None"


def _open(data: bytes) -> Image.Image:
    """Read the header, decode nothing."""
    Image.init()
    try:
        with warnings.catch_warnings():  # a limit of our own follows
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise PictureError("The picture has far too many pixels. Make it smaller first.") from error
    except Exception as error:  # header parsers of damaged files raise nearly anything
        raise PictureError(f"{_what_is_it(data)} {ADVICE}") from error


def _what_is_it(data: bytes) -> str:
    """Name the kind of file that was given in place of a picture."""
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
            return "HEIC photos cannot be read here: export the photo as JPEG (on an iPhone: share, options)."
        if data[8:12] in (b"avif", b"avis"):
            return "The AVIF picture is damaged or of a kind that cannot be read here: download or export it again."
        return "This is a video, or a picture of a kind that cannot be read here."
    if data.startswith(b"%PDF"):
        return "This is a PDF, not a picture."
    start = data[:2000]
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "This is an SVG or XML drawing: export it as PNG first."
    if text.startswith((b"<!doctype html", b"<html")):
        return "This is a web page, not a picture: the download may need a log-in."
    contents = contents_of(start)
    if contents is not None and contents.kind in ("json", "text"):
        return "This is a text file, not a picture."
    if contents is not None and contents.kind != "picture":
        advice = contents.advice if contents.kind == "lfs" else "Name a picture, or unpack it first."
        return f"This is not a picture but {contents.what}. {advice}"
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")):
        return "The picture is damaged or incomplete: download or export it again."
    return "This file is not a picture that can be read."


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF must not cost the user the photo
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _flatten(image: Image.Image, on_white: bool = True) -> Image.Image:
    """Any mode -> RGB or CMYK of 8 bits, transparency laid on white or left out."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(np.asarray(image))
    if image.mode == "La":  # grey times its alpha, which converts to nothing else
        image = image.convert("LA")
    if image.mode == "LAB":
        return ImageCms.profileToProfile(  # type: ignore[return-value]
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data and on_white:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        flat = Image.alpha_composite(white, rgba).convert("RGB")
        flat.info = image.info  # keeps the colour profile for _to_srgb
        return flat
    return image if image.mode == "CMYK" else image.convert("RGB")


def _scale_grey(grey: NDArray[np.generic]) -> Image.Image:
    """Grey of more than 8 bits -> RGB, never clipped: whole numbers run to 65535 and fractions to 1, or both to 255
    as Pillow makes them from grey of 8 bits."""
    values = grey.astype(np.float32)  # [H, W]
    top = 1.0 if grey.dtype.kind == "f" else 65535.0
    if grey.dtype.itemsize == 4 and top < values.max() <= 255 or top > 255 >= values.max() and grey.dtype.kind == "i":
        top = 255.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise PictureError(f"The grey values of the picture lie outside 0 to {top:g}. Save it with 8 bits a channel.")
    return Image.fromarray(np.rint(values * np.float32(255 / top)).astype(np.uint8)).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Honour an embedded profile (phones write Display P3, scanners CMYK); without a usable one convert plainly."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(embedded):
                converted = ImageCms.profileToProfile(
                    image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                return converted if converted is not None else image
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a damaged profile, or one for another colour space than the pixels have
    return image.convert("RGB")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__
