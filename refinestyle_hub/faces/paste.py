"""Lay an edited crop back into its photo, so that no border shows.

A generated picture has colours of its own, and is smoother than a photo. Along the border of the square the crop takes
the photo's colours, which fade inwards, and everywhere the photo's grain. ``seam`` says how much of a border is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from ..errors import ShapeError
from .align import homography
from .detect import plain
from .dlib_models import Box, Floats


__all__ = ["paste_back", "seam"]

REACH = 3.0  # how far colours are carried inwards, in widths of the soft edge
CELLS = 40  # of a side: what is coarser counts as colour, and not as detail
ALIKE = 70.0  # levels: where crop and photo differ by more they show different things, not one in another colour
SPREAD = 25  # steps, of a cell each, over which colours spread along the border and inwards
MOST_GRAIN = 8.0  # levels of 255: more is texture, not grain


def paste_back(
    original: Image.Image, edited_crop: Image.Image, quad: Floats, feather: float = 0.1, *, match: bool = True
) -> Image.Image:
    """Lay an edited crop back into the picture that it was cut from.

    The crop fades in from the square's border over ``feather`` of its side, also from those picture edges that cut the
    square (there the crop holds mirrored pixels). Pixels outside of the square keep their values exactly.

    Args:
        original: The picture.
        edited_crop: A square picture of any size.
        quad: The corners ``[4, 2]`` of the square in the picture, see ``Crop.quad``.
        feather: The width of the soft edge, 0 to 0.5, as a fraction of the square's side.
        match: Whether the crop takes the picture's colours near the border, and its grain.

    Raises:
        ShapeError: The corners are not four points around an area.
    """
    result = plain(original)
    window = _Window.around(quad, result.size)
    if window is None:
        return result  # the square does not touch the picture
    before = np.asarray(result.crop(window.box), dtype=np.float64)
    after = window.warped(plain(edited_crop))
    distance = window.distance(result.size)
    if match and feather > 0:
        border = (distance > 0) & (distance < feather)
        after = after + _colours(before - after, border, (distance / feather - 1) / (REACH - 1))
        after = after + _grain(before, after, border)
    ramp = np.clip(distance / max(feather, 1e-6), 0, 1)
    alpha = (ramp * ramp * (3 - 2 * ramp))[..., None]  # [H, W, 1], smoothstep
    mixed = before + alpha * (after - before)
    result.paste(Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8)), window.box[:2])
    return result


def seam(original: Image.Image, pasted: Image.Image, quad: Floats, feather: float = 0.1) -> float:
    """How steeply a pasted square leaves its photo along the soft edge.

    The change against the photo, without details, is followed inwards.

    Returns:
        The mean slope in levels of 255 for a hundredth of the side; 0 where nothing was pasted.

    Raises:
        ShapeError: The corners are not four points around an area, or the pictures differ in size.
    """
    if original.size != pasted.size:
        raise ShapeError(f"Both pictures need one size, not {original.size} and {pasted.size}.")
    window = _Window.around(quad, original.size)
    if window is None:
        return 0.0
    first, second = (np.asarray(plain(one).crop(window.box), dtype=np.float64) for one in (original, pasted))
    cell = window.side / CELLS
    change = _cells((second - first).mean(axis=2, keepdims=True), np.ones(first.shape[:2]), cell)[0][..., 0]
    down, across = np.gradient(change)
    distance = _cells(window.distance(original.size)[..., None], np.ones(first.shape[:2]), cell)[0][..., 0]
    edge = (distance > 0) & (distance < feather)
    return float(np.hypot(down, across)[edge].mean() * CELLS / 100) if edge.any() else 0.0


@dataclass(frozen=True, eq=False)
class _Window:
    """The part of a picture that holds a square.

    box: left, top, right, bottom, in the picture.
    corners: ``[4, 2]``, the square's, from the box's corner.
    """

    box: Box
    corners: Floats

    @classmethod
    def around(cls, quad: Floats, size: tuple[int, int]) -> _Window | None:
        quad = np.asarray(quad, dtype=np.float64)
        if quad.shape != (4, 2) or not np.isfinite(quad).all():
            raise ShapeError(f"A quad is [4, 2], four corners; this one is {list(quad.shape)}, or not finite.")
        corners = quad + 0.5  # from here on (0, 0) is the corner of the first pixel
        left, top = (int(v) for v in np.clip(np.floor(corners.min(0)), 0, size))
        right, bottom = (int(v) for v in np.clip(np.ceil(corners.max(0)), 0, size))
        if right <= left or bottom <= top:
            return None
        return cls((left, top, right, bottom), corners - (left, top))

    @property
    def side(self) -> float:
        return float(np.hypot(*(self.corners[3] - self.corners[0])))

    @property
    def size(self) -> tuple[int, int]:
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def warped(self, crop: Image.Image) -> Floats:
        """The crop as it lies in the window, ``[H, W, 3]``."""
        # Sample at twice the picture's resolution and average: rotated sampling at its own would lose fine detail.
        if crop.width > 2 * self.side > 2:
            crop = crop.resize((round(2 * self.side), round(2 * self.side)), Image.Resampling.LANCZOS)
        rim = int(np.ceil(4 * crop.width / max(self.side, 1)))  # 4 pixels of the picture: no black is averaged in
        rimmed = Image.fromarray(np.pad(np.asarray(crop), ((rim, rim), (rim, rim), (0, 0)), mode="edge"))
        width, height = self.size
        warped = rimmed.transform(
            (2 * width, 2 * height),
            Image.Transform.PERSPECTIVE,
            homography(2 * self.corners, _UNIT * crop.size + rim),
            Image.Resampling.BICUBIC,
        )
        return np.asarray(warped.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float64)

    def distance(self, picture: tuple[int, int]) -> Floats:
        """How far each pixel is from the nearest border that the crop fades in from, in sides, ``[H, W]``."""
        width, height = self.size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        a, b, c, d, e, f, g, h = homography(self.corners, _UNIT)
        depth = g * x + h * y + 1
        u, v = (a * x + b * y + c) / depth, (d * x + e * y + f) / depth
        distance: Floats = np.minimum.reduce([u, 1 - u, v, 1 - v])
        left, top = self.box[:2]
        corners = self.corners + (left, top)
        reaches_out = [*(corners.min(0) < 0), *(corners.max(0) > picture)]
        to_edges = (x + left, y + top, picture[0] - left - x, picture[1] - top - y)
        for out, to_edge in zip(reaches_out, to_edges, strict=True):
            if out:
                distance = np.minimum(distance, to_edge / self.side)
        return distance


_UNIT = np.array([(0, 0), (0, 1), (1, 1), (1, 0)], dtype=np.float64)


def _colours(difference: Floats, border: NDArray[np.bool_], inwards: Floats) -> Floats:
    """What the crop lacks of the photo's colours along the border [H, W, 3], spread inwards as heat spreads.

    ``inwards`` [H, W] is 0 where it begins to fade, and 1 where nothing is left of it.
    """
    values, weights = _cells(difference, border, max(difference.shape[:2]) / CELLS)
    weights = weights * np.exp(-np.square(np.linalg.norm(values, axis=2, keepdims=True) / ALIKE))
    total = values * weights
    for _ in range(SPREAD):
        total, weights = _blurred(total), _blurred(weights)
    coarse = torch.from_numpy(total / (weights + 1e-4)).permute(2, 0, 1)[None]
    fine = F.interpolate(coarse, difference.shape[:2], mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    left = np.clip(1 - inwards, 0, 1)[..., None]
    faded: Floats = fine.numpy() * (left * left * (3 - 2 * left))
    return faded


def _blurred(values: Floats) -> Floats:
    """Each cell's mean with its four neighbours."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    mean: Floats = (around + values) / 5
    return mean


