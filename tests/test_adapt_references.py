"""What is said of the pictures of a style before a run."""

from __future__ import annotations

from pathlib import Path

import torch
from adapt_parts import references
from PIL import Image
from torch import Tensor

from refinestyle_hub.adapt import References, load_references


def named(pictures: Tensor, *, aligned: bool = True) -> References:
    count = len(pictures)
    return References(pictures, tuple(f"{i}.png" for i in range(count)), (aligned,) * count, sides=(999,) * count)


def test_pictures_that_lack_nothing() -> None:
    assert named(references(6).pictures).lacks == []


def test_few_pictures_and_no_face() -> None:
    few, faces = named(references(2).pictures, aligned=False).lacks
    assert few.startswith("2 of the 5")
    assert "No face" in faces


def test_the_one_of_another_style_is_named() -> None:
    """Nine bright orange pictures and a dark blue one: it is farther from all than any two of them are."""
    pictures = references(10).pictures
    pictures[7] = torch.tensor([-0.9, -0.8, 0.1])[:, None, None] + 0 * pictures[7]
    (line,) = named(pictures).lacks
    assert line.endswith(": 7.png.")


def test_small_pictures_are_named(tmp_path: Path) -> None:
    """By the size of the square in the file, not that to which it is drawn out."""
    for name, side in (("small", 20), ("fair", 64)):
        Image.effect_noise((side + 8, side), 60).convert("RGB").save(tmp_path / f"{name}.png")
    found = load_references(tmp_path, 128, align="none")
    assert found.sides == (64, 20)
    assert [line for line in found.lacks if line.startswith("Smaller than 32 px")] == [
        "Smaller than 32 px, so that fine strokes are missing: small.png."
    ]
