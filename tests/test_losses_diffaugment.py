"""Augmentation that moves and cuts, and leaves colours alone."""

from __future__ import annotations

import pytest
import torch

from refinestyle_hub.losses.diffaugment import augment, cut_out, translate


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_translation_is_by_whole_pixels_with_the_edge_repeated() -> None:
    x = torch.randn(6, 3, 16, 16, generator=rng())
    moved = translate(x, rng(1), shift=0.25)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4), mode="replicate")
    offsets = []
    for one, whole in zip(moved, padded, strict=True):
        fits = [(i, j) for i in range(9) for j in range(9) if torch.equal(one, whole[:, i : i + 16, j : j + 16])]
        assert len(fits) == 1
        offsets += fits
    assert len(set(offsets)) > 1


def test_a_hole_is_a_square_of_zeros() -> None:
    x = torch.ones(50, 3, 20, 20)
    holes = (cut_out(x, rng(), hole=0.5) == 0).sum(dim=(1, 2, 3)) / 3
    assert holes.max() == 100  # 10 x 10, where it lies inside
    assert holes.min() >= 25  # its centre is always inside


def test_colours_stay_and_gradients_flow() -> None:
    x = torch.full((8, 3, 16, 16), 0.3)
    x[:, 1] = -0.7
    x.requires_grad_()
    y = augment(x, rng())
    colours = {tuple(c.tolist()) for c in y.detach().permute(0, 2, 3, 1).reshape(-1, 3)}
    assert {tuple(round(v, 3) for v in c) for c in colours} == {(0.3, -0.7, 0.3), (0.0, 0.0, 0.0)}
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.sum() == pytest.approx(float((y != 0).sum()))


def test_the_same_source_gives_the_same() -> None:
    x = torch.randn(4, 3, 16, 16, generator=rng())
    assert torch.equal(augment(x, rng(2)), augment(x, rng(2)))
    assert not torch.equal(augment(x, rng(2)), augment(x, rng(3)))