def _cells(values: Floats, weights: NDArray[np.generic], cell: float) -> tuple[Floats, Floats]:
    """Weighted means of values [H, W, C] over square cells of some pixels, and the weight [h, w, 1] of each."""
    height, width = values.shape[:2]
    size = (max(round(height / cell), 2), max(round(width / cell), 2))
    weight = torch.from_numpy(np.asarray(weights, dtype=np.float64))[None, None]
    total = F.adaptive_avg_pool2d(torch.from_numpy(values).permute(2, 0, 1)[None] * weight, size)
    share = F.adaptive_avg_pool2d(weight, size)
    mean = (total / share.clamp_min(1e-9))[0].permute(1, 2, 0).numpy()
    return mean, share[0].permute(1, 2, 0).numpy()


def _grain(before: Floats, after: Floats, border: NDArray[np.bool_]) -> Floats:
    """Noise [H, W, 1] that gives the crop as much grain as the photo has along the border; none where it has less."""
    wanted, present = (_grain_of(picture, border) for picture in (before, after))
    missing = np.sqrt(max(min(wanted, MOST_GRAIN) ** 2 - present**2, 0.0))
    noise: Floats = np.random.default_rng(0).normal(0.0, 1.0, (*before.shape[:2], 1)) * missing
    return noise


def _grain_of(picture: Floats, where: NDArray[np.bool_]) -> float:
    """The deviation of the noise in a picture, by its median, so that edges do not count."""
    grey = picture.mean(axis=2)
    middle = grey[1:-1, 1:-1]
    cross = (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) / 4
    there = np.abs(middle - cross)[where[1:-1, 1:-1]]
    # 1.4826: median of |x| to the deviation of a normal x; the difference to four neighbours has 1.25 of the variance
    return float(np.median(there) * 1.4826 / np.sqrt(1.25)) if there.size else 0.0
