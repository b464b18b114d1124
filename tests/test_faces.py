"""Detection on real input, the geometry of the crop, and the way back."""

from __future__ import annotations

import contextlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from refinestyle_hub.errors import FaceNotFoundError, PictureError, ShapeError
from refinestyle_hub.faces.align import Crop, align, face_quad
from refinestyle_hub.faces.detect import Face, find_faces
from refinestyle_hub.faces.paste import paste_back, seam
from refinestyle_hub.faces.photo import read_photo
from refinestyle_hub.images import PictureSource


Floats = NDArray[np.float64]


def pixels(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, dtype=np.float32)


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(pixels(a) - pixels(b)).mean())


def crop_face(picture: PictureSource, size: int, index: int = 0) -> Crop:
    return read_photo(picture).crop(size, index)


def made_face(eyes: float, mouth: float, centre: tuple[float, float] = (0, 0), degrees: float = 0) -> Face:
    """Landmarks with the eyes `eyes` apart, the mouth `mouth` below their middle, which lies at `centre`."""
    landmarks = np.zeros((68, 2))
    landmarks[36:42] = (-eyes / 2, 0)
    landmarks[42:48] = (eyes / 2, 0)
    landmarks[48], landmarks[54] = (-eyes / 3, mouth), (eyes / 3, mouth)
    t = np.radians(degrees)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return Face((0, 0, 1, 1), landmarks @ turn.T + centre, 1.0)


def in_crop(points: Floats, quad: Floats, size: int) -> Floats:
    """Picture coordinates -> pixel coordinates of the crop."""
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1)
    return np.linalg.solve(axes, (points - quad[0]).T).T * size - 0.5


# Detection


def test_one_face(astronaut: Image.Image) -> None:
    (face,) = find_faces(astronaut)
    assert face.box == pytest.approx((179, 83, 266, 170), abs=6)
    assert face.score > 1
    assert face.landmarks.shape == (68, 2)
    left_eye, right_eye = face.landmarks[36:42].mean(0), face.landmarks[42:48].mean(0)
    assert left_eye == pytest.approx((203.5, 101.5), abs=3)  # the pupils, read off the photo
    assert right_eye == pytest.approx((247, 104), abs=3)


def test_the_same_every_time(astronaut: Image.Image) -> None:
    first, second = crop_face(astronaut, 64), crop_face(astronaut.copy(), 64)
    assert np.array_equal(first.quad, second.quad)
    assert first.image.tobytes() == second.image.tobytes()


@pytest.mark.parametrize("scale", [0.5, 1.7, 5])
def test_scale_of_the_photo(astronaut: Image.Image, scale: float) -> None:
    base = face_quad(find_faces(astronaut)[0].landmarks)
    scaled = astronaut.resize((round(512 * scale),) * 2, Image.Resampling.BICUBIC)
    quad = (face_quad(find_faces(scaled)[0].landmarks) + 0.5) / scale - 0.5
    # Landmarks scatter with the resampling: 3 % of the side (185 pixels).
    assert np.abs(quad - base).max() < 0.03 * 185


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photos_without_exif(astronaut: Image.Image, turns: int) -> None:
    turned = Image.fromarray(np.rot90(np.asarray(astronaut), turns).copy())
    with pytest.raises(FaceNotFoundError):
        find_faces(turned, retries=False)
    crop = crop_face(turned, 128)
    assert difference(crop.image, crop_face(astronaut, 128).image) < 0.5  # upright; the turns are exact
    (face,) = find_faces(turned)
    left, top, right, bottom = face.box
    inside = (face.landmarks > (left - 20, top - 20)) & (face.landmarks < (right + 20, bottom + 20))
    assert inside.all()


def test_exif_rotated_jpeg_gives_the_crop_of_the_upright_one(astronaut: Image.Image) -> None:
    def jpeg(image: Image.Image, orientation: int) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95, subsampling=0, exif=exif)
        return buffer.getvalue()

    upright = crop_face(jpeg(astronaut, 1), 128)
    rotated_data = jpeg(astronaut.transpose(Image.Transpose.ROTATE_90), 6)
    for source in (rotated_data, Image.open(io.BytesIO(rotated_data))):
        crop = crop_face(source, 128)
        assert difference(crop.image, upright.image) < 1.5  # the JPEG blocks are rounded differently
        assert crop.quad == pytest.approx(upright.quad, abs=2)
        assert crop.image.info == {}
    image = Image.open(io.BytesIO(rotated_data))
    assert paste_back(image, upright.image, upright.quad).size == astronaut.size
    assert paste_back(image, upright.image, upright.quad).info == {}


