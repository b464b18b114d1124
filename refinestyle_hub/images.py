"""Pictures at the boundary: read anything a person may upload, hand on plain RGB; tensors to pictures and back.

Outside the networks a picture is a PIL image, mode RGB, upright, sRGB, without metadata. Inside it is a float tensor
``[N, 3, H, W]`` in [-1, 1].
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from .errors import ConfigError, PictureError, ShapeError
from .storage.atomic import new_file


__all__ = [
    "OutputType",
    "PictureSource",
    "contact_sheet",
    "from_uint8",
    "is_picture",
    "list_pictures",
    "load_picture",
    "no_pictures",
    "save_png",
    "to_image",
    "to_images",
    "to_output",
    "to_tensor",
    "to_uint8",
]

OutputType: TypeAlias = Literal["pil", "np", "pt"]
PictureSource: TypeAlias = str | Path | bytes | BinaryIO | Image.Image

MAX_BYTES = 64_000_000
MAX_PIXELS = 40_000_000
ADVICE = "Use JPEG, PNG or WebP."

# Only plain raster formats: Pillow knows more, and one of them (EPS) starts an external interpreter.
# HEIF is there only after pillow_heif.register_heif_opener().
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm"}  # of pictures in folders
ORIENTATION = 0x0112  # the EXIF tag


def is_picture(name: str | Path) -> bool:
    """Whether the ending of a file's name is one of pictures."""
    return Path(name).suffix.lower() in SUFFIXES


def list_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the pictures of a folder and of those below by their endings, in order, and then its other files.

    Hidden files and what is in hidden folders are left out.

    Raises:
        PictureError: There are no pictures.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    pictures = [path for path in files if is_picture(path)]
    if not pictures:
        raise no_pictures(folder)
    return pictures, [path for path in files if not is_picture(path)]


def no_pictures(place: object) -> PictureError:
    """The error that says that there are no pictures in a folder or archive."""
    return PictureError(f"There are no pictures in {place}. Known endings: {', '.join(sorted(SUFFIXES))}.")


def load_picture(source: PictureSource, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as upright sRGB, mode RGB, without any metadata.

    The size in the header is checked before a pixel is decoded. The EXIF orientation is applied, embedded colour
    profiles are converted to sRGB, 16-bit grey is scaled, transparency is laid on white, and of an animation the first
    frame is taken.

    Args:
        source: Path, file contents, open binary file (read from its start where it can seek) or PIL image.
        max_bytes: The size of the largest file.
        max_pixels: The largest width x height.

    Raises:
        PictureError: It is missing, damaged, too large, or not a picture. The message says what to do.
    """
    image = source if isinstance(source, Image.Image) else _open(_read(source, max_bytes))
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
        rgb = _to_srgb(_flatten(_upright(image)))
    except PictureError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise PictureError(
            f"The picture is damaged or incomplete ({_first_line(error)}). Download or export it again. {ADVICE}"
        ) from error
    return Image.fromarray(np.asarray(rgb))  # from the bare pixels: no EXIF, profile, comment or text survives


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """Convert [-1, 1] to the levels 0 to 255, rounded and clamped: uint8 of any shape, on the CPU."""
    return pictures.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def from_uint8(levels: torch.Tensor) -> torch.Tensor:
    """Convert the levels 0 to 255 to float32 in [-1, 1], of any shape. The exact inverse of ``to_uint8``."""
    return levels.float().div_(127.5).sub_(1.0)


def to_tensor(image: Image.Image, size: int | None = None) -> torch.Tensor:
    """PIL RGB -> float32 ``[1, 3, H, W]`` in [-1, 1]; with `size` the central square, resampled to size x size."""
    image = image.convert("RGB")
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image))  # [H, W, 3] uint8
    return from_uint8(pixels.permute(2, 0, 1)[None]).contiguous()


def to_image(tensor: torch.Tensor) -> Image.Image:
    """``[3, H, W]`` in [-1, 1] -> PIL RGB, rounded and clamped. Exact inverse of `to_tensor` without resampling.

    Raises:
        ShapeError: The tensor is not [3, H, W].
    """
    if tensor.dim() != 3 or tensor.shape[0] != 3:
        raise ShapeError(f"A picture is [3, H, W]; this tensor is {list(tensor.shape)}.")
    return Image.fromarray(to_uint8(tensor).permute(1, 2, 0).contiguous().numpy())


def to_images(tensor: torch.Tensor) -> list[Image.Image]:
    """``[N, 3, H, W]`` in [-1, 1] -> N PIL pictures. Raises ShapeError like `to_image`."""
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


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG without metadata, atomically: whoever reads `path` sees the old file or the whole new one."""
    with new_file(Path(path)) as scratch:
        Image.fromarray(np.asarray(image)).save(scratch, format="PNG")


def contact_sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay pictures out row by row on white, each centred in a cell as large as the largest, 2 pixels apart.

    Raises:
        PictureError: There are no pictures, or no columns.
    """
    if not images or columns < 1:
        raise PictureError("A contact sheet needs at least one picture and one column.")
    gap = 2
    columns = min(columns, len(images))
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


def _read(source: str | Path | bytes | BinaryIO, max_bytes: int) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():  # also keeps us from waiting on a pipe or device
            raise PictureError(f"There is no picture file at {path}.")
        try:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise PictureError(f"{path} cannot be read: {error.strerror}.") from error
    else:
        try:
            if source.seekable():
                source.seek(0)
            data = source.read(max_bytes + 1)
        except Exception as error:  # a disk, a socket, the checksum of an archive
            raise PictureError(f"The file cannot be read: {_first_line(error)}.") from error
        if not isinstance(data, bytes):
            raise PictureError("The file is open in text mode. Open it with open(path, 'rb').")
    if not data:
        raise PictureError(f"The file is empty (0 bytes). Download or export it again. {ADVICE}")
    if len(data) > max_bytes:
        raise PictureError(f"The file is larger than the {max_bytes / 1e6:g} MB allowed. Save it smaller first.")
    return data


def _open(data: bytes) -> Image.Image:
    """Read the header, decode nothing."""
    Image.init()
    try:
        return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
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
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "This is a text file, not a picture."
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")):
        return "The picture is damaged or incomplete: download or export it again."
    return "This file is not a picture that can be read."


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF must not cost the user the photo
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _flatten(image: Image.Image) -> Image.Image:
    """Any mode -> RGB or CMYK of 8 bits, transparency laid on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(np.asarray(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        flat = Image.alpha_composite(white, rgba).convert("RGB")
        flat.info = image.info  # keeps the colour profile for _to_srgb
        return flat
    return image if image.mode == "CMYK" else image.convert("RGB")


def _scale_grey(grey: NDArray[np.generic]) -> Image.Image:
    """Grey of more than 8 bits -> RGB. Whole numbers run to 65535, fractions to 1; the range is never clipped."""
    values = grey.astype(np.float32)  # [H, W]
    top = 1.0 if grey.dtype.kind == "f" else 65535.0
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
