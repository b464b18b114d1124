"""Where pictures come from: folders and archives with all that lies about in them, and pixels in memory."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refinestyle_hub.errors import PictureError
from refinestyle_hub.images import left_out_lines, left_out_of, list_pictures, load_picture, to_tensor
from refinestyle_hub.images.listing import endings
from refinestyle_hub.train.dataset import open_pictures


@pytest.fixture
def picture() -> Image.Image:
    """RGB, 6 x 5, no two pixels alike."""
    return Image.fromarray((np.arange(90).reshape(5, 6, 3) * 2).astype(np.uint8))


def save(picture: Image.Image, path: Path, format: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format=format)


# --- Folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(picture: Image.Image, tmp_path: Path) -> Path:
    """A folder as people have them."""
    root = tmp_path / "photos"
    for name in ("a.png", "sub/b.PNG", "two.png/c.png"):
        save(picture, root / name)
    save(picture, root / "d.jfif", "JPEG")
    save(picture, root / "e.jpe", "JPEG")
    save(picture, root / "f.gif", "GIF")
    for name in ("._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "sub/@eaDir/b.png"):
        save(picture, root / name)
    (root / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "notes.txt").write_text("notes")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    save(picture, tmp_path / "elsewhere" / "g.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub" / "round").symlink_to(root)
    save(picture, root / "inv" / "crop.png")
    (root / "inv" / "inversion.safetensors").write_bytes(b"")
    save(picture, root / "out" / "x.png")
    return root


PICTURES = ["a.png", "d.jfif", "e.jpe", "f.gif", "linked/g.png", "sub/b.PNG", "two.png/c.png"]


def test_one_listing_of_a_folder(folder: Path) -> None:
    found, left_out = list_pictures(folder, results=folder / "out")
    assert [path.relative_to(folder).as_posix() for path in found] == PICTURES
    assert left_out == {
        "._a.png": "it is hidden",
        ".ipynb_checkpoints": "it is hidden",
        "IMG_1.HEIC": "HEIC photos cannot be read here: export them as JPEG",
        "__MACOSX": "it is the system's own",
        "gone.png": "it is a link to nothing",
        "inv": "it holds results of this package",
        "notes.txt": "its ending is none of a picture's",
        "out": "the results go there",
        "sub/@eaDir": "it is the system's own",
        "sub/round": "it was searched already, under another name",
    }
    assert "left out, it is hidden: ._a.png, .ipynb_checkpoints" in left_out_lines(left_out)


def test_trainings_take_the_same_and_say_what_they_leave_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = open_pictures(folder, 4)
    assert list(pictures.names) == [*PICTURES[:5], "out/x.png", *PICTURES[5:]]
    assert len(pictures.take(range(len(pictures)))) == 8
    assert "notes.txt" in pictures.left_out
    assert "notes.txt" in caplog.text


def test_zips_are_listed_like_folders(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    pictures = open_pictures(tmp_path / "photos.zip", 4)
    assert {"a.png", "d.jfif", "sub/b.PNG"} <= set(pictures.names)
    assert {"._a.png", "__MACOSX/a.png", "notes.txt"} <= set(pictures.left_out)


def test_a_folder_without_pictures_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(PictureError, match=r"(?s)There are no pictures in .*Left out: a.heic: HEIC"):
        list_pictures(tmp_path)
    with pytest.raises(PictureError, match="There is no folder"):
        list_pictures(tmp_path / "none")


def test_a_folder_of_results_that_is_named_is_taken(folder: Path) -> None:
    assert [path.name for path in list_pictures(folder / "inv").pictures] == ["crop.png"]


def test_endings_are_those_that_pillow_opens() -> None:
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"} <= endings()
    assert left_out_of(["a", "b.JPG"]) is None
    assert left_out_of(["a", "b.svg"]) == "its ending is none of a picture's"


@pytest.mark.parametrize("name", ["a b.png", "a#b.png", "100%.png", "[a].png", "ü 漢.png", "a'b.png", "\udcff.png"])
def test_odd_names_in_folders(picture: Image.Image, tmp_path: Path, name: str) -> None:
    save(picture, tmp_path / name)
    assert load_picture(list_pictures(tmp_path).pictures[0]).size == (6, 5)


# --- Memory ---------------------------------------------------------------------------------------------------------


def test_pixels_of_every_type_are_the_same_picture(picture: Image.Image) -> None:
    levels = np.asarray(picture)
    tensor = torch.from_numpy(levels.copy()).permute(2, 0, 1)
    sources: list[Any] = [
        levels,
        levels[None],
        levels.astype(np.int64),
        levels.transpose(2, 0, 1),
        levels / 255,
        (levels / 255).astype(np.float32),
        levels / 127.5 - 1,
        levels.astype(np.uint16) * 257,
        levels[::-1][::-1],
        tensor,
        tensor[None],
        tensor.long(),
        tensor / 255,
        to_tensor(picture),
        to_tensor(picture)[0].requires_grad_(),
        to_tensor(picture).double(),
        tensor.permute(1, 2, 0),
    ]
    for source in sources:
        assert np.array_equal(np.asarray(load_picture(source)), levels)
    for half in (to_tensor(picture).bfloat16(), to_tensor(picture).half()):
        assert np.abs(np.asarray(load_picture(half)).astype(int) - levels).max() <= 1


def test_bytes_files_and_paths_of_every_kind(picture: Image.Image, tmp_path: Path, monkeypatch: Any) -> None:
    save(picture, tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    monkeypatch.setenv("HOME", str(tmp_path))

    class Place(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "a.png")

    for source in (
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        Place(),
        "~/a.png",
        f"file://{tmp_path}/a.png",
    ):
        assert load_picture(source).tobytes() == picture.tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I", "F", "LAB"]
)
def test_every_mode_of_a_picture_in_memory(mode: str) -> None:
    picture = Image.new(mode, (5, 3))
    found = load_picture(picture)
    assert (found.mode, found.size) == ("RGB", (5, 3))


def test_grey_alpha_and_masks_as_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert np.array_equal(np.asarray(load_picture(grey))[..., 0], grey)
    assert np.array_equal(np.asarray(load_picture(grey[..., None]))[..., 1], grey)
    clear = np.zeros((3, 4, 4), dtype=np.uint8)
    assert np.asarray(load_picture(clear)).min() == 255  # transparency is laid on white
    assert np.asarray(load_picture(np.ones((3, 4), dtype=bool))).min() == 255


NO_PICTURES: list[tuple[Any, str]] = [
    (None, "not None"),
    (7, "not a int"),
    ([Image.new("RGB", (2, 2))], "not a list"),
    (np.zeros((2, 8, 8, 3)), "holds 2 pictures"),
    (np.zeros((8, 8, 7)), "is no picture"),
    (np.zeros(5), "is no picture"),
    (np.zeros((0, 4, 3)), "is no picture"),
    (np.full((4, 4, 3), np.nan), "NaN"),
    (np.full((4, 4, 3), 200.0), "values from 200 to 200"),
    (np.full((4, 4, 3), -7), "values from -7"),
    (np.full((4, 4, 3), 1j), "complex128 holds no pixels"),
    (torch.full((3, 4, 4), -2.1), "values from -2.1"),
    ("", "empty"),
    ("https://example.org/a.png", "is an address: download"),
    ("a" * 300, "too long"),
    (b"", "empty"),
]


@pytest.mark.parametrize(("source", "reason"), NO_PICTURES)
def test_what_is_no_picture_in_memory(source: Any, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        load_picture(source)


def test_files_of_another_kind_are_told_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PictureError, match=r"a.png: .*a Git LFS pointer.*git lfs pull"):
        load_picture(tmp_path / "a.png")
    with pytest.raises(PictureError, match="is a folder"):
        load_picture(tmp_path)


def test_photos_of_50_megapixels_are_read() -> None:
    data = io.BytesIO()
    Image.new("RGB", (8160, 6144), "grey").save(data, "JPEG")
    assert load_picture(data).size == (8160, 6144)
