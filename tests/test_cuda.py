"""What is done on a GPU, on a device that refuses what a GPU refuses (``pretend_cuda``)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from pretend_cuda import pretended_cuda
from space_parts import whole
from tiny import attribute_net, distance, tiny_encoder

from refinestyle_hub.editing.discover import find_from_labels, pca, sefa
from refinestyle_hub.evaluation.baselines import pivotal_tuning
from refinestyle_hub.evaluation.domain import MetricNets, evaluate_domain
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended_cuda(monkeypatch):
        yield


@pytest.fixture
def pipe(tiny_pipe: RefineStylePipeline, cuda: None) -> RefineStylePipeline:
    """A pipeline with all parts on the device."""
    made = whole(tiny_pipe)
    made.generator, made.perceptual = copy.deepcopy(made.generator), copy.deepcopy(made.perceptual)
    made.encoder = tiny_encoder(made.generator)
    return made.to("cuda")


def test_the_device_refuses_what_a_gpu_refuses(cuda: None) -> None:
    there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
    assert there.device.type == (there + torch.tensor(1.0)).device.type == "cuda"
    assert there[torch.tensor([0])].shape == (1, 3)
    with pytest.raises(RuntimeError, match="two devices"):
        there + here
    with pytest.raises(RuntimeError, match="two devices"):
        here[there[:, 0] > 0]
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="doubles"):
        there.double()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, generator=torch.Generator(), device="cuda")


def test_inverting_rendering_and_adapting(pipe: RefineStylePipeline) -> None:
    pictures = pipe.generate(range(5), edits={"smile": 1.0}, domains={"ink": 0.5})
    face = pipe.invert(pictures[0], steps=2, w_steps=1, aligned=True)
    style = pipe.adapt(pictures, steps=2, align="none")
    drawn = pipe.render(face, edits={"smile": 1.0}, domains={style: 0.5, "wax": 0.2}, output_type="pt")
    assert face.w_plus.device.type == drawn.device.type == "cuda"


def test_a_face_from_a_file_beside_one_of_the_device(pipe: RefineStylePipeline) -> None:
    (there,) = pipe.invert_crops(torch.zeros(1, 3, 32, 32), steps=0)
    assert there.tokens is not None
    here = replace(there, w_plus=there.w_plus.cpu(), tokens=there.tokens.to("cpu"))
    first, second = pipe.render([there, here], output_type="pt")
    assert distance(first, second) < 1e-5  # a batch may be summed in another order


def test_domains_of_either_device_are_merged(pipe: RefineStylePipeline) -> None:
    ink, wax = pipe.domains["ink"], pipe.domains["wax"]
    merged = pipe.generator.merge({ink: 0.5, wax.to("cuda"): 0.5})
    w_plus = pipe.generator.sample(2, torch.Generator().manual_seed(0))
    refined = pipe.generator(w_plus, TokenSet.mix({ink: 0.5, wax: 0.5}).to("cuda"))
    assert distance(merged(w_plus), refined) < 1e-4


def test_domains_of_either_device_are_mixed_and_compressed(pipe: RefineStylePipeline) -> None:
    """A mix is where its first set is."""
    ink, wax = pipe.domains["ink"], pipe.domains["wax"]
    there = {ink.to("cuda"): 0.5, wax: 0.5}
    mixed, expected = TokenSet.mix(there), TokenSet.mix({ink: 0.5, wax: 0.5})
    short = mixed.compress(1)[0]
    for name, layer in expected.layers.items():
        assert mixed.layers[name].p.device.type == short.layers[name].q.device.type == "cuda"
        assert torch.equal(mixed.layers[name].p.cpu(), layer.p)
    assert next(iter(TokenSet.mix({wax: 0.5, ink.to("cuda"): 0.5}).layers.values())).p.device.type == "cpu"


def test_a_domain_is_evaluated_with_pictures_from_files(pipe: RefineStylePipeline) -> None:
    nets = MetricNets(attribute_net().to("cuda"), pipe.discriminator, pipe.perceptual)
    true = [picture.cpu() for picture in pipe.generate(range(6), output_type="pt")]
    report = evaluate_domain(pipe.generator, pipe.domains["ink"], true, nets, samples=6, faces=0)
    assert report["diversity"]["samples"] == 6
    assert report["attribute_features"]["kernel_x1000"] is not None


def test_pivotal_tuning(pipe: RefineStylePipeline) -> None:
    crop, before = torch.zeros(1, 3, 32, 32, device="cuda"), copy.deepcopy(pipe.generator.state_dict())
    perceptual = pipe.perceptual
    w_plus, tuned = pivotal_tuning(pipe.generator, crop, perceptual=perceptual, pivot_steps=1, tuning_steps=2)
    assert distance(tuned(w_plus), pipe.generator(w_plus)) > 0
    assert all(torch.equal(x, before[name]) for name, x in pipe.generator.state_dict().items())


def test_directions_are_found(pipe: RefineStylePipeline) -> None:
    w = pipe.generator.sample(200, torch.Generator().manual_seed(0))[:, 0]
    found = {**pca(w, 2), **sefa(pipe.generator, k=2), **find_from_labels(w, {"first": w[:, 0]})}
    pipe.directions = pipe.directions.joined(found, pipe.fingerprint)
    assert len(pipe.generate([0], edits=dict.fromkeys(found, 0.5))) == 1
