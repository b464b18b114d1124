"""Sliced Wasserstein distances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refinestyle_hub.losses.sliced import bands, opponent, sliced_features, sliced_pictures, sliced_wasserstein


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, seed: int = 0, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=rng(seed)) * 2 - 1


def test_distance_on_a_line_is_that_of_sorted_points() -> None:
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[6.0], [1.0], [2.0]])
    assert sliced_wasserstein(x, y) == pytest.approx((1 + 1 + 1) / 3)
    assert sliced_wasserstein(x, x[torch.tensor([2, 0, 1])]) == 0


def test_sets_of_different_size_are_compared_by_quantiles() -> None:
    few, many = torch.linspace(0, 1, 11)[:, None], torch.linspace(0, 1, 101)[:, None]
    assert sliced_wasserstein(few, many) == pytest.approx(0, abs=1e-10)
    assert sliced_wasserstein(few, many + 2) == pytest.approx(4, rel=1e-4)


def test_all_pictures_of_a_style_count_at_no_further_cost() -> None:
    """Ten times the same pictures are the same style, seen on a coarser grid."""
    x = pictures(4)
    many, other = x.repeat(10, 1, 1, 1), pictures(40, 3) * 0.3
    assert sliced_pictures(x, many, rng()) < 0.1 * sliced_pictures(x, other, rng())
    assert sliced_pictures(x, x[:1], rng()) >= 0  # fewer, too


def test_a_whole_style_narrows_the_samples_less() -> None:
    """Pictures of one normal number: the scale at which four come nearest, on average, to as many or to twenty."""
    draws, scales = 4000, {}
    for count in (4, 20):
        x = torch.randn(4, draws, generator=rng()).repeat_interleave(5, 0)
        y = torch.randn(count, draws, generator=rng(1)).repeat_interleave(20 // count, 0)
        scale = torch.ones([], requires_grad=True)
        slope = torch.autograd.grad(sliced_wasserstein(scale * x, y), scale)[0]
        scales[count] = 1 - float(slope / (2 * x.square().mean()))  # the minimum of the parabola
    assert scales[4] == pytest.approx(0.58, abs=0.02)
    assert scales[20] == pytest.approx(0.67, abs=0.02)


def test_bands_add_up_to_the_picture() -> None:
    x = pictures(2, size=64)
    *details, low = bands(x)
    assert low.shape[-1] == 16
    for detail in reversed(details):
        low = torch.nn.functional.interpolate(low, scale_factor=2.0, mode="bilinear") + detail
    assert torch.allclose(low, x, atol=1e-6)


def test_opponent_colours_are_zero_for_grey() -> None:
    grey = torch.full((1, 3, 2, 2), 0.5)
    assert opponent(grey)[:, 1:].abs().max() < 1e-6
    assert opponent(grey)[0, 0, 0, 0] == pytest.approx(0.5 * 3**0.5, rel=1e-3)


def test_order_of_pictures_and_places_does_not_count_without_tags() -> None:
    x = pictures(4)
    assert sliced_pictures(x, x[[2, 0, 3, 1]], rng()) == pytest.approx(0, abs=1e-10)
    maps = torch.randn(2, 5, 8, 8, generator=rng(1))
    moved = maps.roll(3, dims=3)
    assert sliced_features([maps], [moved], rng(), place=0.0) == pytest.approx(0, abs=1e-10)
    assert sliced_features([maps], [maps.flip(0)], rng(), place=0.5) == pytest.approx(0, abs=1e-10)


def test_tags_tell_where_a_feature_lies() -> None:
    """Half a map is 1: left or right is the same set of features, but not of features with their places."""
    left = torch.zeros(1, 2, 8, 8)
    left[..., :4] = 1
    assert sliced_features([left], [left.flip(3)], rng(), place=0.0) == pytest.approx(0, abs=1e-10)
    assert sliced_features([left], [left.flip(3)], rng(), place=1.0) > 0.1


def test_nearer_styles_are_nearer_and_gradients_lead_there() -> None:
    target = pictures(4, 1) * 0.2 + torch.tensor([0.6, 0.0, -0.6])[:, None, None]
    x = pictures(4, 2)
    half = x.lerp(target, 0.5)
    assert sliced_pictures(half, target, rng()) < 0.6 * sliced_pictures(x, target, rng())
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sliced_pictures(leaf, target, rng()), leaf)
    step = 1e-2 / gradient.abs().max()
    assert sliced_pictures(x - step * gradient, target, rng()) < sliced_pictures(x, target, rng())


def test_large_maps_are_compared_on_a_grid_that_moves() -> None:
    x, y = pictures(1, 0, 128), pictures(1, 1, 128)
    found = {float(sliced_pictures(x, y, rng(seed))) for seed in range(4)}
    assert len(found) == 4
    assert max(found) < 1.5 * min(found)


def test_a_flat_style_does_not_outweigh_everything() -> None:
    flat = torch.full((2, 3, 32, 32), 0.5)
    assert sliced_pictures(pictures(2), flat, rng()) < 2 / 0.05
