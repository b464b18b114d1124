"""Find faces, in pictures of any size and at any angle up to a quarter turn.

Coordinates are pixels of the upright picture, x then y, with (0, 0) at the centre of the first pixel, as in dlib and
FFHQ. Where the models come from, and their licences: ``dlib_models``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from PIL import Image

from ..errors import FaceNotFoundError
from ..images import load_picture
from .dlib_models import Box, FaceModels, Floats, default_models


__all__ = ["Face", "confirmed", "find_faces", "fit", "horizontal", "plain", "search", "straightened"]


LARGE = 1024  # pixels, the long side at which larger pictures are searched first
UPRIGHT = 5.0  # degrees; a face that is tilted by more is looked at again, upright
CLEAR = 1.0  # detector score; of fainter faces the landmarks are not trusted without a second look
SHARE = 0.6  # of the clearest look's score: less clear ones do not count
LOOKS = 3  # at one face
CONFIRMED = 4  # faint faces, the largest, that dlib's network looks at too: half a second each
MIN_FACE = 32  # pixels; below this a crop holds too little to invert
SURE = 0.3  # detector score; upright pictures without a face were seen to reach 0.21
CNN_SURE = 0.7  # the network's score; in fourteen pictures without a face it found nothing at all
CNN_SIDE = 384  # pixels, the long side at which the network searches: about a second, and faces from a fifth of it
CONFIRM_SIDE = 320  # pixels, of the surroundings of a face that the network looks at
CNN_WINDOW = 80  # pixels: smaller pictures do not hold its window
ADVICE = "Use a frontal photo with the whole head, or invert an aligned crop with aligned=True / --aligned."


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face: box (left, top, right, bottom), landmarks ``[68, 2]``, detector score (above 0; 1 is clear)."""

    box: Box
    landmarks: Floats
    score: float
    turned: float = 0.0  # degrees counter-clockwise by which the picture was turned when the face was found

    @property
    def width(self) -> int:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]


def find_faces(image: Image.Image, retries: bool = True, *, models: FaceModels | None = None) -> list[Face]:
    """Find the faces of a picture, the largest first.

    Large pictures are searched at a long side of 1024, which shows faces down to a twelfth of it. ``retries`` looks
    again at twice the scale, for clear faces that are smaller. Where there are none at all, it also looks with a
    margin of 25 % (tight crops), and with the picture turned, also by 45 degrees; landmarks are mapped back, so the
    crop of a lying face comes out upright. At last dlib's network is asked, which also finds faces that are half
    turned away, or half hidden. It also says where exactly the largest of those faces are that were seen faintly.

    Raises:
        FaceNotFoundError: There is no face, or none of at least 32 pixels.
        MissingDependencyError: dlib or its models are not installed.
        ModelNotFoundError, ModelFileError: Your own models (REFINESTYLE_FACE_MODELS) are missing or damaged.
    """
    models, picture = models or default_models(), plain(image)
    faces = [straightened(picture, face, models) for face in search(picture, retries, models)]
    if not faces:
        raise FaceNotFoundError(f"No face found. {ADVICE}")
    faces.sort(key=_largest_first)
    faint = [face for face in faces if face.score < CLEAR][:CONFIRMED]
    faces = sorted((confirmed(picture, face, models) if face in faint else face for face in faces), key=_largest_first)
    large = [face for face in faces if face.width >= MIN_FACE]
    if not large:
        raise FaceNotFoundError(
            f"The face is only {faces[0].width} pixels wide, at least {MIN_FACE} are needed. "
            "Use a closer or larger photo."
        )
    return large


def _largest_first(face: Face) -> tuple[int, Box]:
    return -face.width, face.box


