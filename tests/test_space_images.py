"""The demo's loader: limits, messages, and what leaves it."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from refinestyle_hub.faces.detect import Face, find_faces
from refinestyle_hub.faces.photo import Photo
from space import files, images, limits, messages


def save(image: Image.Image, path: Path, **options: object) -> str:
    image.save(path, **options)  # type: ignore[arg-type]
    return str(path)


def refusal(path: str | None) -> str:
    with pytest.raises(gr.Error) as caught:
        images.open_photo(path)
    assert not caught.value.print_exception  # a user's mistake leaves no traceback in the log
    return str(caught.value.message)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "The file is empty"),
        (b"hello", "a text file, not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x89PNG\r\n\x1a\n123", "damaged or incomplete"),
    ],
)
def test_what_is_no_picture_is_told_so(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    assert told in refusal(str(file))
    assert str(tmp_path) not in refusal(str(file))


def test_truncated_picture(tmp_path: Path, astronaut: Image.Image) -> None:
    file = tmp_path / "photo.jpg"
    whole = save(astronaut, file)
    file.write_bytes(file.read_bytes()[: os.stat(whole).st_size // 2])
    assert "damaged or incomplete" in refusal(str(file))


def test_photos_of_phones_are_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "export the photo as JPEG" in refusal(str(tmp_path / "photo.heic"))


def test_no_photo_and_places_that_are_no_photo(tmp_path: Path) -> None:
    assert refusal(None) == messages.NO_PHOTO
    assert "a text file, not a picture" in refusal("/etc/passwd")
    assert refusal(str(tmp_path)) == f"{tmp_path.name} is a folder, and no picture file. Name a picture in it."
    assert refusal(str(tmp_path / "none.png")) == "There is no picture file at none.png."


def test_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, astronaut: Image.Image) -> None:
    file = save(astronaut, tmp_path / "photo.png")
    monkeypatch.setattr(limits, "MAX_BYTES", 100_000)
    assert refusal(file) == "The file is larger than the 0.1 MB allowed. Save it smaller first."


def test_too_many_pixels(tmp_path: Path) -> None:
    file = save(Image.new("1", (12000, 6000)), tmp_path / "photo.png")
    told = "The picture has 12000 x 6000 pixels, more than the 64 million allowed. Make it smaller first."
    assert refusal(file) == told


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file = save(Image.new("1", (14000, 14000)), tmp_path / "bomb.png")
    assert os.stat(file).st_size < 200_000
    tracemalloc.start()
    try:
        assert "far too many pixels" in refusal(file)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_is_read(tmp_path: Path, astronaut: Image.Image, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    source = astronaut.resize((64, 48)).convert(mode if mode != "I;16" else "L").convert(mode)
    picture = images.open_photo(save(source, tmp_path / f"photo.{suffix}"), "none").image
    assert (picture.mode, picture.size) == ("RGB", (64, 48))


def test_of_a_film_the_first_picture_is_read(tmp_path: Path, astronaut: Image.Image) -> None:
    frames = [astronaut.resize((64, 48)), Image.new("RGB", (64, 48))]
    file = save(frames[0], tmp_path / "photo.gif", save_all=True, append_images=frames[1:])
    picture = images.open_photo(file, "none").image
    assert (picture.mode, picture.size) == ("RGB", (64, 48))
    assert np.asarray(picture).mean() > 50  # the second one is black


def test_a_turned_photo_gives_the_same_crop(tmp_path: Path, astronaut: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # as phones store an upright photo
    exif[0x010F] = "Secret Camera"
    turned = save(astronaut.transpose(Image.Transpose.ROTATE_90), tmp_path / "turned.png", exif=exif)
    both = save(astronaut, tmp_path / "upright.png"), turned
    crops = [np.asarray(images.open_photo(file).crop(64).image) for file in both]
    assert np.array_equal(*crops)
    file = files.picture_file(crops[1])
    assert b"Secret" not in Path(file).read_bytes()
    with Image.open(file) as picture:
        assert not picture.getexif()
        assert set(picture.info) == {"XML:com.adobe.xmp", "xmp"}  # the mark of files.marked


def test_no_face_and_small_faces(tmp_path: Path, astronaut: Image.Image) -> None:
    assert refusal(save(Image.new("RGB", (256, 256), "gray"), tmp_path / "grey.png")) == messages.NO_FACE
    width = find_faces(astronaut)[0].width
    small = astronaut.resize((round(512 * 45 / width),) * 2, Image.Resampling.LANCZOS)
    found = find_faces(small)[0].width
    assert found < limits.MIN_FACE
    assert refusal(save(small, tmp_path / "small.png")) == f"The face is only {found} px wide. Use a closer photo."


def test_frames_are_drawn_where_the_crops_are(astronaut: Image.Image) -> None:
    faces = find_faces(astronaut)
    large = Photo(astronaut.resize((1024, 1024)), tuple(_scaled(face, 2.0) for face in faces))
    shown = images.framed(large)
    assert shown.shape == (512, 512, 3)
    changed = np.abs(shown.astype(int) - np.asarray(astronaut.resize((512, 512)), dtype=int)).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    left, top, right, bottom = faces[0].box
    assert columns.min() < left < right < columns.max()
    assert rows.min() < top < bottom < rows.max()


def _scaled(face: Face, factor: float) -> Face:
    left, top, right, bottom = (round(v * factor) for v in face.box)
    return Face((left, top, right, bottom), face.landmarks * factor, face.score)


def test_pictures_of_two_sizes_stand_in_cells_of_one_size() -> None:
    small, large = np.zeros((64, 64, 3), np.uint8), np.full((128, 128, 3), 255, np.uint8)
    sheet = images.side_by_side([small, large], 2, 64)
    assert sheet.shape[0] < 100  # one row of 64 pixels and its margins
    assert sheet.shape[1] > 2 * 64 - 1


def test_png_files_are_exact_and_lie_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = Path(files.picture_file(pixels, "edit.png"))
    assert file.is_relative_to(tmp_path)
    assert file.name == "edit.png"
    with Image.open(file) as picture:
        assert np.array_equal(np.array(picture), pixels)
    assert files.picture_file(pixels, "edit.png") == str(file)
    assert [path.name for path in file.parent.iterdir()] == ["edit.png"]


def test_metadata_of_no_kind_survives(tmp_path: Path, astronaut: Image.Image) -> None:
    data = io.BytesIO()
    astronaut.resize((64, 64)).save(data, "JPEG", comment=b"where I live")
    (tmp_path / "photo.jpg").write_bytes(data.getvalue())
    picture = images.open_photo(str(tmp_path / "photo.jpg"), "none").image
    assert not picture.info


def test_what_a_crash_left_behind_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    old, new = (Path(files.picture_file(np.full((8, 8, 3), grey, np.uint8))) for grey in (0, 1))
    os.utime(old, (0, 0))
    files.sweep_cache()
    assert not old.exists()
    assert new.exists()
    os.utime(old.parent, (0, 0))
    files.sweep_cache()
    assert not old.parent.exists()


def test_the_only_metadata_is_that_a_model_took_part() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    mark = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    png, jpeg = files.marked(picture, "PNG"), files.marked(picture, "JPEG")
    chunks, place = [], 8
    while place < len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        chunks.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + size]))
        place += 12 + size
    assert [kind for kind, _ in chunks] == [b"IHDR", b"iTXt", b"IDAT", b"IEND"]
    assert chunks[1][1].startswith(b"XML:com.adobe.xmp\0")
    segments, place = [], 2
    while jpeg[place + 1] != 0xDA:  # up to the scan
        size = int.from_bytes(jpeg[place + 2 : place + 4], "big")
        segments.append((jpeg[place + 1], jpeg[place + 4 : place + 2 + size]))
        place += 2 + size
    assert {kind for kind, _ in segments} == {0xE0, 0xE1, 0xDB, 0xC0, 0xC4}  # JFIF, XMP, tables and frame
    ((_, packet),) = [segment for segment in segments if segment[0] == 0xE1]
    assert packet.startswith(b"http://ns.adobe.com/xap/1.0/\0<?xpacket")
    for file in (png, jpeg):
        assert file.count(mark) == 1
        assert file.count(b"<rdf:Description") == 1
        assert file.count(b"Iptc4xmpExt:DigitalSourceType>") == 2  # begin and end of the one property
