"""Find faces, crop them as FFHQ does, paste an edited crop back.

Coordinates are pixels of the upright picture, x then y, with (0, 0) at the centre of the first pixel, as in dlib and
FFHQ. The crop is that of the FFHQ data set (Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative
Adversarial Networks", 2019, appendix A). Where the models come from, and their licences: `dlib_models`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .dlib_models import Box, FaceModels, Floats, default_models
from .errors import FaceNotFoundError, ShapeError
from .images import PictureSource, load_picture


__all__ = ["Crop", "Face", "align", "crop_face", "face_quad", "find_faces", "identity_distance", "paste_back"]

MIN_FACE = 32  # pixels; below this a crop holds too little to invert
SURE = 0.3  # detector score; upright pictures without a face were seen to reach 0.21
ADVICE = "Use a frontal photo with the whole head, or pass aligned=True / --aligned."


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face: box (left, top, right, bottom), landmarks ``[68, 2]``, detector score (above 0; 1 is clear)."""

    box: Box
    landmarks: Floats
    score: float

    @property
    def width(self) -> int:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True, eq=False)
class Crop:
    """An aligned square cut from a picture.

    quad: ``[4, 2]``, its corners in the picture: top left, bottom left, bottom right, top right. May lie outside.
    source_size: width and height of the picture.
    """

    image: Image.Image
    quad: Floats
    source_size: tuple[int, int]


def find_faces(image: Image.Image, retries: bool = True, *, models: FaceModels | None = None) -> list[Face]:
    """Find the faces of a picture, the largest first.

    Large pictures are searched at a long side of 1024, which shows faces down to a twelfth of it. Where there are
    none, `retries` looks again at twice the scale (small faces), with a margin of 25 % (tight crops), and with the
    picture turned (the landmarks are mapped back, so the crop of a lying face comes out upright).

    Raises:
        FaceNotFoundError: none, or none of at least 32 pixels.
        MissingDependencyError: dlib or its models are not installed.
        ModelNotFoundError, ModelFileError: models of your own (REFINESTYLE_FACE_MODELS) are missing or damaged.
    """
    models = models or default_models()
    faces = _search(_plain(image), retries, models)
    if not faces:
        raise FaceNotFoundError(f"No face found. {ADVICE}")
    faces.sort(key=lambda face: (-face.width, face.box))
    large = [face for face in faces if face.width >= MIN_FACE]
    if not large:
        raise FaceNotFoundError(
            f"The face is only {faces[0].width} pixels wide, at least {MIN_FACE} are needed. "
            "Use a closer or larger photo."
        )
    return large


def face_quad(landmarks: Floats) -> Floats:
    """68 landmarks -> corners ``[4, 2]`` of the FFHQ square: top left, bottom left, bottom right, top right."""
    left_eye, right_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    mouth = (landmarks[48] + landmarks[54]) / 2
    eyes = (left_eye + right_eye) / 2
    across, down = right_eye - left_eye, mouth - eyes
    # The eye line plus the eye-mouth line turned by 90 degrees: steadier than either when the head is turned.
    x = across + np.array([down[1], -down[0]])
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)  # half the side
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def align(image: Image.Image, face: Face, size: int) -> Crop:
    """Cut the FFHQ crop of `face` from the picture it was found in, resampled to size x size.

    Where the square reaches over the picture's edge, the picture is mirrored, blurred and faded to its median colour.
    """
    image = _plain(image)
    quad = face_quad(face.landmarks)
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


def crop_face(picture: PictureSource, size: int, index: int = 0, *, models: FaceModels | None = None) -> Crop:
    """Read a picture, find its faces and cut the crop of one; index 0 is the largest face.

    Raises:
        PictureError: the picture cannot be used.
        FaceNotFoundError: no face, or none of that index.
    """
    image = load_picture(picture)
    faces = find_faces(image, models=models)
    if not 0 <= index < len(faces):
        raise FaceNotFoundError(f"The picture has {len(faces)} face(s), counted from 0; there is no face {index}.")
    return align(image, faces[index], size)