@dataclass(frozen=True)
class _View:
    """The picture as one attempt sees it, and the way back: original = matrix @ (x, y, 1), corner coordinates."""

    image: Image.Image
    matrix: Floats  # [2, 3]

    def faces(self, models: FaceModels) -> list[Face]:
        return self._faces(models, models.detect(np.asarray(self.image)))

    def faces_by_cnn(self, models: FaceModels) -> list[Face]:
        if min(self.image.size) < CNN_WINDOW:
            return []
        found = models.detect_by_cnn(np.asarray(self.image))
        return self._faces(models, [(box, score) for box, score in found if score >= CNN_SURE])

    def _faces(self, models: FaceModels, boxes: list[tuple[Box, float]]) -> list[Face]:
        pixels = np.asarray(self.image)
        return [self._face(models.landmarks(pixels, box), box, score) for box, score in boxes]

    def _face(self, landmarks: Floats, box: Box, score: float) -> Face:
        if self.matrix[0, 0] and self.matrix[0, 1]:  # turned: a box of the same size around the same middle
            middle = self._back(np.array([[box[0] + box[2], box[1] + box[3]]]) / 2)
            half = (box[2] - box[0]) / 2 * np.hypot(*self.matrix[:, 0])
            corners = np.concatenate([middle - half, middle + half])
        else:
            corners = self._back(np.array([box[:2], box[2:]], dtype=np.float64))
        left, top, right, bottom = (round(float(v)) for v in (*corners.min(0), *corners.max(0)))
        turned = float(np.degrees(np.arctan2(self.matrix[1, 0], self.matrix[0, 0])))
        return Face((left, top, right, bottom), self._back(landmarks), score, turned)

    def steadied(self, face: Face, models: FaceModels) -> tuple[float, Face]:
        """How far landmarks differ, by the eyes' distance, when the box is moved and scaled by a tenth; the median."""
        pixels, scale = np.asarray(self.image), np.hypot(*self.matrix[:, 0])
        left, top, right, bottom = face.box
        middle = np.linalg.solve(
            self.matrix[:, :2], np.array([left + right, top + bottom]) / 2 + 0.5 - self.matrix[:, 2]
        )
        half = face.width / 2 / scale
        found = []
        for size, x, y in product((0.9, 1.0, 1.1), (-0.2, 0.0, 0.2), (-0.2, 0.0, 0.2)):  # of half a side
            at, reach = middle - 0.5 + half * np.array([x, y]), half * size
            left, top, right, bottom = (round(float(v)) for v in (*(at - reach), *(at + reach)))
            found.append(models.landmarks(pixels, (left, top, right, bottom)))
        median: Floats = np.median(found, axis=0)
        apart = np.median([np.hypot(*(landmarks - median)[17:].T).mean() for landmarks in found])
        steady = replace(face, landmarks=self._back(median))
        return float(apart / np.hypot(*(median[45] - median[36]))), steady

    def of(self, seen: Image.Image, original: Image.Image) -> _View:
        """The same view, as one of the ``original`` that ``seen`` is a smaller copy of."""
        scale = np.array(original.size) / seen.size
        return _View(self.image, self.matrix * scale[:, None])

    def _back(self, points: Floats) -> Floats:
        moved: Floats = (points + 0.5) @ self.matrix[:, :2].T + self.matrix[:, 2] - 0.5
        return moved


def plain(image: Image.Image) -> Image.Image:
    """A copy as ``load_picture`` gives it (upright, RGB, no metadata), of any size."""
    return load_picture(image, max_pixels=image.width * image.height)


def search(image: Image.Image, retries: bool, models: FaceModels) -> list[Face]:
    """Find the sure detections of the first attempt that has any; else the one that the upright attempts agree on.

    Where there is none either, dlib's network is asked. Of a large picture, clear faces too small for the first
    attempt count as well.
    """
    upright: list[list[Face]] = []
    for views in _attempts(image):
        faces = max((view.faces(models) for view in views), key=lambda faces: faces[0].score if faces else 0.0)
        if sure := [face for face in faces if face.score >= SURE]:
            reduced = not upright and max(image.size) > LARGE
            return sure + (_smaller(image, sure, models) if retries and reduced else [])
        if not retries:
            return []
        if len(views) == 1:
            upright.append(faces)
    # A face is found faintly at every scale, a fold of cloth at one: so the scores at one spot add up.
    evidence = [(sum(_best_at(face, faces) for faces in upright), face) for face in upright[0]]
    score, face = max(evidence, key=lambda item: item[0], default=(0.0, None))
    if face and score >= SURE:
        return [face]
    return _view(image, fit(image, CNN_SIDE, CNN_SIDE)).faces_by_cnn(models)


def _smaller(image: Image.Image, found: list[Face], models: FaceModels) -> list[Face]:
    """The clear faces of a large picture that are seen at twice the scale alone."""
    faces = _view(image, fit(image, LARGE, 2 * LARGE)).faces(models)
    return [face for face in faces if face.score >= CLEAR and not any(_is_at(face, other) for other in found)]


def horizontal(landmarks: Floats) -> Floats:
    """From the landmarks ``[68, 2]`` of a face the vector [2] from its left to its right, as FFHQ aligns by it.

    It is the eye line plus the eye-mouth line turned by 90 degrees: steadier than either when the head is turned.
    """
    left_eye, right_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    down = (landmarks[48] + landmarks[54]) / 2 - (left_eye + right_eye) / 2
    vector: Floats = right_eye - left_eye + np.array([down[1], -down[0]])
    return vector


