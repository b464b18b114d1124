"""Where w+ codes of a training step come from."""

from __future__ import annotations

import torch
from tiny import tiny_generator

from refinestyle_hub.train import latents


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_mixing_takes_a_second_code_from_some_layer_on() -> None:
    generator = tiny_generator()
    plain = latents.prior(generator, 6, 0.0, rng())
    assert plain.shape == (6, generator.config.num_layers, generator.config.w_dim)
    assert (plain == plain[:, :1]).all()
    mixed = latents.prior(generator, 6, 1.0, rng())
    changes = (mixed[:, 1:] != mixed[:, :-1]).any(2).sum(1)
    assert changes.tolist() == [1] * 6
    assert torch.equal(mixed[:, 0], plain[:, 0])


def test_anchors_fill_what_their_scene_leaves_open() -> None:
    generator = tiny_generator()
    codes = torch.randn(5, 7, generator=rng())
    w = latents.of_anchors(generator, codes, rng())
    again = latents.of_anchors(generator, codes, torch.Generator().manual_seed(4))
    assert w.shape == (5, generator.config.num_layers, generator.config.w_dim)
    assert not torch.equal(w, again)
    assert torch.equal(w, latents.of_anchors(generator, codes, rng()))
