"""The colours of a style in closed form: the map of colours, its tokens, and runs that begin with them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from adapt_parts import references
from pointwise_generator import pointwise_generator
from test_generator_mobile import tiny as tiny_mobile
from tiny import tiny_generator
from torch import Tensor

from refinestyle_hub.adapt import Adaptation, preset
from refinestyle_hub.adapt.adaptation import PREVIEW_TRUNCATION
from refinestyle_hub.adapt.palette import begin_with_palette, colour_map, end_with_palette
from refinestyle_hub.adapt.sampler import Sampler
from refinestyle_hub.errors import ModelFileError, ShapeError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.tokens.parameters import TokenParameters


def colours(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] -> [3, pixels]."""
    return pictures.transpose(0, 1).flatten(1)


def grey_pictures() -> Tensor:
    """[2, 3, 24, 24] of one hue, so that the covariance has rank one."""
    lightness = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    return torch.cat([lightness, 0.9 * lightness, 0.8 * lightness + 0.1], dim=1)


@pytest.fixture(params=["StyleGAN2", "MobileStyleGAN"])
def generator(request: pytest.FixtureRequest) -> Generator:
    return tiny_generator() if request.param == "StyleGAN2" else tiny_mobile()


@torch.no_grad()
def samples(generator: Generator) -> Tensor:
    return generator(generator.sample(4, torch.Generator().manual_seed(2)))


def fresh(generator: Generator, rank: int = 4, bias: bool = True) -> TokenParameters:
    return TokenParameters(generator.kernel_stats(), rank, "*", "pre", bias=bias, rng=torch.Generator().manual_seed(0))


