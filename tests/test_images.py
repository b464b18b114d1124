"""Every kind of file that a person may upload gives a picture or an error that says what to do."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, features

from refinestyle_hub.errors import ConfigError, PictureError, ShapeError
from refinestyle_hub.images import contact_sheet, load_picture, save_png, to_image, to_images, to_tensor


FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"] + (["AVIF"] if features.check("avif") else [])


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def four_colours(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green / blue, white quarters: every rotation and mirroring of it looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def png(width: int, height: int, depth: int, colour: int, scanlines: bytes) -> bytes:
    """A PNG by hand: kinds that Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def assert_close(image: Image.Image, expected: Image.Image, mean: float) -> None:
    assert image.mode == "RGB"
    assert image.size == expected.size
    assert np.abs(np.asarray(image, np.float32) - np.asarray(expected, np.float32)).mean() <= mean


@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str) -> None:
    picture = four_colours()
    # Lossy formats smear the borders of the quarters, and GIF has a palette; the rest is exact.
    assert_close(load_picture(encode(picture, format)), picture, 12 if format in ("JPEG", "WEBP", "AVIF") else 0)


def test_sources(tmp_path: Path) -> None:
    picture = four_colours()
    path = tmp_path / "bild mit ümlaut.png"
    picture.save(path)
    data = io.BytesIO()
    picture.save(data, format="PNG")  # leaves the position at the end
    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), data, file, picture, Image.open(path)):
            assert_close(load_picture(source), picture, 0)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"]
)
def test_every_mode_is_a_picture(mode: str) -> None:
    grey = Image.new("L", (8, 8), 255)
    if mode in ("PA", "RGBa"):
        image = grey.convert({"PA": "P", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode in ("HSV", "CMYK"):
        image = grey.convert("RGB").convert(mode)
    elif mode in ("I", "F"):
        image = Image.new(mode, (8, 8), 65535 if mode == "I" else 1.0)
    else:
        image = grey.convert(mode)
    assert_close(load_picture(image), Image.new("RGB", (8, 8), "white"), 0)


def test_cmyk_jpeg() -> None:
    picture = four_colours()
    assert_close(load_picture(encode(picture.convert("CMYK"), "JPEG", quality=95)), picture, 12)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    levels = np.asarray(load_picture(encode(Image.fromarray(ramp), format)))
    assert np.abs(levels[..., 0] - ramp / 257.0).max() <= 0.51  # rounding
    assert len(np.unique(levels)) == 256


def test_16_bit_colour_keeps_its_high_byte() -> None:
    pixel = struct.pack(">HHH", 0xFF80, 0x8040, 0x0020)
    data = png(2, 1, 16, 2, b"\0" + pixel * 2)
    assert np.asarray(load_picture(data)).tolist() == [[[255, 128, 0]] * 2]


def test_float_grey() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    levels = np.asarray(load_picture(encode(Image.fromarray(ramp), "TIFF")))[..., 0]
    assert np.array_equal(levels.ravel(), np.arange(256))
    for bad in (ramp * 300, ramp - 1, np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(PictureError, match="8 bits"):
            load_picture(encode(Image.fromarray(bad), "TIFF"))


def test_transparency_becomes_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    expected = [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    for format in ("PNG", "TIFF"):
        assert np.asarray(load_picture(encode(rgba, format)))[0].tolist() == expected
    grey = Image.new("LA", (1, 1), (0, 0))
    assert np.asarray(load_picture(encode(grey, "PNG"))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putdata([0, 1])
    data = encode(image, "PNG", transparency=transparency)
    assert np.asarray(load_picture(data))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_colour_key_transparency() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (1, 2, 3))
    data = encode(image, "PNG", transparency=(1, 2, 3))
    assert np.asarray(load_picture(data))[0].tolist() == [[9, 9, 9], [255, 255, 255]]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_the_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert_close(load_picture(data), frames[0], 0)


def test_multi_picture_jpeg_of_phones() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    assert_close(load_picture(encode(frames[0], "MPO", save_all=True, append_images=frames[1:])), frames[0], 2)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, format: str) -> None:
    picture = four_colours()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> the Image.Transpose that stores it that way
    stored = picture.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert_close(load_picture(data), picture, 8 if format == "JPEG" else 0)
    assert_close(load_picture(Image.open(io.BytesIO(data))), picture, 8 if format == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
def test_damaged_exif_costs_nothing() -> None:
    picture = four_colours()
    data = encode(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert_close(load_picture(data), picture, 8)


def test_no_metadata_survives() -> None:
    exif = Image.Exif()
    exif[0x010F] = "camera maker"
    exif.get_ifd(0x8825)[1] = "N"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret")
    for data in (
        encode(four_colours(), "JPEG", exif=exif, icc_profile=srgb, comment=b"secret", dpi=(72, 72), xmp=b"<x/>"),
        encode(four_colours(), "PNG", exif=exif, icc_profile=srgb, pnginfo=text, dpi=(72, 72)),
    ):
        assert Image.open(io.BytesIO(data)).info  # it was there
        for source in (data, Image.open(io.BytesIO(data))):
            image = load_picture(source)
            assert image.info == {}
            assert dict(image.getexif()) == {}


def test_colour_profile_is_honoured() -> None:
    # An sRGB profile whose red and green primaries are swapped: what is stored as red has to be shown green.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    swapped = bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    red_square = Image.new("RGB", (8, 8), "red")
    assert_close(load_picture(encode(red_square, "PNG", icc_profile=swapped)), Image.new("RGB", (8, 8), "lime"), 3)
    for unusable in (b"nonsense", swapped[:200]):
        assert_close(load_picture(encode(red_square, "PNG", icc_profile=unusable)), red_square, 0)
    # A colour profile on a grey picture does not fit, and must not stop it.
    grey = red_square.convert("L")
    assert_close(load_picture(encode(grey, "PNG", icc_profile=swapped)), grey.convert("RGB"), 3)


@pytest.mark.parametrize("format", FORMATS)
def test_truncated(format: str, astronaut: Image.Image) -> None:
    data = encode(astronaut.resize((64, 64)), format)
    for keep in (0.2, 0.5, 0.9):
        with pytest.raises(PictureError, match="again"):
            load_picture(data[: int(keep * len(data))])


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg></svg>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "video"),
        (b"%PDF-1.7\n...", "PDF"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"dear diary,\n", "text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "text"),  # never handed to an interpreter
        (b"\x89PNG\r\n\x1a\n\0\0", "damaged"),
        (b"\xff\xd8\xff\xe0\0", "damaged"),
        (b"PK\3\4\0\0\0\0", "not a picture"),
        (bytes(1000), "not a picture"),
    ],
)
def test_what_is_no_picture(data: bytes, advice: str) -> None:
    with pytest.raises(PictureError, match=advice) as caught:
        load_picture(data)
    assert len(str(caught.value).splitlines()) <= 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(PictureError, match="no picture file"):
            load_picture(path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(PictureError, match="empty"):
        load_picture(tmp_path / "empty.png")
    with pytest.raises(PictureError, match="text mode"):
        load_picture(io.StringIO("text"))  # type: ignore[arg-type]
    closed = io.BytesIO(b"data")
    closed.close()
    with pytest.raises(PictureError, match="closed file"):
        load_picture(closed)


def test_too_many_bytes(tmp_path: Path) -> None:
    data = encode(four_colours(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png", io.BytesIO(data)):
        load_picture(source, max_bytes=len(data))
        with pytest.raises(PictureError, match="larger than"):
            load_picture(source, max_bytes=len(data) - 1)


@pytest.mark.parametrize("side", [11_000, 50_000])  # over our limit; over Pillow's error
def test_decompression_bomb_is_refused_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(PictureError, match="pixels"):
        load_picture(png(side, side, 8, 2, b""))


def test_pixel_limit_is_exact() -> None:
    data = encode(four_colours(20, 10), "PNG")
    assert load_picture(data, max_pixels=200).size == (20, 10)
    with pytest.raises(PictureError, match="20 x 10"):
        load_picture(data, max_pixels=199)
    with pytest.raises(PictureError, match="empty"):
        load_picture(Image.new("RGB", (0, 5)))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs
@settings(max_examples=150, deadline=None)
@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.05, 1),
)
def test_damaged_files_give_a_picture_or_a_picture_error(
    format: str, damage: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(encode(four_colours(), format))
    for place, value in damage:
        data[int(place * len(data))] = value
    with contextlib.suppress(PictureError):
        image = load_picture(bytes(data[: int(keep * len(data))]))
        assert image.mode == "RGB"
        assert image.info == {}


def test_the_source_is_left_alone() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    load_picture(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (255, 0, 0, 128)


def test_tensor_round_trip_is_exact() -> None:
    levels = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3) % 256
    image = Image.fromarray(levels.astype(np.uint8))
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(np.asarray(to_image(tensor[0])), np.asarray(image))
    assert np.array_equal(np.asarray(to_images(tensor.repeat(2, 1, 1, 1))[1]), np.asarray(image))


def test_tensor_channels_and_size() -> None:
    tensor = to_tensor(four_colours(48, 32), 16)  # the central 32 x 32, then half of it
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor[0, :, 2, 2].tolist() == pytest.approx([1, -1, -1], abs=0.02)  # red, from R, G, B
    assert tensor[0, :, 13, 2].tolist() == pytest.approx([-1, -1, 1], abs=0.02)


def test_to_image_rounds_and_clamps() -> None:
    values = torch.tensor([-9.0, -1.0, 0.003, 0.0041, 1.0, 9.0])  # 127.88 and 128.02: both 128
    image = to_image(values.expand(3, 1, 6).requires_grad_())
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 128, 255, 255]
    for shape in ((1, 3, 4, 4), (4, 4, 3), (4, 4)):
        with pytest.raises(ShapeError):
            to_image(torch.zeros(shape))
    with pytest.raises(ShapeError):
        to_images(torch.zeros(3, 4, 4))


def test_save_png_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.png"
    image = four_colours()
    image.info["comment"] = "secret"
    save_png(image, path)
    first = path.read_bytes()
    save_png(image, path)
    assert path.read_bytes() == first
    assert_close(load_picture(path), image, 0)

    def fail(self: Image.Image, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(ImageOps.invert(image), path)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_contact_sheet() -> None:
    colours = ["red", "lime", "blue", "black", "yellow"]
    sheet = contact_sheet([Image.new("RGB", (10, 8), colour) for colour in colours], 3)
    assert sheet.size == (3 * 10 + 2 * 2, 2 * 8 + 2)
    assert sheet.getpixel((5, 4)) == (255, 0, 0)
    assert sheet.getpixel((29, 4)) == (0, 0, 255)
    assert sheet.getpixel((17, 14)) == (255, 255, 0)
    assert sheet.getpixel((29, 14)) == (255, 255, 255)  # no sixth picture
    assert sheet.getpixel((10, 4)) == (255, 255, 255)  # between two
    small = contact_sheet([Image.new("RGB", (10, 10), "red"), Image.new("RGB", (2, 2), "blue")], 9)
    assert small.size == (22, 10)
    assert small.getpixel((16, 5)) == (0, 0, 255)  # centred in its cell
    with pytest.raises(PictureError, match="at least one picture"):
        contact_sheet([], 1)
    with pytest.raises(ConfigError, match="columns"):
        contact_sheet([sheet], 0)
