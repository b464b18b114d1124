"""The bundled model, wherever the package is installed: this file is also run against the built wheel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import refinestyle_hub
from refinestyle_hub import Generator, RefineStylePipeline
from refinestyle_hub.editing.directions import Directions, apply


NAME = "mini-faces-128"


def test_the_bundled_model_draws() -> None:
    pipe = RefineStylePipeline.from_pretrained(NAME)
    (picture,) = pipe.generate(seeds=[0], truncation=0.7)
    assert picture.size == (128, 128)
    assert np.asarray(picture).std() > 20  # not a flat picture


def test_the_bundled_generator_is_small_and_public() -> None:
    generator = Generator.from_pretrained(NAME, subfolder="generator")
    assert sum(p.numel() for p in generator.parameters()) < 8e6
    folder = Path(refinestyle_hub.__file__).parent / "pretrained"
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 80e6
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".md", ".png"}


@pytest.mark.parametrize(("name", "least"), [(NAME, 13), ("ffhq-1024", 18)])
def test_bundled_directions_say_their_groups_and_ends(name: str, least: int) -> None:
    directions = Directions.from_pretrained(name)  # without the generator, which may have to be fetched
    assert len(directions) >= least
    for direction in directions.values():
        info = direction.info
        assert info.group in ("Expression", "Person", "Hair", "Pose and light")
        assert info.negative != info.positive
        assert 0 < direction.vector.norm(dim=1).max() < 30
        assert -3 <= info.limits[0] < 0 < info.limits[1] <= 3


def test_the_bundled_directions_move_the_picture() -> None:
    pipe = RefineStylePipeline.from_pretrained(NAME)
    w = pipe.generator.map(torch.randn(2, 256, generator=torch.Generator().manual_seed(0)), 0.7)
    with torch.no_grad():
        plain = pipe.generator(w)
        for name in pipe.directions:
            assert (pipe.generator(apply(w, {name: 2.0}, pipe.directions)) - plain).abs().mean() > 0.005, name


def test_the_bundled_encoder_reads_what_the_generator_draws() -> None:
    pipe = RefineStylePipeline.from_pretrained(NAME)
    if pipe.encoder is None:
        pytest.skip("no encoder is bundled yet")
    assert sum(p.numel() for p in pipe.encoder.parameters()) < 8e6
    folder = Path(refinestyle_hub.__file__).parent / "pretrained" / NAME / "encoder"
    assert (folder / "model.fp16.safetensors").stat().st_size < 16e6
    w = pipe.generator.map(torch.randn(8, 256, generator=torch.Generator().manual_seed(0)), 0.7)
    with torch.no_grad():
        drawn = pipe.generator(w).clamp(-1, 1)
        w_plus, tokens = pipe.encoder(drawn, pipe.generator, pipe.encoder.load_distance())
        errors = [
            float((pipe.generator(*answer).clamp(-1, 1) - drawn).square().mean())
            for answer in ((pipe.generator.mean_latent.expand_as(w),), (w_plus,), (w_plus, tokens))
        ]
    assert errors[1] < 0.6 * errors[0]  # w+ alone, against the mean face
    assert errors[2] < errors[1] or not tokens.own  # it may know w+ alone
