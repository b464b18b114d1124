"""The pictures of a style: how they are read, and what is said of them before a run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapt_parts import drawings, references
from PIL import Image, ImageFilter
from torch import Tensor

from refinestyle_hub.adapt import References, lacks, load_references
from refinestyle_hub.errors import PictureError


ROOT = Path(__file__).parents[1]


def named(pictures: Tensor, *, aligned: bool = True) -> References:
    count = len(pictures)
    return References(pictures, tuple(f"{i}.png" for i in range(count)), (aligned,) * count, sides=(999,) * count)


# --- Reading --------------------------------------------------------------------------------------------------------


def test_faces_are_cut_out_and_other_pictures_used_as_they_are(astronaut: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "drawn.png"
    drawings()[0].save(path)
    found = load_references([astronaut, path], 64)
    assert found.pictures.shape == (2, 3, 64, 64)
    assert found.aligned == (True, False)
    assert found.report == {"aligned": ["picture 1"], "as_they_are": ["drawn.png"], "ignored": [], "unreadable": {}}
    plain = load_references([astronaut, path], 64, align="none")
    assert plain.aligned == (False, False)
    assert torch.equal(plain.pictures[1], found.pictures[1])
    assert (plain.pictures[0] - found.pictures[0]).abs().mean() > 0.1
    assert plain.digest != found.digest


def test_one_picture_or_a_folder_needs_no_list(tmp_path: Path) -> None:
    folder, (first, second, *_) = tmp_path / "style", drawings()
    (folder / "sub.png").mkdir(parents=True)
    for name in ("b.png", "a.png", "._a.png"):
        first.save(folder / name, "PNG")
    (folder / "c.heic").write_bytes(b"")
    found = load_references(folder, 32, "none")
    assert (found.names, found.ignored) == (("a.png", "b.png"), ("._a.png", "c.heic"))
    assert load_references([second, folder], 32, "none").names == ("picture 1", "a.png", "b.png")
    for one in (first, str(folder / "a.png"), (folder / "a.png").read_bytes()):
        assert torch.equal(load_references(one, 32, "none").pictures, found.pictures[:1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match=r"no pictures in .*empty\. Known endings: .*png"):
        load_references(tmp_path / "empty", 32)


def test_what_cannot_be_read_is_left_out_of_a_folder_and_an_error_by_its_name(tmp_path: Path) -> None:
    folder, (first, *_) = tmp_path / "style", drawings()
    folder.mkdir()
    torn = folder / "b.png"
    torn.write_bytes(b"<html>")
    with pytest.raises(PictureError, match=r"No picture can be used\. .*b\.png: This is a web page"):
        load_references(folder, 32, "none")
    first.save(folder / "a.png")
    found = load_references(folder, 32, "none")
    assert (found.names, found.aligned, len(found)) == (("a.png",), (False,), 1)
    assert found.report["unreadable"] == found.unreadable
    assert list(found.unreadable) == [str(torn)]
    assert found.unreadable[str(torn)].startswith("This is a web page")
    with pytest.raises(PictureError, match=r"^b\.png: This is a web page"):
        load_references([folder, torn], 32, "none")


# --- What they lack -------------------------------------------------------------------------------------------------


def test_pictures_that_lack_nothing() -> None:
    assert lacks(named(references(6).pictures)) == []


def test_a_text_in_their_place_lacks_nothing() -> None:
    assert lacks(named(torch.empty(0, 3, 32, 32))) == []


def test_few_pictures_and_no_face() -> None:
    few, faces = lacks(named(references(2).pictures, aligned=False))
    assert few == "Only 2 pictures. It takes 5 or more to tell a style from what they happen to show."
    assert faces.startswith("No face was aligned")


def test_those_without_a_face_are_named_beside_aligned_ones() -> None:
    some = replace(named(references(6).pictures), aligned=(True, True, False, True, False, True))
    assert lacks(some) == ["Not aligned, since no face was found, so that eyes and mouths may move: 2.png, 4.png."]


def test_the_one_of_another_style_is_named() -> None:
    """Nine bright orange pictures and a dark blue one: it is farther from all than any two of them are."""
    pictures = references(10).pictures
    blue = torch.tensor([-0.9, -0.8, 0.1])[:, None, None]
    pictures[7] = blue + pictures[7] - pictures[7].mean(dim=(1, 2), keepdim=True)
    assert lacks(named(pictures)) == ["Unlike all others, so that the domain may be neither: 7.png."]


def test_small_pictures_are_named(tmp_path: Path) -> None:
    """By the size of the square in the file, not that to which it is drawn out."""
    for name, side in (("small", 20), ("fair", 64)):
        Image.effect_noise((side + 8, side), 60).convert("RGB").save(tmp_path / f"{name}.png")
    found = load_references(tmp_path, 128, align="none")
    assert found.sides == (64, 20)
    assert [line for line in lacks(found) if line.startswith("Smaller than 32 px")] == [
        "Smaller than 32 px, so that fine strokes are missing: small.png."
    ]


def tiles(sheet: Path, side: int, gap: int, row: int = 0) -> list[Image.Image]:
    """The pictures of a row of a sheet."""
    with Image.open(sheet) as whole:
        lefts, top = range(0, whole.width, side + gap), row * (side + gap)
        return [whole.convert("RGB").crop((left, top, left + side, top + side)) for left in lefts]


def people() -> list[Image.Image]:
    """Six people whom a generator drew."""
    return tiles(ROOT / "space" / "examples" / "people.webp", 128, 0)


def told(pictures: list[Image.Image]) -> list[str]:
    """What is said of pictures, apart from their faces, which nobody looks for here."""
    said = lacks(load_references(pictures, 128, "none"))
    return [line for line in said if not line.startswith("No face")]


def test_pictures_without_detail_are_named() -> None:
    ramp = Image.linear_gradient("L").resize((256, 256))
    flat = [
        Image.new("RGB", (256, 256), "teal"),
        ramp.convert("RGB"),
        Image.radial_gradient("L").convert("RGB"),
        Image.effect_noise((512, 512), 20).convert("RGB"),  # the grain of paper
    ]
    names = ", ".join(f"picture {i}" for i in range(7, 11))
    assert told(people() + flat) == [f"Nearly without detail, so that the domain may blur people away: {names}."]
    assert told(flat)[-1].endswith("away: picture 1, picture 2, picture 3, picture 4.")


@pytest.mark.parametrize("style", ["avatar", "bronze", "charcoal", "engraving", "marble", "oil", "pencil", "popart"])
@pytest.mark.parametrize("blur", [0, 3])  # of 192 px: out of focus, or painted wet in wet
def test_soft_pictures_of_a_style_are_not_called_flat(style: str, blur: int) -> None:
    drawn = tiles(ROOT / "model_cards" / f"ffhq-1024-domain-{style}.png", 192, 2, row=2)
    soft = [picture.filter(ImageFilter.GaussianBlur(blur)) for picture in drawn]
    assert [line[:8] for line in told(soft)] == ["Only 4 p"]


def test_copies_are_named_and_count_once() -> None:
    six = people()
    small = io.BytesIO()
    six[1].resize((96, 96)).save(small, "JPEG", quality=90)
    with Image.open(small) as copy:
        assert told([*six, copy, six[0]]) == ["Copies of others, which teach nothing more: picture 7, picture 8."]
    moved = six[2].resize((128, 128), box=(2, 1, 127, 126))  # as where the face was found a pixel or two away
    assert told([*six, moved]) == ["Copies of others, which teach nothing more: picture 7."]
    assert told(six[:1] * 5)[0].startswith("Only 1 different picture. ")
    assert told([*six, six[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]) == []


def test_grey_pictures_beside_coloured_ones_are_named() -> None:
    six = people()
    grey = [picture.convert("L").convert("RGB") for picture in six]
    assert told([grey[0], *six[1:]]) == ["Grey beside coloured ones, so that the domain may be neither: picture 1."]
    assert told(grey) == []