def hues(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] -> [2, pixels]: differences of the three colours, which have no lightness."""
    red, green, blue = colours(pictures)
    return torch.stack([red - blue, red + blue - 2 * green])


def recoloured(matrix: Tensor, offset: Tensor, pictures: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix, pictures) + offset[:, None, None]


def test_mapped_hues_have_mean_and_covariance_of_the_others_and_lightness_stays() -> None:
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    y = grey_pictures()
    matrix, offset = colour_map(x, y)
    mapped = recoloured(matrix, offset, x)
    torch.testing.assert_close(hues(mapped).mean(dim=1), hues(y).mean(dim=1), rtol=0, atol=1e-5)
    # as near as the addition to flat sets lets them come
    torch.testing.assert_close(hues(mapped).cov(), hues(y).cov(), rtol=0, atol=1e-3)
    torch.testing.assert_close(mapped.mean(dim=1), x.mean(dim=1), rtol=0, atol=1e-5)
    # dark and bright have the hues that they have there; only the first of the two hues tells them apart
    found, wanted = (
        float(torch.corrcoef(torch.stack([colours(one).mean(dim=0), hues(one)[0]]))[0, 1]) for one in (mapped, y)
    )
    assert abs(wanted) > 0.99
    assert found == pytest.approx(wanted, abs=0.05)  # as near as the addition to flat sets lets it come


def test_the_same_colours_stay_and_flat_ones_have_a_map() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    matrix, offset = colour_map(x, x)
    torch.testing.assert_close(matrix, torch.eye(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(offset, torch.zeros(3), rtol=0, atol=1e-5)
    flat = torch.full((1, 3, 4, 4), 0.3)
    for a, b in ((flat, x), (x, flat)):
        matrix, offset = colour_map(a, b)
        assert matrix.isfinite().all()
        found = hues(recoloured(matrix, offset, a)).mean(dim=1)
        torch.testing.assert_close(found, hues(b).mean(dim=1), rtol=0, atol=1e-5)


def test_hues_are_drawn_apart_no_further_than_is_asked() -> None:
    """Their mean, and how it follows lightness, are those of the others all the same."""
    rng = torch.Generator().manual_seed(0)
    grey = torch.rand(3, 1, 16, 16, generator=rng) - 0.5
    x = grey + 0.05 * torch.randn(3, 3, 16, 16, generator=rng)
    y = grey + 0.2 * torch.randn(3, 3, 16, 16, generator=rng) + torch.tensor([0.2, 0.0, -0.2])[:, None, None]
    free, held = (hues(recoloured(*colour_map(x, y, widest), x)) for widest in (math.inf, 1.0))
    assert bool((free.std(dim=1) > 2 * hues(x).std(dim=1)).all())
    assert bool((held.std(dim=1) < 1.1 * hues(x).std(dim=1)).all())
    torch.testing.assert_close(held.mean(dim=1), hues(y).mean(dim=1), rtol=0, atol=1e-4)


def test_tokens_draw_the_mapped_colours_exactly(generator: Generator) -> None:
    plain, wanted = samples(generator), grey_pictures()
    parameters = fresh(generator)
    begin_with_palette(parameters, generator, plain, wanted)
    with torch.no_grad():
        codes = generator.sample(4, torch.Generator().manual_seed(2))
        found = generator(codes, parameters.token_set())
    matrix, offset = colour_map(plain, wanted)
    expected = recoloured(matrix, offset, plain)
    # the finest details of a wavelet keep their colours: both are compared in the mean of 2 x 2 pixels
    torch.testing.assert_close(F.avg_pool2d(found, 2), F.avg_pool2d(expected, 2), rtol=0, atol=1e-4)
    assert (expected - plain).abs().max() > 0.1


def test_what_was_learnt_is_recoloured_with_the_rest(generator: Generator) -> None:
    """Tokens of all layers count, not the kernels of toRGB alone."""
    parameters, wanted = fresh(generator, 2), grey_pictures()
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for leaf in parameters.parameters():
            leaf.add_(0.2 * torch.randn(leaf.shape, generator=rng))
        tokens = parameters.token_set().detach()
        codes = generator.sample(4, torch.Generator().manual_seed(2))
        before = generator(codes, tokens)
        found = end_with_palette(tokens, generator, before, wanted)
        after = generator(codes, found)
    expected = recoloured(*colour_map(before, wanted, 1.0), before)
    torch.testing.assert_close(F.avg_pool2d(after, 2), F.avg_pool2d(expected, 2), rtol=0, atol=1e-3)
    assert (before - after).abs().max() > 0.1
    assert set(found.layers) == set(tokens.layers)


def test_no_offset_comes_where_none_was_learnt(generator: Generator) -> None:
    tokens = fresh(generator, 1, bias=False).token_set().detach()
    found = end_with_palette(tokens, generator, samples(generator), grey_pictures())
    assert all(layer.bias is None for layer in found.layers.values())
    some = tokens.select("*.conv*")
    assert end_with_palette(some, generator, samples(generator), grey_pictures()).layers == some.layers


@pytest.mark.parametrize("bias", [False, True])
def test_the_change_stands_beside_what_is_learnt(generator: Generator, bias: bool) -> None:
    """Whatever T is. Without bias offsets the mean hue stays where the kernel has it."""
    plain, wanted = samples(generator), grey_pictures()
    parameters = fresh(generator, 1, bias=bias)
    leaves = {name: leaf.shape for name, leaf in parameters.named_parameters()}
    begin_with_palette(parameters, generator, plain, wanted)
    assert {name: leaf.shape for name, leaf in parameters.named_parameters()} == leaves
    changes = generator.recoloured(*colour_map(plain, wanted))
    assert {name.rpartition(".")[0] for name, t in parameters.fixed().items() if len(t)} == set(changes)
    for name, (change, _) in changes.items():
        tokens = parameters.token_set().detach().layers[name]
        torch.testing.assert_close(tokens.p.mT @ tokens.q, change, rtol=0, atol=1e-4 * float(change.norm()))
        assert tokens.rank == 3  # one that is learnt, and two
        assert (tokens.bias is not None) == bias


def test_fixed_tokens_of_other_sizes_or_layers_are_refused(generator: Generator) -> None:
    parameters = fresh(generator)
    begin_with_palette(parameters, generator, samples(generator), grey_pictures())
    found = parameters.fixed()
    name = next(name for name, t in found.items() if len(t)).rpartition(".")[0]
    for part, wrong in (("p", found[f"{name}.p"][:, 1:]), ("q", found[f"{name}.q"][1:])):
        with pytest.raises(ShapeError, match=f"{name} are"):
            fresh(generator).fix({**found, f"{name}.{part}": wrong})
    for half in ("p", "q"):
        with pytest.raises(KeyError, match=rf"{name}\.{half}"):
            fresh(generator).fix({key: t for key, t in found.items() if key != f"{name}.{half}"})
    for names in ({}, {**found, "b8.other.p": found[f"{name}.p"]}):
        with pytest.raises(KeyError, match="missing or unexpected"):
            fresh(generator).fix(names)


def test_layers_without_tokens_stay(generator: Generator) -> None:
    parameters = TokenParameters(generator.kernel_stats(), 2, "*.conv*", "pre", bias=True)
    before = {name: value.clone() for name, value in parameters.state_dict().items()}
    begin_with_palette(parameters, generator, samples(generator), grey_pictures())
    assert all(torch.equal(value, before[name]) for name, value in parameters.state_dict().items())


def test_a_run_begins_with_the_colours(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first step, and only where its settings ask for it."""
    side, pictures = generator.config.resolution, references()
    pictures = replace(pictures, pictures=F.interpolate(pictures.pictures, (side, side)))
    codes = generator.sample(len(pictures), torch.Generator().manual_seed(3))
    wanted, far = hues(pictures.pictures).mean(dim=1), []
    for palette in (False, True):
        settings = replace(preset(5, with_discriminator=False), palette=palette)
        run = Adaptation(
            generator, pictures, steps=2, settings=settings, inversions=codes,
            perceptual=Perceptual.load("st-lpips-alex"),
        )  # fmt: skip
        far.append(float((hues(run.preview(16)).mean(dim=1) - wanted).abs().mean()))
    assert preset(5, with_discriminator=False).palette
    fixed = {name: t.clone() for name, t in run.parameters.fixed().items()}
    run.step()
    assert any(len(t) for t in fixed.values())
    assert all(torch.equal(t, fixed[name]) for name, t in run.parameters.fixed().items())
    with monkeypatch.context() as patch:
        patch.delattr(Sampler, "palette_samples")  # one that goes on draws nothing for it
        further = Adaptation(
            generator, pictures, steps=2, settings=settings, inversions=codes, perceptual=run.perceptual,
            state=run.state(),
        )  # fmt: skip
    torch.testing.assert_close(further.preview(2), run.preview(2), rtol=0, atol=0)
    state = run.state()
    for lost in ("fixed.", f"fixed.{next(name for name, t in fixed.items() if len(t))}"):
        left = {name: t for name, t in state.tensors.items() if not name.startswith(lost)}
        with pytest.raises(ModelFileError, match="damaged"):
            Adaptation(
                generator, pictures, steps=2, settings=settings, inversions=codes, perceptual=run.perceptual,
                state=replace(state, tensors=left),
            )  # fmt: skip
    assert far[1] < 0.7 * far[0]  # not all: random weights draw much outside [-1, 1], which is clamped