def test_tight_crops_are_found_by_adding_a_margin(astronaut: Image.Image) -> None:
    whole = find_faces(astronaut)[0]
    left, top = 185, 93  # within the outermost landmarks on every side
    tight = astronaut.crop((left, top, 266, 172))
    with pytest.raises(FaceNotFoundError):
        find_faces(tight, retries=False)
    (face,) = find_faces(tight)
    assert np.abs(face.landmarks + (left, top) - whole.landmarks)[17:].mean() < 3  # all but the chin line, cut off


def test_small_faces_are_found_at_a_larger_scale(astronaut: Image.Image) -> None:
    photo = Image.new("RGB", (1400, 1000), (120, 130, 140))
    photo.paste(astronaut.resize((353, 353), Image.Resampling.LANCZOS), (500, 300))
    with pytest.raises(FaceNotFoundError):
        find_faces(photo, retries=False)
    (face,) = find_faces(photo)
    assert face.box == pytest.approx((622, 355, 685, 418), abs=10)  # 60 pixels


def test_several_faces_largest_first(astronaut: Image.Image) -> None:
    photo = Image.new("RGB", (900, 512), "white")
    photo.paste(astronaut.crop((100, 0, 400, 300)).resize((200, 200)), (10, 150))
    photo.paste(astronaut.crop((100, 0, 450, 512)), (400, 0))
    large, small = find_faces(photo)
    assert large.width > small.width
    assert large.box[0] > 400 > small.box[2]
    expected = crop_face(astronaut, 64).image
    for index in (0, 1):
        assert difference(crop_face(photo, 64, index).image, expected) < 12
    for index in (2, -1):
        with pytest.raises(FaceNotFoundError, match=r"2 faces"):
            crop_face(photo, 64, index)


def test_a_small_face_of_a_large_picture_is_found_beside_a_larger_one(astronaut: Image.Image) -> None:
    photo = Image.new("RGB", (2200, 1500), (120, 130, 140))
    photo.paste(astronaut.resize((1500, 1500), Image.Resampling.BICUBIC), (0, 0))
    photo.paste(astronaut.resize((600, 600), Image.Resampling.BICUBIC), (1550, 400))
    assert len(find_faces(photo, retries=False)) == 1
    large, small = find_faces(photo)
    assert large.width > 2 * small.width
    assert small.box == pytest.approx((1760, 497, 1862, 599), abs=15)


def test_no_face(astronaut: Image.Image) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), Image.new("RGB", (1, 900)), astronaut.crop((0, 250, 512, 512))):
        with pytest.raises(FaceNotFoundError, match="--aligned"):
            find_faces(image)
    with pytest.raises(PictureError):
        crop_face(b"", 64)


def test_too_small_a_face_is_told_its_width(astronaut: Image.Image) -> None:
    with pytest.raises(FaceNotFoundError, match=r"only (28|29|30|31) pixels wide"):
        find_faces(astronaut.resize((177, 177), Image.Resampling.LANCZOS))


def test_threads_find_what_one_finds(astronaut: Image.Image) -> None:
    photos = [astronaut.crop((10 * n, 0, 400 + 10 * n, 300)) for n in range(4)]
    alone = [crop_face(photo, 32) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda photo: crop_face(photo, 32), photos * 3))
    assert [crop.image.tobytes() for crop in together] == [crop.image.tobytes() for crop in alone] * 3