def paste_back(original: Image.Image, edited_crop: Image.Image, quad: Floats, feather: float = 0.1) -> Image.Image:
    """Lay an edited crop back into the picture that it was cut from.

    The crop fades in from the square's border over `feather` of its side, also from those picture edges that cut the
    square (there the crop holds mirrored pixels). Pixels outside of the square keep their values exactly.

    Args:
        original: the picture.
        edited_crop: square, of any size.
        quad: `Crop.quad`, ``[4, 2]``.
        feather: 0 to 0.5, as a fraction of the square's side.

    Raises:
        ShapeError: quad is not four points around an area.
    """
    quad = np.asarray(quad, dtype=np.float64)
    if quad.shape != (4, 2) or not np.isfinite(quad).all():
        raise ShapeError(f"A quad is [4, 2], four corners; this one is {list(quad.shape)}, or not finite.")
    corners = quad + 0.5
    result = _plain(original)
    size = np.array(result.size)
    left, top = (int(v) for v in np.clip(np.floor(corners.min(0)), 0, size))
    right, bottom = (int(v) for v in np.clip(np.ceil(corners.max(0)), 0, size))
    if right <= left or bottom <= top:
        return result  # the square does not touch the picture

    # Sample at twice the picture's resolution and average: rotated sampling at its own would lose the finest detail.
    side = float(np.hypot(*(corners[3] - corners[0])))
    crop = _plain(edited_crop)
    if crop.width > 2 * side > 2:
        crop = crop.resize((round(2 * side), round(2 * side)), Image.Resampling.LANCZOS)
    unit = np.array([(0, 0), (0, 1), (1, 1), (1, 0)], dtype=np.float64)
    rim = int(np.ceil(4 * crop.width / max(side, 1)))  # 4 pixels of the picture, so that no black is averaged in
    rimmed = Image.fromarray(np.pad(np.asarray(crop), ((rim, rim), (rim, rim), (0, 0)), mode="edge"))
    window = corners - (left, top)
    width, height = right - left, bottom - top
    warped = rimmed.transform(
        (2 * width, 2 * height),
        Image.Transform.PERSPECTIVE,
        _homography(2 * window, unit * crop.size + rim),
        Image.Resampling.BICUBIC,
    ).resize((width, height), Image.Resampling.LANCZOS)

    # Distance of each pixel to the nearest border that the crop fades in from, in sides of the square.
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)  # [H, W]
    a, b, c, d, e, f, g, h = _homography(window, unit)
    depth = g * x + h * y + 1
    u, v = (a * x + b * y + c) / depth, (d * x + e * y + f) / depth
    distance = np.minimum.reduce([u, 1 - u, v, 1 - v])
    reaches_out = [*(corners.min(0) < 0), *(corners.max(0) > size)]
    for out, to_edge in zip(reaches_out, (x + left, y + top, size[0] - left - x, size[1] - top - y), strict=True):
        if out:
            distance = np.minimum(distance, to_edge / side)
    ramp = np.clip(distance / max(feather, 1e-6), 0, 1)
    alpha = (ramp * ramp * (3 - 2 * ramp))[..., None]  # [H, W, 1], smoothstep

    box = (left, top, right, bottom)
    before = np.asarray(result.crop(box), dtype=np.float64)
    mixed = before + alpha * (np.asarray(warped, dtype=np.float64) - before)
    result.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)), box[:2])
    return result


def identity_distance(a: Image.Image, b: Image.Image, *, models: FaceModels | None = None) -> float | None:
    """How far apart two faces are: Euclidean distance of dlib's identity embeddings (under 0.6: likely one person).

    None where no face could be measured in one of the pictures. Made for aligned pictures; of several faces the
    largest counts. Synthetic and stylised faces are outside of what the network was trained on.
    """
    models = models or default_models()
    descriptors = []
    for image in (a, b):
        picture = _fit(_plain(image), 512, 512)  # landmarks are whole pixels: small pictures are enlarged
        faces = _search(picture, True, models)
        if not faces:
            return None
        face = max(faces, key=lambda face: face.width)
        descriptors.append(models.descriptor(np.asarray(picture), face.box, face.landmarks))
    return float(np.linalg.norm(descriptors[0] - descriptors[1]))


@dataclass(frozen=True)
class _View:
    """The picture as one attempt sees it, and the way back: original = matrix @ (x, y, 1), corner coordinates."""

    image: Image.Image
    matrix: Floats  # [2, 3]

    def faces(self, models: FaceModels) -> list[Face]:
        pixels = np.asarray(self.image)
        return [self._face(models.landmarks(pixels, box), box, score) for box, score in models.detect(pixels)]

    def _face(self, landmarks: Floats, box: Box, score: float) -> Face:
        corners = self._back(np.array([box[:2], box[2:]], dtype=np.float64))
        left, top, right, bottom = (round(float(v)) for v in (*corners.min(0), *corners.max(0)))
        return Face((left, top, right, bottom), self._back(landmarks), score)

    def _back(self, points: Floats) -> Floats:
        moved: Floats = (points + 0.5) @ self.matrix[:, :2].T + self.matrix[:, 2] - 0.5
        return moved


