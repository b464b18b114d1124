"""Adaptation of a generator that has no discriminator: pictures and their inversions say what became of what."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from adapt_parts import references
from pointwise_generator import pointwise_generator

from refinestyle_hub.adapt import Adaptation, AdaptState, Context, References, adaptation, few_shot_adaptation, preset
from refinestyle_hub.adapt.domain_terms import Lattice
from refinestyle_hub.adapt.settings import AdaptSettings
from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.losses.perceptual import Perceptual


@pytest.fixture(scope="module")
def generator() -> Generator:
    return pointwise_generator()


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual.load("st-lpips-alex")


def begin(
    generator: Generator,
    perceptual: Perceptual,
    steps: int = 4,
    state: AdaptState | None = None,
    settings: AdaptSettings | None = None,
) -> Adaptation:
    """By the shipped settings, from pictures whose w+ are known."""
    pictures = references()
    codes = generator.sample(len(pictures), torch.Generator().manual_seed(3))
    return Adaptation(
        generator, pictures, steps=steps, settings=settings, perceptual=perceptual, inversions=codes, state=state
    )


def test_nothing_is_left_out(generator: Generator, perceptual: Perceptual) -> None:
    """Pictures are redrawn at every other step; samples are compared with them at those between."""
    run = begin(generator, perceptual, steps=3)
    assert set(run.step()) == {"reconstruction", "norm"}
    assert set(run.step()) == {"sliced_features", "within", "sliced_pictures", "lattice", "norm"}
    assert set(run.step()) == {"reconstruction", "norm", "distance"}
    assert run.objective.left_out == []
    assert run.settings == preset(5, with_discriminator=False)


def test_more_tokens_learn_slower() -> None:
    """T tokens at one rate would change a kernel by the root of T as much: with 16 of them people dissolved."""
    one, four, sixteen = (preset(5, tokens, with_discriminator=False) for tokens in (1, 4, 16))
    for name in ("rate", "colour_rate"):
        assert getattr(one, name) == 2 * getattr(four, name) == 4 * getattr(sixteen, name) > 0
    with pytest.raises(ConfigError, match="tokens"):
        preset(5, 0, with_discriminator=False)


def test_coarse_layers_learn_slower_than_fine_ones(generator: Generator, perceptual: Perceptual) -> None:
    """They draw the person, fine ones the strokes. toRGB keeps its own rate, and all do elsewhere."""
    s = preset(5, with_discriminator=False)
    layers = StyleGAN2Config(resolution=256).layers
    specs = {(layer.role, layer.resolution): layer for layer in layers}
    ratios = [s.rate_of(specs["conv", side], "p") / s.rate for side in (4, 32, 64, 128, 256)]
    assert ratios == [0.5, 0.5, 1, 1, 2]
    assert s.rate_of(specs["conv", 256], "bias") == 2 * s.colour_rate
    assert {s.rate_of(specs["rgb", side], "p") for side in (4, 256)} == {s.colour_rate}
    assert {preset(5).rate_of(layer, "p") for layer in layers if layer.role == "conv"} == {preset(5).rate}
    run = begin(generator, perceptual)
    assert {group["lr"] for group in run.adam.param_groups} == {
        run.settings.rate_of(spec, name)
        for spec, layer in zip(run.parameters.specs, run.parameters.layers, strict=True)
        for name, _ in layer.named_parameters()
    }


def test_its_samples_take_on_the_style(generator: Generator, perceptual: Perceptual) -> None:
    """Colours of the samples go most of the way to those of the pictures, at rates for a run that takes seconds."""
    # four cells are all that 32 px have: what they share is the picture
    quick = replace(preset(5, with_discriminator=False), rate=0.03, colour_rate=0.1, average=0.5, lattice=0.0)
    run = begin(generator, perceptual, steps=30, settings=quick)
    wanted = references().pictures.mean(dim=(0, 2, 3))
    before = (run.preview(which="plain").mean(dim=(0, 2, 3)) - wanted).abs().mean()
    run.run()
    after = (run.preview(which="best").mean(dim=(0, 2, 3)) - wanted).abs().mean()
    assert after < 0.4 * before


class Checks:
    """A style whose pixels are bright and dark by turns."""

    name, weight = "checks", 5.0

    def __call__(self, context: Context) -> torch.Tensor:
        return -checks(context.adapted)


def checks(pictures: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.meshgrid(*[torch.arange(pictures.shape[-1])] * 2, indexing="ij")
    return (pictures * (1 - 2 * ((rows + columns) % 2))).mean()


@pytest.mark.parametrize("weight", [0.0, 1000.0])
def test_no_weave_comes_over_the_picture(generator: Generator, perceptual: Perceptual, weight: float) -> None:
    """The bias of the colours, which are four pixels each, can draw checks; the term ``lattice`` holds it back."""
    settings = replace(
        preset(5, with_discriminator=False), lattice=weight, alternate=False, colour_rate=0.1, average=0.5
    )
    codes = generator.sample(5, torch.Generator().manual_seed(3))
    run = Adaptation(
        generator, references(), steps=12, settings=settings, perceptual=perceptual, inversions=codes, terms=[Checks()]
    )
    run.step(12)
    before, after = (float(checks(run.preview(which=which))) for which in ("plain", "now"))
    assert (after - before < 0.02) == bool(weight), (before, after)


def test_a_weave_is_what_all_cells_share() -> None:
    """A pattern of any period up to 16 px counts by its square; colours, and what is in one place alone, do not."""
    lattice = Lattice(1.0)
    plain = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for period in (2, 4, 8, 16):
        stripes = 0.1 * torch.where(torch.arange(64) % period < period // 2, 1.0, -1.0)
        woven = SimpleNamespace(source=plain, adapted=plain + stripes)
        assert float(lattice(cast(Context, woven))) == pytest.approx(0.01, rel=1e-4)
    spot = torch.zeros(64, 64)
    spot[3, 5] = 0.1  # one of 16 cells: its mean square is 16^2 times smaller, over 256 pixels of the cell
    for other, most in ((plain + 0.5, 1e-10), (plain + spot, 2e-7)):
        assert float(lattice(cast(Context, SimpleNamespace(source=plain, adapted=other)))) < most


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
    assert run.settings == preset(3, tokens=2, with_discriminator=False)
    assert run.steps == 60
    assert run.settings.batch == 1
    with pytest.raises(ConfigError, match="batch"):
        replace(run.settings, between=0.3)


def test_a_step_sees_the_same_window_of_everything(perceptual: Perceptual) -> None:
    """Of a few references, of their inversions and of the samples; another one at the next step."""
    generator = pointwise_generator(resolution=512)
    pictures = torch.linspace(-1, 1, 512).expand(5, 3, 512, 512)  # columns say where a window lies
    style = References(pictures, tuple("abcde"), (False,) * 5)
    codes = generator.sample(5, torch.Generator().manual_seed(3))
    run = Adaptation(generator, style, steps=4, perceptual=perceptual, inversions=codes)
    seen = [run.sampler.context(step, 4, run.parameters, codes) for step in (0, 1)]
    lefts = [int((context.references.pictures[0, 0, 0, 0] + 1) / 2 * 511 + 0.5) for context in seen]
    assert lefts[0] != lefts[1]
    for context, left in zip(seen, lefts, strict=True):
        assert context.references.pictures.shape == (3, 3, 384, 384)
        whole = generator(context.w_plus)
        windows = whole[..., left : left + 384].unfold(2, 384, 1).movedim(2, 0)  # [129, N, 3, 384 columns, 384 rows]
        assert any(torch.equal(rows.mT, context.source) for rows in windows)
        assert context.adapted.shape == (1, 3, 384, 384)
        assert context.inversions is not None
        names = [style.names.index(name) for name in context.references.names]
        assert torch.equal(context.inversions, codes[names])


def test_every_third_turn_sees_whole_pictures(perceptual: Perceptual) -> None:
    """Of two steps each. Reconstruction comes to all pictures there, even if their number is a multiple of three."""
    generator = pointwise_generator(resolution=512)
    style = References(torch.zeros(3, 3, 512, 512), tuple("abc"), (False,) * 3)
    codes = generator.sample(3, torch.Generator().manual_seed(3))
    run = Adaptation(generator, style, steps=18, perceptual=perceptual, inversions=codes)
    seen = [run.sampler.context(step, 18, run.parameters, codes) for step in range(18)]
    assert [context.references.pictures.shape[-1] for context in seen] == [384, 384, 384, 384, 512, 512] * 3
    whole = [context for context in seen if context.references is run.references]
    assert [context.turn for context in whole] == [0, 0, 1, 1, 2, 2]
    assert run.settings.round_steps == 6


def test_the_result_goes_on_as_the_average_went(generator: Generator, perceptual: Perceptual) -> None:
    """In convolutions, their offsets too. Colours are where the average has them, and previews show the same."""
    run = begin(generator, perceptual)
    run.step(4)
    average, found = run.best.tokens.token_set(), run.token_set()
    assert run.settings.reach == 1.2
    for spec in run.parameters.specs:
        factor = 1.2 if spec.role == "conv" else 1.0
        before, after = average.layers[spec.name], found.layers[spec.name]
        assert torch.equal(after.p[: before.rank], before.p * factor)
        assert after.bias is not None
        assert before.bias is not None
        if spec.role == "conv":
            assert torch.equal(after.bias, before.bias * factor)
    drawn = run.sampler.fixed_samples(found, 2, 0.7)
    assert torch.equal(run.preview(2, which="best"), drawn)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_each_picture_is_redrawn_in_its_turn(generator: Generator, perceptual: Perceptual, count: int) -> None:
    """An even number of them as well, although only even steps redraw one."""
    codes, steps, drawn = generator.sample(count, torch.Generator().manual_seed(3)), 2 * count, []
    run = Adaptation(generator, references(count), steps=steps, perceptual=perceptual, inversions=codes)

    def draw(w_plus: torch.Tensor) -> torch.Tensor:
        drawn.extend(w_plus[:, 0])
        return generator(w_plus)

    for step in range(0, steps, 2):
        run.objective(replace(run.sampler.context(step, steps, run.parameters, codes), draw=draw))
    assert len(drawn) == count
    assert all(any(torch.equal(code[0], one) for one in drawn) for code in codes)


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


def test_a_trial_counts_the_measurements(
    generator: Generator, perceptual: Perceptual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps of 1 s and measurements of 3 s, after every fourth step and after the last."""
    clock = [0.0]
    monkeypatch.setattr(adaptation, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    quick = replace(preset(5, with_discriminator=False), check_every=4)
    for steps, checks in ((3, 1), (8, 2), (10, 3)):
        run = begin(generator, perceptual, steps=steps, settings=quick)
        monkeypatch.setattr(run, "_gradients", lambda step: clock.append(clock.pop() + 1.0))
        monkeypatch.setattr(run, "_distance", lambda tokens: clock.append(clock.pop() + 3.0))
        assert run.seconds_left() == steps + 3 * checks
        run.done, run.seconds = (
            2,
            1.0,
        )  # stopped so early that neither whole pictures nor a measurement were among them
        assert run.seconds_left() == steps - 2 + 3 * checks
    run.done, run.seconds = 8, 14.0
    assert run.seconds_left() == 2 * 14.0 / 8


def test_a_trial_tells_the_time_and_changes_nothing(generator: Generator, perceptual: Perceptual) -> None:
    run, other = begin(generator, perceptual), begin(generator, perceptual)
    with torch.no_grad():  # where a caller draws pictures
        assert run.seconds_left() > 0
    run.step(4), other.step(4)
    assert run.seconds_left() == 0
    for name, layer in run.token_set().layers.items():
        assert torch.equal(layer.p, other.token_set().layers[name].p)
