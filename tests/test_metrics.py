"""Set and pair distances against closed forms, direct computation, and cases whose answer is known."""

from __future__ import annotations

import pytest
import torch

from refinestyle_hub.errors import ShapeError
from refinestyle_hub.evaluation import metrics
from refinestyle_hub.losses.pixel import mse


def normal(n: int, f: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed)) * scale + shift


def test_frechet_distance_of_whitened_sets_is_the_closed_form() -> None:
    # whitened, so that mean 0 and covariance I hold exactly; then |shift|^2 + F (scale - 1)^2
    x = normal(400, 8, 0).double()
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    shift = torch.linspace(-1, 1, 8, dtype=torch.float64)
    expected = float(shift.square().sum()) + 8 * 0.25
    assert metrics.frechet_distance(x, 1.5 * x + shift) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_the_general_square_root() -> None:
    x, y = (normal(n, 12, n).double() @ normal(12, 12, n + 1).double() for n in (300, 200))
    cross = torch.linalg.eigvals(torch.cov(x.T) @ torch.cov(y.T)).sqrt().real.sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + torch.cov(x.T).trace() + torch.cov(y.T).trace() - 2 * cross
    assert metrics.frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_distance_with_fewer_pictures_than_features() -> None:
    assert metrics.frechet_distance(normal(10, 64, 0), normal(10, 64, 1)) > 0


def test_kernel_distance_agrees_with_the_double_sum() -> None:
    x, y = normal(7, 5, 0).double(), normal(7, 5, 1, shift=1.0).double()

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 5 + 1) ** 3)

    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(7) for j in range(7) if i != j) / 42
    between = sum(k(a, b) for a in x for b in y) / 49
    found = metrics.kernel_distance(x, y, subsets=3, size=100)
    assert found.mean == pytest.approx(within - 2 * between, rel=1e-9)
    assert found.std == pytest.approx(0, abs=1e-9)  # a subset of everything is everything


def test_kernel_distance_is_unbiased_and_ordered() -> None:
    x = normal(2000, 16, 0)
    same = metrics.kernel_distance(x, normal(2000, 16, 1), subsets=30, size=300)
    near = metrics.kernel_distance(x, normal(2000, 16, 1, shift=0.2), subsets=30, size=300)
    far = metrics.kernel_distance(x, normal(2000, 16, 1, shift=0.5), subsets=30, size=300)
    assert abs(same.mean) < 3 * same.std
    assert same.mean + same.std < near.mean < far.mean
    assert metrics.kernel_distance(x, x, seed=3, subsets=2) == metrics.kernel_distance(x, x, seed=3, subsets=2)


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).abs().flatten(1).mean(dim=1)


def test_pairwise_diversity_is_the_mean_over_pairs() -> None:
    items = torch.tensor([[0.0], [1.0], [3.0]])
    assert metrics.pairwise_diversity(items, distance) == pytest.approx((1 + 3 + 2) / 3)
    assert metrics.pairwise_diversity(items, distance, pairs=1) in (1.0, 2.0, 3.0)
    with pytest.raises(ShapeError, match="two items"):
        metrics.pairwise_diversity(items[:1], distance)


def test_intra_cluster_diversity_sees_through_copies() -> None:
    references = torch.tensor([[0.0], [10.0]])
    copies = references.repeat_interleave(3, dim=0)
    assert metrics.pairwise_diversity(copies, distance) == pytest.approx(6.0)  # varied at first sight
    assert metrics.intra_cluster_diversity(copies, references, distance) == 0
    spread = torch.tensor([[0.0], [1.0], [10.0], [13.0]])
    assert metrics.intra_cluster_diversity(spread, references, distance) == pytest.approx((1 + 3) / 2)


def test_pair_distances() -> None:
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = x.clone()
    y[1] = (x[1] * 0.5).clamp(-1, 1)
    assert mse(x, x + 0.1).tolist() == pytest.approx([0.01, 0.01], rel=1e-4)
    similar = metrics.ms_ssim(x, y)
    assert similar[0] == pytest.approx(1.0, abs=1e-5)
    assert 0 < similar[1] < 0.95


def test_ms_ssim_uses_four_normalised_scales() -> None:
    # a difference of means alone: contrast terms are 1, only the luminance term of the coarsest scale is left, with
    # the fourth weight. SSIM's constant: (0.01 * 2)^2
    x, y = torch.full((1, 3, 128, 128), 0.5), torch.full((1, 3, 128, 128), 0.2)
    luminance = (2 * 0.5 * 0.2 + 4e-4) / (0.5**2 + 0.2**2 + 4e-4)
    weight = 0.2363 / (0.0448 + 0.2856 + 0.3001 + 0.2363)
    assert float(metrics.ms_ssim(x, y)) == pytest.approx(luminance**weight, abs=1e-4)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="features"):
        metrics.frechet_distance(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(ShapeError, match="pictures"):
        metrics.ms_ssim(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4))
