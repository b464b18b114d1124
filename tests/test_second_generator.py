"""Another network behind the interface of generators: nothing outside ``generators`` knows which one it holds."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pointwise_generator import PointwiseGenerator, pointwise_generator
from tiny import tiny_generator, token_set
from torch import Tensor

from refinestyle_hub.adapt import References
from refinestyle_hub.cards.facts import Card
from refinestyle_hub.cards.metadata import check
from refinestyle_hub.cards.rendering import render
from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import BaseMismatchError, ConfigError, ModelFileError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


SMALL = {"widths": (4, 4, 4, 4), "width": 16, "depth": 1, "heads": 2, "rank": 4}


@pytest.fixture(scope="module")
def generator() -> PointwiseGenerator:
    return pointwise_generator()


@pytest.fixture(scope="module")
def w_plus(generator: PointwiseGenerator) -> Tensor:
    return generator.sample(3, torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual.load("st-lpips-alex")


def tokens_for(generator: Generator, residual: str = "pre", seed: int = 0) -> TokenSet:
    return replace(token_set(seed, residual=residual, config=generator.config), base=generator.fingerprint())  # type: ignore[arg-type]


def pipeline(generator: Generator, perceptual: Perceptual, **parts: object) -> RefineStylePipeline:
    pipe = RefineStylePipeline(generator, **parts)  # type: ignore[arg-type]
    pipe.perceptual = perceptual
    return pipe


def test_tokens_enter_and_merge_exactly(generator: PointwiseGenerator, w_plus: Tensor) -> None:
    tokens = tokens_for(generator)
    plain, refined = generator(w_plus), generator(w_plus, tokens, 0.7)
    assert plain.shape == (3, 3, 32, 32)
    assert torch.equal(generator(w_plus, tokens, 0.0), plain)
    assert float((refined - plain).abs().mean()) > 0.01
    merged = generator.merge(tokens, 0.7)
    assert isinstance(merged, PointwiseGenerator)
    torch.testing.assert_close(merged(w_plus), refined)
    torch.testing.assert_close(generator(w_plus, resolution=4), torch.nn.functional.avg_pool2d(plain, 8))
    for size in (3, 64, 0):
        with pytest.raises(ConfigError, match="resolution must be 32 over a power of two"):
            generator(w_plus, resolution=size)


def test_a_pointwise_layer_has_no_more_tokens_than_outputs(generator: PointwiseGenerator, w_plus: Tensor) -> None:
    parameters = TokenParameters(generator.kernel_stats(), 20, "*", rng=torch.Generator().manual_seed(0))
    fresh = parameters.token_set()
    assert [x.rank for x in fresh.layers.values()] == [16, 16, 16, 16, 16, 12]
    assert torch.equal(generator(w_plus, fresh), generator(w_plus))
    assert float(parameters.residual_norm().detach().max()) < 1e-5


def test_files_say_which_generator_they_hold(generator: PointwiseGenerator, w_plus: Tensor, tmp_path: Path) -> None:
    generator.save_pretrained(tmp_path / "generator")
    loaded = Generator.from_pretrained(tmp_path)
    assert isinstance(loaded, PointwiseGenerator)
    assert loaded.fingerprint() == generator.fingerprint()
    assert torch.equal(loaded(w_plus), generator(w_plus))
    with pytest.raises(ModelFileError, match="of class 'PointwiseGenerator', not 'StyleGAN2Generator'"):
        StyleGAN2Generator.from_pretrained(tmp_path)
    text = render(tmp_path / "generator", Card(license="mit"), "me/points")
    check(text)
    assert "A Pointwise generator" in text
    assert f"| Fingerprint | `{generator.fingerprint().digest}` |" in text
    assert "| w+ | 6 x 8 |" in text


def test_faces_are_inverted_and_rendered(
    generator: PointwiseGenerator, w_plus: Tensor, perceptual: Perceptual
) -> None:
    crops = generator(w_plus[:1]).clamp(-1, 1)
    pipe = pipeline(generator, perceptual)
    found, quick = (pipe.invert_crops(crops, steps=steps, w_steps=steps // 2)[0] for steps in (80, 2))
    assert found.tokens is not None
    assert found.report["mse"] < 0.7 * quick.report["mse"]
    error = (pipe.render(found, output_type="pt") - crops).square().mean()
    assert float(error) == pytest.approx(found.report["mse"], rel=1e-3)


def test_an_encoder_reads_for_it(generator: PointwiseGenerator, w_plus: Tensor, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder.for_generator(generator, layers=("*",), **SMALL).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    codes, tokens = Encoder.from_pretrained(tmp_path)(generator(w_plus), generator)
    torch.testing.assert_close(codes, generator.mean_latent.expand_as(codes))
    assert {name: x.rank for name, x in tokens.own.items()} == dict.fromkeys(generator.layers, 4)
    assert generator(codes, tokens).shape == (3, 3, 32, 32)


def test_domains_are_learnt_for_it(generator: PointwiseGenerator, w_plus: Tensor, perceptual: Perceptual) -> None:
    style = -generator(generator.sample(3, torch.Generator().manual_seed(7))).clamp(-1, 1)
    references = References(style, tuple("abc"), (False,) * 3)
    domain = pipeline(generator, perceptual).adapt(references, steps=3, tokens=2)
    assert domain.base == generator.fingerprint()
    assert float((generator(w_plus, domain) - generator(w_plus)).abs().max()) > 0


# --- One mapping network, two syntheses


@pytest.fixture(scope="module")
def other(generator: PointwiseGenerator) -> StyleGAN2Generator:
    """A StyleGAN2 of twice the size, with ten codes, in the same latent space."""
    other = tiny_generator(config=StyleGAN2Config(64, 8, 8, 2, {4: 8, 8: 8, 16: 8, 32: 4, 64: 4}))
    assert isinstance(other, StyleGAN2Generator)
    other.mapping = copy.deepcopy(generator.mapping)
    return other


def test_a_latent_space_is_shared_and_weights_are_not(
    generator: PointwiseGenerator, other: StyleGAN2Generator, perceptual: Perceptual, w_plus: Tensor
) -> None:
    base = generator.fingerprint()
    rng = torch.Generator().manual_seed(0)
    vectors = {"one": torch.randn(1, 8, generator=rng), "each": torch.randn(6, 8, generator=rng)}
    infos = {"one": DirectionInfo(layers=(1, 3)), "each": DirectionInfo(codes=6)}
    directions = Directions({name: Direction(vectors[name], infos[name]) for name in vectors}, base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder.for_generator(generator, **SMALL).eval()
    with pytest.warns(UserWarning, match="same mapping network") as told:
        pipe = pipeline(other, perceptual, directions=directions, encoder=encoder)
    assert [str(one.message).split(" was ")[0] for one in told] == ["The set of directions", "The encoder"]
    (found,) = pipe.invert_crops(torch.zeros(1, 3, 64, 64), steps=0)
    assert found.tokens is None
    torch.testing.assert_close(found.w_plus, generator.mean_latent.expand(10, 8))

    face = Inversion(w_plus[0], base=base)
    with pytest.warns(UserWarning, match="The inversion was made for .* same mapping network"):
        edited = pipe.render(face, edits={"one": 1.0, "each": -0.5}, output_type="pt")
    rows = [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    codes = w_plus[0][rows] - 0.5 * vectors["each"][rows]
    codes[1:3] += vectors["one"]
    torch.testing.assert_close(edited, other(codes[None]).clamp(-1, 1)[0])

    with pytest.warns(match="The inversion"), pytest.raises(BaseMismatchError, match="another architecture"):
        pipe.render(face, domains={tokens_for(generator): 1.0})  # type: ignore[dict-item]
    with pytest.raises(BaseMismatchError, match="another architecture"):
        pipe.render(replace(face, tokens=tokens_for(generator)))
    stranger = replace(base, digest="0" * 32, latent_space="1" * len(base.latent_space))
    with pytest.raises(BaseMismatchError, match="another architecture"):
        pipeline(other, perceptual, directions=Directions({}, stranger))


def test_a_smaller_generator_leaves_out_what_moves_finer_layers(
    generator: PointwiseGenerator, other: StyleGAN2Generator, perceptual: Perceptual
) -> None:
    long = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    fine = Direction(long[:1], DirectionInfo(layers=(7, 10)))
    middle = Direction(long[:1], DirectionInfo(layers=(2, 10)))
    found = {"each": Direction(long, DirectionInfo(codes=10, layers=(1, 9))), "fine": fine, "middle": middle}
    with pytest.warns(UserWarning, match="same mapping network"):
        pipe = pipeline(generator, perceptual, directions=Directions(found, other.fingerprint()))
    assert sorted(pipe.directions) == ["each", "middle"]
    assert torch.equal(pipe.directions["each"].offset(6), long[:6] * torch.tensor([0.0, 1, 1, 1, 1, 1])[:, None])
    assert pipe.directions["middle"].info.layers == (2, 6)


def test_its_own_parts_come_without_a_warning(generator: PointwiseGenerator, perceptual: Perceptual) -> None:
    own = Directions({"one": Direction(torch.ones(1, 8))}, generator.fingerprint())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(generator, perceptual, directions=own, encoder=Encoder.for_generator(generator, **SMALL))