def straightened(image: Image.Image, face: Face, models: FaceModels) -> Face:
    """The same face with the landmarks that a second look finds once the picture is turned so that it is upright.

    The detector sees heads that are tilted by up to 45 degrees, but only faintly, and the landmarks of a faint
    detection follow the mean face more than the picture. An upright face that was seen clearly is left as it is.
    """
    for _ in range(LOOKS):
        tilt = _tilt(face)
        upright = abs(_turn_between(face.turned, face)) <= UPRIGHT  # as it was seen
        if upright and face.score >= CLEAR:
            return face
        turns = [tilt + more for more in ((0,) if face.score >= CLEAR else (0, -20, 20, -45, 45))]
        looks = [found for turn in turns for found in _turned(image, turn, face).faces(models)]
        looks = [found for found in looks if _is_at(found, face)]
        if upright and all(found.score <= face.score for found in looks):
            return face  # a head that is tilted is seen more clearly once it is turned
        clear = SHARE * max([face.score, *(found.score for found in looks)])
        clearly = [(abs(_turn_between(found.turned, found)), found) for found in looks if found.score >= clear]
        rest, found = min(clearly, key=lambda look: look[0], default=(0.0, face))  # the most upright, as it was seen
        if upright and abs(_turn_between(tilt, found)) <= UPRIGHT:
            return face  # upright indeed
        face = found
        if rest <= UPRIGHT:
            return face
    return face


def confirmed(image: Image.Image, face: Face, models: FaceModels) -> Face:
    """The same face, or as dlib's network sees it: of a faint one, the look that holds when its box is moved.

    A faint box may lie a fifth too low, under sunglasses or beside long hair; the mouth is then found on the chin.
    """
    if face.score >= CLEAR:
        return face
    tilt = _tilt(face)
    looks = _turned(image, tilt, face, CONFIRM_SIDE).faces_by_cnn(models)
    upright = _turned(image, tilt, face)
    steadied = [upright.steadied(look, models) for look in (face, *looks) if look is face or _is_at(look, face)]
    return min(steadied, key=lambda found: found[0])[1]


def _turn_between(degrees: float, face: Face) -> float:
    """How far a face is tilted from ``degrees``, in -180 to 180."""
    return (_tilt(face) - degrees + 180) % 360 - 180


def _tilt(face: Face) -> float:
    """Degrees clockwise from upright."""
    x, y = horizontal(face.landmarks)
    return float(np.degrees(np.arctan2(y, x)))


def _is_at(found: Face, face: Face) -> bool:
    """Whether two detections are of one face: their middles lie near each other."""
    middles = [np.array([box[0] + box[2], box[1] + box[3]]) / 2 for box in (found.box, face.box)]
    return float(np.hypot(*(middles[0] - middles[1]))) < 0.5 * max(face.width, found.width)


def _turned(image: Image.Image, degrees: float, around: Face | None = None, pixels: int = 512) -> _View:
    """The picture turned counter-clockwise: the whole of it, or the surroundings of a face at a steady size."""
    if around is None:
        middle, side = np.array(image.size) / 2, float(np.hypot(*image.size))
        pixels = round(min(max(side, pixels), 1024))
    else:
        left, top, right, bottom = around.box
        middle, side = np.array([left + right, top + bottom]) / 2 + 0.5, 3.0 * max(right - left, bottom - top)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cosine, -sine], [sine, cosine]]) * (side / pixels)
    matrix = np.c_[turn, middle - turn @ (pixels / 2, pixels / 2)]
    view = image.transform(
        (pixels, pixels), Image.Transform.AFFINE, tuple(matrix.flatten()), Image.Resampling.BICUBIC, fillcolor="grey"
    )
    return _View(view, matrix)


def _best_at(spot: Face, faces: list[Face]) -> float:
    """The highest score among ``faces`` whose box is about that of ``spot``, 0 if none is."""
    near = (face for face in faces if np.abs(np.subtract(face.box, spot.box)).max() < 0.4 * spot.width)
    return max((face.score for face in near), default=0.0)


def _attempts(image: Image.Image) -> Iterator[list[_View]]:
    """Views of the picture in the order in which they are searched; made only when asked for."""
    plain = fit(image, LARGE // 2, LARGE)
    yield [_view(image, plain)]
    yield [_view(image, fit(image, LARGE, 2 * LARGE))]
    margin = (round(plain.width / 4), round(plain.height / 4))
    yield [_view(image, plain, margin=margin)]
    yield [_view(image, plain, quarter_turns=n) for n in (1, 2, 3)]
    yield [_turned(plain, degrees).of(plain, image) for degrees in (45, 135, 225, 315)]


def _view(
    original: Image.Image, image: Image.Image, margin: tuple[int, int] = (0, 0), quarter_turns: int = 0
) -> _View:
    """``image`` is the original at another scale; give it a margin, then turn it counter-clockwise."""
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


def fit(image: Image.Image, low: int, high: int) -> Image.Image:
    """Scale so that the long side lies within low..high pixels."""
    long = max(image.size)
    factor = min(max(long, low), high) / long
    if factor == 1:
        return image
    return image.resize(
        (max(round(image.width * factor), 1), max(round(image.height * factor), 1)), Image.Resampling.LANCZOS
    )
