"""Adaptation as a run: what it reaches, what it leaves alone, and that it can stop and go on anywhere."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapt_parts import QUICK, begin, quiet_generator, references, small_discriminator
from tiny import TINY
from torch import Tensor

from refinestyle_hub.adapt import Adaptation, AdaptSettings, Context, preset
from refinestyle_hub.adapt.domain_terms import Layout, Norm, Reconstruction
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.errors import ConfigError, DivergedError, ShapeError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.losses.perceptual import Perceptual


@pytest.fixture(scope="module")
def generator() -> Generator:
    return quiet_generator()


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    return small_discriminator()


# --- What it reaches ------------------------------------------------------------------------------------------------


def test_samples_take_on_the_style(generator: Generator) -> None:
    """Only the colours count here: those of the samples go more than half of the way to the references'."""
    settings = AdaptSettings(
        batch=2, sliced_features=0, layout=0, between=0, within=0, rate=0.1, colour_rate=0.1, average=0.5
    )
    run = Adaptation(generator, references(), steps=25, settings=settings)
    before = run.preview()
    first = run.step()
    last = run.step(24)
    wanted = references().pictures.mean(dim=(0, 2, 3))
    gaps = [(x.mean(dim=(0, 2, 3)) - wanted).abs().mean() for x in (before, run.preview())]
    assert gaps[1] < 0.5 * gaps[0]
    assert last["sliced_pictures"] < 0.5 * first["sliced_pictures"]
    assert run.best.nearest <= last["distance"]


def test_all_terms_take_part(generator: Generator, discriminator: Discriminator) -> None:
    run = begin(generator, discriminator, steps=4)
    names = {"sliced_pictures", "sliced_features", "layout", "between", "within", "norm", "adversarial"}
    assert set(run.step()) == names
    assert set(run.step(2)) == names | {"discriminator"}  # from a quarter on
    assert run.objective.left_out == []
    domain = run.token_set()
    assert set(domain.layers) == set(generator.layers)
    assert all(bool(x.pre.all()) and x.bias is not None for x in domain.layers.values())
    assert {x.rank for name, x in domain.layers.items() if "conv" in name} == {4}
    assert {x.rank for name, x in domain.layers.items() if "torgb" in name} == {3}