def test_portraits_are_framed_as_their_crop(shared_data: Path) -> None:
    found = []
    with zipfile.ZipFile(shared_data / "portraits-128.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for name in names[:30]:
            with contextlib.suppress(FaceNotFoundError):
                found.append(crop_face(archive.read(name), 128).quad)
    assert len(found) >= 26  # 95 % of all portraits
    quads = np.stack(found)  # [N, 4, 2]
    side = np.hypot(*(quads[:, 3] - quads[:, 0]).T)
    assert np.median(side) == pytest.approx(128, rel=0.05)
    assert np.median(quads.mean(1), axis=0) == pytest.approx((63.5, 63.5), abs=3)


# The crop


def test_quad_by_hand() -> None:
    # eyes 40 apart, mouth 50 below: half the side is max(2.0 * 40, 1.8 * 50) = 90; centre 0.1 * 50 below the eyes
    quad = face_quad(made_face(40, 50, (100, 200)).landmarks)
    assert quad == pytest.approx(np.array([(10, 115), (10, 295), (190, 295), (190, 115)]))
    quad = face_quad(made_face(60, 50, (100, 200)).landmarks)  # max(120, 90)
    assert quad == pytest.approx(np.array([(-20, 85), (-20, 325), (220, 325), (220, 85)]))


@settings(max_examples=40, deadline=None)
@given(
    eyes=st.floats(20, 50),
    ratio=st.floats(0.8, 1.3),
    x=st.floats(50, 250),
    y=st.floats(50, 250),
    degrees=st.floats(-180, 180),
    size=st.sampled_from([32, 64, 128, 300]),
)
def test_eyes_and_mouth_land_where_ffhq_has_them(
    eyes: float, ratio: float, x: float, y: float, degrees: float, size: int
) -> None:
    mouth = eyes * ratio
    face = made_face(eyes, mouth, (x, y), degrees)
    marks = face.landmarks[36], face.landmarks[42], face.landmarks[[48, 54]].mean(0)
    rows, columns = np.indices((300, 300))
    sigma = eyes / 12
    spots = [255 * np.exp(-((columns - px) ** 2 + (rows - py) ** 2) / (2 * sigma**2)) for px, py in marks]
    image = Image.fromarray(np.rint(np.stack(spots, -1)).astype(np.uint8))  # a red, a green and a blue spot
    crop = align(image, face, size)
    assert crop.image.size == (size, size)
    assert crop.source_size == (300, 300)

    unit = size / (2 * max(2.0 * eyes, 1.8 * mouth))  # crop pixels for each picture pixel
    middle = size / 2 - 0.5
    eye_line = middle - 0.1 * mouth * unit
    expected = [
        (middle - eyes / 2 * unit, eye_line),
        (middle + eyes / 2 * unit, eye_line),
        (middle, middle + 0.9 * mouth * unit),
    ]
    border = 0.1 * size / unit + 4
    filled = bool((crop.quad.min(0) < border).any() or (crop.quad.max(0) > 299 - border).any())
    tolerance = 0.1 + 0.5 * unit * filled  # near a picture edge the blur moves the spots a little
    rows, columns = np.indices((size, size))
    for channel, (column, row) in enumerate(expected):
        near = np.hypot(columns - column, rows - row) < 3.5 * sigma * unit + 1
        if not (np.all(marks[channel] > 5 * sigma) and np.all(marks[channel] < 299 - 5 * sigma)):
            continue  # the spot is cut by the edge, or mirrored at it
        weight = pixels(crop.image)[..., channel] * near
        found = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
        assert found == pytest.approx((column, row), abs=tolerance)


def test_landmarks_of_the_crop_lie_where_the_quad_says(astronaut: Image.Image) -> None:
    face = find_faces(astronaut)[0]
    crop = align(astronaut, face, 256)
    expected = in_crop(face.landmarks, crop.quad, 256)
    found = find_faces(crop.image)[0].landmarks
    assert np.abs(found - expected).mean() < 0.015 * 256  # dlib's own scatter


def test_shrinking_does_not_alias() -> None:
    checks = np.indices((1500, 1500)).sum(0) % 2 * 255
    image = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    for degrees in (0, 7):
        crop = align(image, made_face(300, 300, (750, 700), degrees), 96)
        assert pixels(crop.image).mean() == pytest.approx(127.5, abs=1)
        assert pixels(crop.image).std() < 2  # moire would show as bands


def test_over_the_edge_the_crop_is_filled(astronaut: Image.Image) -> None:
    face = find_faces(astronaut)[0]
    whole = align(astronaut, face, 256)
    left, top = 160, 50  # cuts a tenth of the square at the left and a fifth at the top
    cut = astronaut.crop((left, top, 512, 512))
    crop = align(cut, Face(face.box, face.landmarks - (left, top), face.score), 256)
    assert crop.quad == pytest.approx(whole.quad - (left, top))
    assert difference(crop.image.crop((90, 110, 256, 256)), whole.image.crop((90, 110, 256, 256))) < 0.5
    filled = pixels(crop.image)[:30]
    assert filled.min() > 5  # nothing black
    assert np.abs(np.diff(filled, axis=1)).mean() < 3  # blurred


def test_a_face_in_the_corner_of_a_tiny_picture() -> None:
    image = Image.new("RGB", (40, 40), (10, 200, 30))
    crop = align(image, made_face(30, 30, (2, 2)), 64)
    assert difference(crop.image, Image.new("RGB", (64, 64), (10, 200, 30))) < 0.5


# The way back


@pytest.mark.parametrize(("size", "mean", "largest"), [(128, 0.5, 90), (256, 0.25, 40), (1024, 0.25, 40)])
def test_pasting_an_unchanged_crop_changes_little(
    astronaut: Image.Image, size: int, mean: float, largest: float
) -> None:
    crop = crop_face(astronaut, size)  # the square is 185 pixels wide: 128 loses detail, the others do not
    back = paste_back(astronaut, crop.image, crop.quad)
    assert back.size == astronaut.size
    assert difference(back, astronaut) < mean
    assert np.abs(pixels(back) - pixels(astronaut)).max() < largest


def test_pasting_near_the_edge_brings_no_filling_in(astronaut: Image.Image) -> None:
    cut = astronaut.crop((150, 40, 330, 220))
    crop = crop_face(cut, 256)
    assert (crop.quad.min(0) < 0).any()
    back = paste_back(cut, crop.image, crop.quad)
    assert difference(back, cut) < 2
    assert np.abs(pixels(back) - pixels(cut))[0].max() <= 1  # the cut edge itself is the original


@settings(max_examples=40, deadline=None)
@given(
    eyes=st.floats(6, 40),
    x=st.floats(-100, 200),
    y=st.floats(-100, 200),
    degrees=st.floats(-180, 180),
    size=st.sampled_from([16, 64, 300]),
    feather=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_outside_of_the_quad_nothing_changes(
    eyes: float, x: float, y: float, degrees: float, size: int, feather: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    quad = face_quad(made_face(eyes, eyes, (x, y), degrees).landmarks)
    red = Image.new("RGB", (size, size), "red")
    back = np.asarray(paste_back(Image.fromarray(noise), red, quad, feather, match=feather == 0.1))
    columns, rows = np.meshgrid(np.arange(80), np.arange(60))
    places = in_crop(np.stack([columns.ravel(), rows.ravel()], 1).astype(float), quad, 1) + 0.5  # 0..1 in the square
    places = places.reshape(60, 80, 2)
    rounding = 1e-9
    outside = ((places < -rounding) | (places > 1 + rounding)).any(-1)
    assert np.array_equal(back[outside], noise[outside])
    if feather == 0:
        inside = ((places > rounding) & (places < 1 - rounding)).all(-1)
        reaches_out = (quad.min(0) < -0.5).any() or (quad.max(0) > (79.5, 59.5)).any()
        assert reaches_out or np.array_equal(back[inside], np.broadcast_to((255, 0, 0), back.shape)[inside])


def test_paste_puts_each_pixel_in_its_place() -> None:
    ramp = np.linspace(0, 255, 64)
    crop = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.float64(0)), -1)  # red = u, green = v
    quad = np.array([(30.0, 20.0), (10.0, 90.0), (80.0, 110.0), (100.0, 40.0)])  # turned, a parallelogram
    back = pixels(
        paste_back(Image.new("RGB", (120, 120)), Image.fromarray(np.rint(crop).astype(np.uint8)), quad, match=False)
    )
    for u, v in [(0.5, 0.5), (0.3, 0.6), (0.7, 0.2)]:
        column, row = np.rint(quad[0] + u * (quad[3] - quad[0]) + v * (quad[1] - quad[0])).astype(int)
        u, v = in_crop(np.array([[column, row]], float), quad, 1)[0] + 0.5
        assert back[row, column] == pytest.approx((255 * u, 255 * v, 0), abs=4)


def test_feather_fades_evenly() -> None:
    quad = np.array([(10.0, 10.0), (10.0, 110.0), (110.0, 110.0), (110.0, 10.0)]) - 0.5
    white = Image.new("RGB", (50, 50), "white")
    back = pixels(paste_back(Image.new("RGB", (120, 120)), white, quad, feather=0.2, match=False))
    line = back[60, :, 0]
    assert (line[:10] == 0).all()
    assert (line[31:89] == 255).all()
    assert (np.diff(line[10:31]) >= 0).all()
    assert line[19:21].mean() == pytest.approx(127.5, abs=2)  # half-way


def test_pasted_colours_and_grain_are_those_of_the_photo_near_the_border() -> None:
    rng = np.random.default_rng(0)
    shades = np.linspace(90, 150, 400)[None, :, None] + np.array([0.0, 10.0, 20.0])
    photo = np.broadcast_to(shades, (400, 400, 3)) + rng.normal(0, 5, (400, 400, 1))
    image = Image.fromarray(np.rint(photo).clip(0, 255).astype(np.uint8))
    quad = np.array([(40.0, 40.0), (40.0, 360.0), (360.0, 360.0), (360.0, 40.0)]) - 0.5
    crop = Image.new("RGB", (256, 256), (140, 140, 130))
    plain, matched = (paste_back(image, crop, quad, match=match) for match in (False, True))
    assert seam(image, image, quad) == 0
    assert seam(image, matched, quad) < 0.6 * seam(image, plain, quad)
    near = pixels(matched)[120:280, 52:68].mean(axis=(0, 1))
    assert near == pytest.approx(pixels(image)[120:280, 52:68].mean(axis=(0, 1)), abs=4)
    middle = pixels(matched)[180:220, 180:220]
    assert middle.mean(axis=(0, 1)) == pytest.approx((140, 140, 130), abs=2)  # the crop's own colours
    assert middle[..., 0].std() == pytest.approx(5, abs=1.2)  # with the photo's grain
    with pytest.raises(ShapeError, match="one size"):
        seam(image, crop, quad)


def test_quads_that_are_none(astronaut: Image.Image) -> None:
    for quad in (np.zeros((4, 3)), np.zeros((4, 2)), np.full((4, 2), 9.0), np.full((4, 2), np.nan)):
        with pytest.raises(ShapeError):
            paste_back(astronaut, astronaut, quad)