@pytest.mark.parametrize("palette", [False, True])
def test_a_run_ends_with_the_colours(generator: Generator, palette: bool) -> None:
    """Steps move them, here far on purpose; what is kept has them again, and so has its preview."""
    side, pictures = generator.config.resolution, references()
    pictures = replace(pictures, pictures=F.interpolate(pictures.pictures, (side, side)))
    quick = replace(preset(5, with_discriminator=False), palette=palette, rate=0.05, sliced_pictures=0.0)
    run = Adaptation(
        generator, pictures, steps=4, settings=quick, perceptual=Perceptual.load("st-lpips-alex"),
        inversions=generator.sample(len(pictures), torch.Generator().manual_seed(3)),
    )  # fmt: skip
    run.run()
    moved = run._result(run.best.tokens).detach()
    before, after = (run.sampler.palette_samples(tokens) for tokens in (moved, run.token_set()))
    if palette:
        wanted = end_with_palette(moved, run.generator, before, pictures.pixels)
        assert torch.equal(after, run.sampler.palette_samples(wanted))
        assert (before - after).abs().mean() > 0.01
    else:
        assert torch.equal(before, after)
    shown, drawn = run.preview(4, which="best"), run.sampler.fixed_samples(run.token_set(), 4, PREVIEW_TRUNCATION)
    torch.testing.assert_close(shown, drawn, rtol=0, atol=0)


def test_a_generator_that_cannot_tell_begins_as_it_is() -> None:
    generator = pointwise_generator()
    parameters = fresh(generator)
    begin_with_palette(parameters, generator, samples(generator), grey_pictures())
    assert all(not tokens.p.any() for tokens in parameters.token_set().layers.values())