def test_the_discriminator_moves_only_its_coarse_part(generator: Generator, discriminator: Discriminator) -> None:
    run = begin(generator, discriminator, steps=4)
    moving = run.objective.terms[-1].discriminator  # type: ignore[attr-defined]
    before = copy.deepcopy(moving.state_dict())
    run.step(4)
    moved = {name.split(".")[0] for name, t in moving.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {"coarse", "epilogue", "patch"}
    patches = begin(generator, discriminator, settings=replace(QUICK, adversarial=0))
    kept = {name.split(".")[2] for name in patches.state().tensors if name.startswith("term.adversarial.")}
    assert kept == {"patch"}  # what is not used is neither learnt nor remembered


def test_no_steps_draw_the_plain_picture(generator: Generator, discriminator: Discriminator) -> None:
    run = begin(generator, discriminator)
    assert torch.allclose(run.preview(), run.preview(which="plain"), atol=1e-5)


def test_nothing_is_written_into_the_networks(generator: Generator, discriminator: Discriminator) -> None:
    networks = [generator, discriminator]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    flags = [[p.requires_grad for p in network.parameters()] for network in networks]
    chance = torch.get_rng_state()
    begin(generator, discriminator).step(6)
    for network, old, flag in zip(networks, before, flags, strict=True):
        assert all(torch.equal(t, old[name]) for name, t in network.state_dict().items())
        assert [p.requires_grad for p in network.parameters()] == flag
    assert torch.equal(chance, torch.get_rng_state())


def test_a_term_of_ones_own(generator: Generator, discriminator: Discriminator) -> None:
    """Anything with a name, a weight and a call is a term; here one that wants dark pictures."""

    class Dark:
        name, weight = "dark", 2.0
        seen: list[tuple[int, ...]] = []

        def __call__(self, context: Context) -> Tensor:
            self.seen.append(tuple(context.source.shape))
            return context.adapted.mean()

    alone = replace(
        QUICK, sliced_pictures=0, sliced_features=0, layout=0, between=0, within=0, adversarial=0, patches=0
    )
    run = begin(generator, discriminator, steps=8, terms=[Dark()], settings=alone)
    before = run.preview().mean()
    assert set(run.step(8)) == {"dark", "norm", "distance"}
    assert run.preview().mean() < before - 0.05
    assert Dark.seen[0] == (2, 3, 32, 32)
    assert run.token_set().metadata["objectives"]["dark"] == 2.0


def features(*values: float, count: int = 400, seed: int = 0) -> Tensor:
    """Maps [count, 2, 8, 8] of unit noise, whose left and right halves have these means."""
    noise = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return noise + torch.tensor(values).repeat_interleave(8 // len(values))


def layout(adapted: Tensor, source: Tensor, wanted: Tensor, typical: Tensor) -> float:
    context: Any = SimpleNamespace(
        source_features=[source], adapted_features=[adapted], reference_features=[wanted], typical_features=[typical]
    )
    return float(Layout(1.0)(context))


def test_samples_are_moved_as_the_style_moves_the_mean() -> None:
    """Each by the same, from where it is: the move of the left half alone, in deviations."""
    typical, wanted = features(0.0), features(2.0, 0.0, seed=1)
    source = features(0.0, count=2, seed=2)
    assert layout(source + torch.tensor([2.0, 0.0]).repeat_interleave(4), source, wanted, typical) < 0.05
    assert layout(source, source, wanted, typical) == pytest.approx(2.0, rel=0.1)  # half of the places by 2 squared
    assert layout(3 * source, 3 * source, 3 * wanted, 3 * typical) == pytest.approx(2.0, rel=0.1)


def test_what_few_pictures_owe_to_chance_is_no_move() -> None:
    """Five samples of the generator itself differ from its mean by .45 of a deviation, and ask for next to nothing."""
    source, typical = features(0.0, count=2, seed=2), features(0.0)
    few = features(0.0, count=5, seed=3)
    assert float(few.mean(dim=0).square().mean()) > 0.15
    assert layout(source, source, few, typical) < 0.02


def test_a_run_that_diverges_says_so_and_keeps_what_it_reached(
    generator: Generator, discriminator: Discriminator
) -> None:
    class Bursts:
        name, weight = "bursts", 1.0

        def __call__(self, context: Context) -> Tensor:
            return context.adapted.mean() / (0.0 if context.step == 5 else 1.0)

    run = begin(generator, discriminator, steps=8, terms=[Bursts()])
    with pytest.raises(DivergedError, match=r"(?s)step 6 of 8: bursts .*Lower"):
        run.run()
    assert run.done == 5
    kept = run.token_set()
    assert kept.metadata["steps"] == run.best.step > 0
    assert all(bool(tensor.isfinite().all()) for tensor in kept.state_dict().values())


def test_every_step_sees_all_pictures(generator: Generator, discriminator: Discriminator) -> None:
    """Their features are made once, however small the batch is."""

    class Spy:
        name, weight = "spy", 1.0
        seen: list[Any] = []

        def __call__(self, context: Context) -> Tensor:
            self.seen.append(context.reference_features)
            return context.adapted.new_zeros([])

    run = begin(generator, discriminator, terms=[Spy()])
    run.step(2)
    first, second = Spy.seen
    assert first is second
    assert {len(maps) for maps in first} == {5}
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(first, discriminator.features(references().pictures), strict=True)
        )


def test_only_coarse_codes_of_an_inversion_are_redrawn() -> None:
    """The fine ones are a sample's (JoJoGAN): 7 of 18 are kept, for codes of another number the nearest share."""
    drawn: list[Tensor] = []

    def draw(w_plus: Tensor) -> Tensor:
        drawn.append(w_plus)
        return torch.zeros(len(w_plus), 3, 32, 32)

    context: Any = SimpleNamespace(
        inversions=torch.ones(3, 18, 4), w_plus=torch.zeros(4, 18, 4), references=references(3), turn=1, draw=draw,
        features=None,
    )  # fmt: skip
    assert Reconstruction(1.0)(context) > 0
    assert drawn[0].shape == (2, 18, 4)
    assert bool((drawn[0][:, :7] == 1).all())
    assert bool((drawn[0][:, 7:] == 0).all())


# --- With less ------------------------------------------------------------------------------------------------------


def test_without_a_discriminator_it_says_what_is_left_out(generator: Generator) -> None:
    run = begin(generator, None, steps=2)
    assert set(run.step(2)) == {"sliced_pictures", "norm", "distance"}
    assert run.objective.left_out == ["sliced_features", "layout", "between", "within", "adversarial"]
    assert run.token_set().metadata["left_out"] == run.objective.left_out


def test_the_perceptual_network_gives_features_in_its_place(generator: Generator) -> None:
    run = begin(generator, None, steps=1, perceptual=Perceptual.load("st-lpips-alex"))
    assert {"sliced_features", "layout", "between", "within"} <= set(run.step())
    assert run.objective.left_out == ["adversarial"]


def test_one_picture_is_redrawn_from_its_inversion(generator: Generator, discriminator: Discriminator) -> None:
    settings = replace(preset(1), batch=2, inversion_steps=2)
    run = Adaptation(
        generator,
        references(1),
        steps=3,
        settings=settings,
        discriminator=discriminator,
        perceptual=Perceptual.load("st-lpips-alex"),
    )
    assert "reconstruction" in run.step()
    assert run.inversions is not None
    assert run.inversions.shape == (1, TINY.num_ws, TINY.w_dim)
    again = Adaptation(
        generator, references(1), steps=3, settings=settings, discriminator=discriminator, state=run.state()
    )
    assert again.inversions is not None
    assert torch.equal(again.inversions, run.inversions)  # a resumed run does not look for them again


# --- Settings -------------------------------------------------------------------------------------------------------


def test_presets() -> None:
    one, three, many = preset(1), preset(3), preset(20, tokens=8)
    assert one.adversarial == 0  # a verdict on whole pictures would end in copies of the one
    shares = [each.reconstruction / each.sliced_pictures for each in (one, three, many)]
    assert shares[0] > shares[1] > shares[2] == many.reconstruction
    assert not one.layout  # the shape of one head is no style
    assert one.adversarial < three.adversarial < many.adversarial
    assert many.tokens == 8
    for count in (0, 21):
        with pytest.raises(ConfigError, match="1 to 20 pictures"):
            preset(count)


def test_short_runs_have_no_discriminator(generator: Generator, discriminator: Discriminator) -> None:
    """It starts no earlier than after 100 steps, and needs as many; nothing is said to be left out for want of one."""
    assert [AdaptSettings().adversarial_start(n) for n in (1, 199, 200, 400, 1000)] == [1, 1, 0.5, 0.25, 0.25]
    run = begin(generator, discriminator, steps=2, settings=replace(QUICK, discriminator_min_steps=100))
    assert "adversarial" not in run.step(2)
    assert run.objective.left_out == []
    assert "adversarial" not in run.token_set().metadata["objectives"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sliced_pictures": -0.1}, "sliced_pictures must be a finite number of 0 or more, not -0.1"),
        ({"lattice": float("nan")}, "lattice must be a finite number"),
        ({"layout": -1}, "layout must be a finite number of 0 or more"),
        ({"penalty": -1}, "penalty must be a finite number of 0 or more"),
        ({"truncation": -0.5}, "truncation must be a finite number of 0 or more"),
        ({"window": -1}, "window must be a whole number of 0 or more, not -1"),
        ({"frozen_above": -1}, "frozen_above must be a whole number of 0 or more"),
        ({"discriminator_min_steps": -1}, "discriminator_min_steps must be a whole number of 0 or more"),
        ({"mixing": 1.5}, "mixing must be a finite number from 0 to 1, not 1.5"),
        ({"discriminator_start": -0.1}, "discriminator_start must be a finite number from 0 to 1"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaptSettings(**values)


def test_what_cannot_be(generator: Generator, discriminator: Discriminator) -> None:
    with pytest.raises(ConfigError, match="steps"):
        begin(generator, discriminator, steps=0)
    with pytest.raises(ConfigError, match="seed"):
        begin(generator, discriminator, seed=-1)
    with pytest.raises(ConfigError, match="batch"):
        AdaptSettings(batch=1)
    with pytest.raises(ConfigError, match="rates"):
        AdaptSettings(colour_rate=0)
    with pytest.raises(ConfigError, match="Two terms are called 'norm'"):
        begin(generator, discriminator, terms=[Norm(1.0)])
    with pytest.raises(ShapeError, match="32, 32"):
        Adaptation(generator, replace(references(), pictures=torch.zeros(5, 3, 16, 16)))
    with pytest.raises(ShapeError, match="inversions"):
        begin(generator, discriminator, inversions=torch.zeros(5, 2, 2))
    with pytest.raises(ShapeError, match="discriminator is for 16"):
        begin(generator, Discriminator(DiscriminatorConfig(16, channels={4: 8, 8: 8, 16: 8})))