def _plain(image: Image.Image) -> Image.Image:
    """A copy as `load_picture` gives it (upright, RGB, no metadata), of any size."""
    return load_picture(image, max_pixels=image.width * image.height)


def _search(image: Image.Image, retries: bool, models: FaceModels) -> list[Face]:
    """The sure detections of the first attempt that has any; else the one that the upright attempts agree on."""
    upright: list[list[Face]] = []
    for views in _attempts(image):
        faces = max((view.faces(models) for view in views), key=lambda faces: faces[0].score if faces else 0.0)
        if sure := [face for face in faces if face.score >= SURE]:
            return sure
        if not retries:
            return []
        if len(views) == 1:
            upright.append(faces)
    # A face is found faintly at every scale, a fold of cloth at one: what is said of the same place adds up.
    evidence = [(sum(_best_at(face, faces) for faces in upright), face) for face in upright[0]]
    score, face = max(evidence, key=lambda item: item[0], default=(0.0, None))
    return [face] if face and score >= SURE else []


def _best_at(place: Face, faces: list[Face]) -> float:
    """The highest score among `faces` whose box is about that of `place`, 0 if none is."""
    near = (face for face in faces if np.abs(np.subtract(face.box, place.box)).max() < 0.4 * place.width)
    return max((face.score for face in near), default=0.0)


def _attempts(image: Image.Image) -> Iterator[list[_View]]:
    """Views of the picture in the order in which they are searched; made only when asked for."""
    plain = _fit(image, 512, 1024)
    yield [_view(image, plain)]
    yield [_view(image, _fit(image, 1024, 2048))]
    margin = (round(plain.width / 4), round(plain.height / 4))
    yield [_view(image, plain, margin=margin)]
    yield [_view(image, plain, quarter_turns=n) for n in (1, 2, 3)]


def _view(
    original: Image.Image, image: Image.Image, margin: tuple[int, int] = (0, 0), quarter_turns: int = 0
) -> _View:
    """`image` is the original at another scale; give it a margin, then turn it counter-clockwise."""
    width, height = image.size
    scale = np.diag([original.width / width, original.height / height])
    if any(margin):
        mx, my = margin
        padded = np.pad(np.asarray(image), ((my, my), (mx, mx), (0, 0)), mode="edge")
        return _View(Image.fromarray(padded), np.c_[scale, scale @ (-mx, -my)])
    turn, shift = {  # (x, y) of the turned picture -> (x, y) before the turn
        0: ([[1, 0], [0, 1]], (0, 0)),
        1: ([[0, -1], [1, 0]], (width, 0)),
        2: ([[-1, 0], [0, -1]], (width, height)),
        3: ([[0, 1], [-1, 0]], (0, height)),
    }[quarter_turns]
    return _View(Image.fromarray(np.rot90(np.asarray(image), quarter_turns).copy()), scale @ np.c_[turn, shift])


def _fit(image: Image.Image, low: int, high: int) -> Image.Image:
    """Scale so that the long side lies within low..high pixels."""
    long = max(image.size)
    factor = min(max(long, low), high) / long
    if factor == 1:
        return image
    return image.resize(
        (max(round(image.width * factor), 1), max(round(image.height * factor), 1)), Image.Resampling.LANCZOS
    )


def _fill_around(part: Image.Image, pad: NDArray[np.int_], side: float) -> Image.Image:
    """Mirror the picture over its edges by `pad` (left, top, right, bottom), ever more blurred, then to its median."""
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


def _homography(source: Floats, target: Floats) -> tuple[float, ...]:
    """The eight numbers (a..h) of x' = (ax + by + c) / (gx + hy + 1), y' = (dx + ey + f) / (gx + hy + 1).

    Args:
        source, target: ``[4, 2]``, corresponding corners.
    """
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    try:
        return tuple(np.linalg.solve(np.array(rows), target.flatten()))
    except np.linalg.LinAlgError as error:
        raise ShapeError("The corners of the quad do not enclose an area.") from error
