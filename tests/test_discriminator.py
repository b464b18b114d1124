from __future__ import annotations

import pytest
import stylegan2_reference as reference
import torch
from tiny import randomise

from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.errors import ShapeError
from refinestyle_hub.generators.discriminator import Discriminator


CHANNELS = {4: 12, 8: 12, 16: 10, 32: 8}


def build(**options: object) -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Discriminator(DiscriminatorConfig(32, CHANNELS, **options)).requires_grad_(False)  # type: ignore[arg-type]
    randomise(model)
    return model


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_matches_the_published_formulas(n: int, clamp: float | None) -> None:
    model = build(conv_clamp=clamp)
    x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))
    logits = reference.discriminator(model.state_dict(), x, 32, clamp=clamp)
    torch.testing.assert_close(model(x), logits, atol=1e-4, rtol=1e-4)


def test_a_group_that_does_not_divide_the_batch() -> None:
    """Six samples in groups of four: groups of three, not an error."""
    model = build()
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x), reference.discriminator(model.state_dict(), x, 32, group=3))


def test_statistic_sees_the_other_samples() -> None:
    model = build()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(model(x)[:1], model(x[:1]))
    alone = build(mbstd_channels=0)
    torch.testing.assert_close(alone(x)[:1], alone(x[:1]))


def test_features_halve_down_to_four_pixels() -> None:
    maps = build().features(torch.zeros(2, 3, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(2, 10, 16, 16), (2, 12, 8, 8), (2, 12, 4, 4)]


def test_compiles_whole_and_differentiates_twice() -> None:
    model = build().requires_grad_(True)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3), requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()  # R1
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))


def test_pictures_of_another_size() -> None:
    with pytest.raises(ShapeError, match=r"\[N, 3, 32, 32\]"):
        build()(torch.zeros(1, 3, 64, 64))
