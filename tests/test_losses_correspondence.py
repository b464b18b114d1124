"""What samples keep of their sources."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from refinestyle_hub.losses.correspondence import between_samples, within_samples


def maps(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("term", [between_samples, within_samples])
def test_what_a_style_may_change_costs_nothing(term) -> None:  # type: ignore[no-untyped-def]
    """A stronger contrast, and one offset for each channel, leave all relations as they were."""
    x = maps()
    style = torch.randn(1, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    assert term(x, 3 * x + style) == pytest.approx(0, abs=1e-5)
    assert term(x, maps(7)) > 0.05


def test_samples_that_become_one_cost() -> None:
    x = maps()
    collapsed = x[:1] + 0.01 * maps(3)
    apart = x + 0.01 * maps(3)
    assert between_samples(x, collapsed) > 10 * between_samples(x, apart)


def test_between_against_the_definition() -> None:
    x, y = maps(), maps(1)
    total = 0.0
    for i in range(4):
        rows = []
        for z in (x, y):
            z = z.flatten(1) - z.flatten(1).mean(dim=0)
            others = [F.cosine_similarity(z[i], z[j], dim=0) for j in range(4) if j != i]
            rows.append(torch.stack(others).div(0.2).softmax(0))
        total += float((rows[0] * (rows[0] / rows[1]).log()).sum())
    assert float(between_samples(x, y)) == pytest.approx(total / 4, rel=1e-4)


def test_moved_parts_cost() -> None:
    x = maps()
    assert within_samples(x, x.roll(1, dims=3)) > 0.1
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(within_samples(x, y.roll(1, dims=3)), y)
    assert gradient.abs().sum() > 0
