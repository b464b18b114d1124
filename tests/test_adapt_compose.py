"""Domains together: with inverted faces and edits, several at once, other mixes in each sample, films, merges."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from tiny import TINY, tiny_generator, token_set
from torch import Tensor

from refinestyle_hub.editing.directions import Direction, Directions
from refinestyle_hub.errors import BaseMismatchError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture(scope="module")
def domains(generator: Generator) -> dict[str, TokenSet]:
    """As an adaptation makes them: pre-modulation, toRGB and biases too."""
    base = generator.fingerprint()
    return {
        name: replace(token_set(seed, residual="pre", bias=True).scale(0.5), base=base)
        for seed, name in enumerate(("sketch", "bronze"), 10)
    }


@pytest.fixture(scope="module")
def pipe(generator: Generator, domains: dict[str, TokenSet]) -> RefineStylePipeline:
    vector = torch.randn(1, TINY.w_dim, generator=torch.Generator().manual_seed(3))
    return RefineStylePipeline(
        generator, None, Directions({"smile": Direction(vector)}, generator.fingerprint()), domains
    )


@pytest.fixture(scope="module")
def faces(generator: Generator) -> list[Inversion]:
    w = generator.map(torch.randn(3, TINY.z_dim, generator=torch.Generator().manual_seed(1)))
    return [
        Inversion(w[n], replace(token_set(n, rank=n + 1), base=generator.fingerprint()), base=generator.fingerprint())
        for n in range(3)
    ]


def near(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() < 1e-4)


@torch.no_grad()
def test_faces_edits_and_a_mix_for_each_sample_in_one_batch(
    pipe: RefineStylePipeline, faces: list[Inversion], domains: dict[str, TokenSet], generator: Generator
) -> None:
    """Against each face by itself, its tokens and domains summed by hand; strengths are any real numbers."""
    edits = {"smile": torch.tensor([0.0, 1.5, -2.0])}
    mixes = {"sketch": [1.3, -0.4, 0.0], "bronze": [0.0, 0.6, 1.0]}
    together = pipe.render(faces, edits=edits, domains=mixes, output_type="pt")
    for n, face in enumerate(faces):
        assert face.tokens is not None
        whole = TokenSet.mix(
            [(face.tokens, 1.0), *((domains[name], strengths[n]) for name, strengths in mixes.items())]
        )
        w = face.w_plus + edits["smile"][n] * pipe.directions["smile"].vector
        assert near(together[n], generator(w[None], whole)[0].clamp(-1, 1))
    plain = pipe.render(faces, output_type="pt")
    assert (together - plain).abs().mean() > 0.05


@torch.no_grad()
def test_a_domain_on_one_sample_leaves_the_others_alone(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    plain = pipe.render(faces, output_type="pt")
    one = pipe.render(faces, domains={"sketch": [0.0, 1.0, 0.0]}, output_type="pt")
    assert near(one[[0, 2]], plain[[0, 2]])
    assert not near(one[1], plain[1])


@torch.no_grad()
def test_a_film_from_one_domain_to_another(
    pipe: RefineStylePipeline, domains: dict[str, TokenSet], generator: Generator
) -> None:
    first, last = domains["sketch"], domains["bronze"]
    frames = [pipe.generate([4], domains={first.lerp(last, t): 1.0}, output_type="pt") for t in (0, 0.25, 0.5, 1)]
    assert near(frames[0], pipe.generate([4], domains={"sketch": 1.0}, output_type="pt"))
    assert near(frames[-1], pipe.generate([4], domains={"bronze": 1.0}, output_type="pt"))
    assert near(frames[1], pipe.generate([4], domains={"sketch": 0.75, "bronze": 0.25}, output_type="pt"))
    assert not near(frames[1], frames[2])


@torch.no_grad()
def test_a_mix_merged_into_a_plain_generator_draws_the_same(
    pipe: RefineStylePipeline, faces: list[Inversion], domains: dict[str, TokenSet], generator: Generator
) -> None:
    """Also under an inverted face: its post-modulation tokens and the merged kernels add."""
    merged = generator.merge({domains["sketch"]: 0.7, domains["bronze"]: 0.4})
    wanted = pipe.render(faces, domains={"sketch": 0.7, "bronze": 0.4}, output_type="pt")
    w_plus = torch.stack([face.w_plus for face in faces])
    assert near(merged(w_plus, [face.tokens for face in faces]).clamp(-1, 1), wanted)


def test_a_domain_runs_on_a_generator_fine_tuned_from_its_base(
    generator: Generator, domains: dict[str, TokenSet]
) -> None:
    config = replace(TINY, parents=(generator.fingerprint().digest,))
    tuned = StyleGAN2Generator.from_state(config, {name: t * 1.01 for name, t in generator.state_dict().items()})
    pipe = RefineStylePipeline(tuned.requires_grad_(False))
    with pytest.warns(UserWarning, match="a relative of this generator"):
        adapted = pipe.generate([0], domains={domains["sketch"]: 1.0}, output_type="pt")
    assert not near(adapted, pipe.generate([0], output_type="pt"))


@torch.no_grad()
@pytest.mark.parametrize("related", [True, False])
def test_domains_of_the_base_meet_faces_and_domains_of_its_descendant(
    generator: Generator, domains: dict[str, TokenSet], related: bool
) -> None:
    """Unrelated weights are taken where the pipeline is told so."""
    config = replace(TINY, parents=(generator.fingerprint().digest,) if related else ())
    tuned = StyleGAN2Generator.from_state(config, {name: t * 1.01 for name, t in generator.state_dict().items()})
    pipe = RefineStylePipeline(tuned.requires_grad_(False), allow_base_mismatch=not related)
    own = replace(token_set(3, residual="pre"), base=tuned.fingerprint())
    face = Inversion(tuned.map(torch.zeros(1, TINY.z_dim))[0], replace(token_set(0), base=own.base), base=own.base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = pipe.render(face, domains={domains["sketch"]: 0.5, own: 1.0}, output_type="pt")
    assert face.tokens is not None
    alike = [replace(tokens, base=None) for tokens in (face.tokens, domains["sketch"].scale(0.5), own)]
    assert near(drawn, tuned(face.w_plus[None], alike[0] + alike[1] + alike[2])[0].clamp(-1, 1))


def test_tokens_of_other_weights_are_not_merged(generator: Generator, domains: dict[str, TokenSet]) -> None:
    other = tiny_generator(5)
    with pytest.raises(BaseMismatchError, match="other weights"):
        other.merge(domains["sketch"])
    assert other.merge(domains["sketch"], allow_base_mismatch=True).config.parents == (other.fingerprint().digest,)
