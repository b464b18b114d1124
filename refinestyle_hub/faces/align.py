"""Crop faces as FFHQ does; ``paste`` lays an edited crop back.

The crop is that of the FFHQ data set (Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative
Adversarial Networks", 2019, appendix A). Coordinates as in ``detect``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..errors import ShapeError
from .detect import Face, horizontal, plain
from .dlib_models import Floats


__all__ = ["Crop", "align", "cut", "face_quad", "homography"]


@dataclass(frozen=True, eq=False)
class Crop:
    """A square cut from a picture.

    image: The square.
    quad: ``[4, 2]``, its corners in the picture: top left, bottom left, bottom right, top right. They may lie outside.
        None where the picture was taken as it is, without a face.
    source_size: Width and height of the picture; None likewise.
    """

    image: Image.Image
    quad: Floats | None = None
    source_size: tuple[int, int] | None = None


def face_quad(landmarks: Floats) -> Floats:
    """68 landmarks -> corners ``[4, 2]`` of the FFHQ square: top left, bottom left, bottom right, top right."""
    left_eye, right_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    mouth = (landmarks[48] + landmarks[54]) / 2
    eyes = (left_eye + right_eye) / 2
    across, down = right_eye - left_eye, mouth - eyes
    x = horizontal(landmarks)
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)  # half the side
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def align(image: Image.Image, face: Face, size: int) -> Crop:
    """Cut the FFHQ crop of ``face`` from the picture it was found in, see ``cut``."""
    return cut(image, face_quad(face.landmarks), size)


def cut(image: Image.Image, quad: Floats, size: int) -> Crop:
    """Cut the square with the corners ``quad`` [4, 2] from a picture, resampled to size x size.

    Where the square reaches over the picture's edge, the picture is mirrored, blurred and faded to its median colour.
    """
    image = plain(image)
    side = float(np.hypot(*(quad[3] - quad[0])))
    corners = quad + 0.5  # from here on (0, 0) is the corner of the first pixel

    # 1. The part that matters: the square and a tenth around it.
    border = max(round(0.1 * side), 3)
    low, high = np.floor(corners.min(0)) - border, np.ceil(corners.max(0)) + border
    left, top = (int(v) for v in np.clip(low, 0, np.array(image.size) - 1))
    right, bottom = (int(v) for v in np.clip(high, 1, image.size))
    part = image.crop((left, top, right, bottom))
    outside = np.array([left - low[0], top - low[1], high[0] - right, high[1] - bottom])  # what is missing, per side
    corners = corners - (left, top)

    # 2. Shrink by a whole factor, so that the sampling below never skips pixels by more than 2.
    shrink = int(side / size / 2)
    if shrink > 1:
        small = (max(round(part.width / shrink), 1), max(round(part.height / shrink), 1))
        corners = corners * np.array(small) / part.size
        part = part.resize(small, Image.Resampling.LANCZOS)
        side, border, outside = side / shrink, max(round(border / shrink), 3), outside / shrink

    # 3. Fill what lies outside of the picture.
    if outside.max() > border - 4:  # as published: within 4 pixels of the edge, or over it
        pad = np.maximum(np.ceil(outside), round(0.3 * side)).astype(int)
        part = _fill_around(part, pad, side)
        corners = corners + pad[:2]

    # 4. Sample the square at no less than its own resolution, then average down.
    fine = size * max(1, int(np.ceil(side / size)))
    crop = part.transform((fine, fine), Image.Transform.QUAD, tuple(corners.flatten()), Image.Resampling.BICUBIC)
    if fine > size:
        crop = crop.resize((size, size), Image.Resampling.LANCZOS)
    return Crop(crop, quad, image.size)


def _fill_around(part: Image.Image, pad: NDArray[np.int_], side: float) -> Image.Image:
    """Mirror it over its edges by ``pad`` (left, top, right, bottom), ever more blurred, then to its median."""
    left, top, right, bottom = pad
    mirrored = np.pad(np.asarray(part), ((top, bottom), (left, right), (0, 0)), mode="reflect")
    height, width = mirrored.shape[:2]
    blurred = np.asarray(Image.fromarray(mirrored).filter(ImageFilter.GaussianBlur(0.02 * side)), dtype=np.float32)
    picture = mirrored.astype(np.float32)
    # 1 at the outer edge, 0 where the true picture begins, negative inside of it.
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    inward_x, inward_y = np.minimum(x / left, (width - 1 - x) / right), np.minimum(y / top, (height - 1 - y) / bottom)
    outness = 1 - np.minimum(inward_x, inward_y)[..., None]  # [H, W, 1]
    picture += (blurred - picture) * np.clip(3 * outness + 1, 0, 1)
    picture += (np.median(picture, axis=(0, 1)) - picture) * np.clip(outness, 0, 1)
    return Image.fromarray(np.rint(picture).clip(0, 255).astype(np.uint8))


def homography(source: Floats, target: Floats) -> tuple[float, ...]:
    """The eight numbers (a..h) of x' = (ax + by + c) / (gx + hy + 1), y' = (dx + ey + f) / (gx + hy + 1).

    Args:
        source, target: Corresponding corners, ``[4, 2]``.
    """
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    try:
        return tuple(np.linalg.solve(np.array(rows), target.flatten()))
    except np.linalg.LinAlgError as error:
        raise ShapeError("The corners of the quad do not enclose an area.") from error
