"""Adaptation of a generator that has no discriminator: pictures and their inversions say what became of what."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from adapt_parts import references
from pointwise_generator import pointwise_generator
from torch import Tensor

from refinestyle_hub.adapt import Adaptation, AdaptState, References, few_shot_adaptation, preset
from refinestyle_hub.adapt.objectives import Details
from refinestyle_hub.adapt.settings import AdaptSettings
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.losses.perceptual import Perceptual


@pytest.fixture(scope="module")
def generator() -> Generator:
    return pointwise_generator()


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual.load("st-lpips-alex")


def begin(generator: Generator, perceptual: Perceptual, steps: int = 4, state: AdaptState | None = None) -> Adaptation:
    """By the shipped settings, from pictures whose w+ are known."""
    pictures = references()
    codes = generator.sample(len(pictures), torch.Generator().manual_seed(3))
    return Adaptation(generator, pictures, steps=steps, perceptual=perceptual, inversions=codes, state=state)


def test_nothing_is_left_out(generator: Generator, perceptual: Perceptual) -> None:
    run = begin(generator, perceptual, steps=1)
    features = {"sliced_features", "details", "within"}
    assert features | {"sliced_pictures", "reconstruction", "norm", "distance"} == set(run.step())
    assert run.left_out == []
    assert run.settings == preset(5, judged=False)


def test_its_samples_take_on_the_style(generator: Generator, perceptual: Perceptual) -> None:
    """Colours of the samples go most of the way to those of the pictures in a run that takes seconds."""
    run = begin(generator, perceptual, steps=40)
    wanted = references().pictures.mean(dim=(0, 2, 3))
    before = (run.preview(which="plain").mean(dim=(0, 2, 3)) - wanted).abs().mean()
    run.run()
    after = (run.preview(which="best").mean(dim=(0, 2, 3)) - wanted).abs().mean()
    assert after < 0.4 * before


def test_it_stops_and_goes_on(generator: Generator, perceptual: Perceptual) -> None:
    whole, first = begin(generator, perceptual), begin(generator, perceptual)
    whole.step(4)
    first.step(2)
    again = begin(generator, perceptual, state=first.state())
    again.step(2)
    for name, layer in whole.token_set().layers.items():
        assert torch.equal(layer.p, again.token_set().layers[name].p)


def test_a_generator_is_taken_as_it_comes(generator: Generator, perceptual: Perceptual) -> None:
    """Without a discriminator, an encoder or a number of steps; one sample a step needs no other beside it."""
    run = few_shot_adaptation(generator, references(3), lambda: perceptual, tokens=2)
    assert run.settings == preset(3, tokens=2, judged=False)
    assert run.steps == 120
    assert run.settings.batch == 1
    with pytest.raises(ConfigError, match="batch"):
        replace(run.settings, between=0.3)


def test_details_are_those_of_full_resolution(perceptual: Perceptual) -> None:
    """Grain that vanishes in smaller pictures counts; where in a square it lies does not."""

    def context(pictures: Tensor, style: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            adapted=pictures,
            references=References(style, ("a",) * len(style), (False,) * len(style)),
            features=perceptual.embed,
            rng=torch.Generator().manual_seed(0),
        )

    rng = torch.Generator().manual_seed(1)
    grain = torch.randn(2, 3, 512, 512, generator=rng) * 0.3
    other = torch.randn(1, 3, 512, 512, generator=rng) * 0.3
    smooth = F.interpolate(F.avg_pool2d(grain, 4), scale_factor=4.0)
    same, different = (float(Details(1.0)(context(x, grain))) for x in (other, smooth[:1]))  # type: ignore[arg-type]
    assert same < 0.2 * different


def test_large_pictures_are_looked_at_in_small(perceptual: Perceptual) -> None:
    """Previews and whole pictures are of 256 px at most, and no more is drawn at once than memory has room for."""
    generator = pointwise_generator(resolution=512)
    style = References(torch.zeros(1, 3, 512, 512), ("a",), (False,))
    run = Adaptation(generator, style, steps=1, settings=AdaptSettings(), perceptual=perceptual)
    assert run.preview(2).shape == (2, 3, 256, 256)
    assert style.small.shape == (1, 3, 256, 256)
    assert run.sampler.at_once == 4
    whole = run.sampler.fixed_samples(None, 5, 0.7)
    assert whole.shape == (5, 3, 512, 512)
    assert torch.allclose(F.avg_pool2d(whole, 2)[:2], run.preview(2, which="plain"), atol=1e-5)


def test_a_trial_tells_the_time_and_changes_nothing(generator: Generator, perceptual: Perceptual) -> None:
    run, other = begin(generator, perceptual), begin(generator, perceptual)
    assert run.seconds_left() > 0
    run.step(4), other.step(4)
    assert run.seconds_left() == 0
    for name, layer in run.token_set().layers.items():
        assert torch.equal(layer.p, other.token_set().layers[name].p)
