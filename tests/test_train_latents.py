"""w+ codes with style mixing."""

from __future__ import annotations

import torch
from tiny import tiny_generator

from refinestyle_hub.train.latents import mixed_latents


def rngs(n: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(first, first + n)]


def test_mixing_takes_a_second_code_from_some_layer_on() -> None:
    generator = tiny_generator()
    plain = mixed_latents(generator, rngs(6), 0.0)
    assert plain.shape == (6, generator.num_ws, generator.config.w_dim)
    assert (plain == plain[:, :1]).all()
    mixed = mixed_latents(generator, rngs(6), 1.0)
    changes = (mixed[:, 1:] != mixed[:, :-1]).any(2).sum(1)
    assert changes.tolist() == [1] * 6
    assert torch.equal(mixed[:, 0], plain[:, 0])
    some = mixed_latents(generator, rngs(200), 0.3)
    assert 0.2 < float((some[:, 0] != some[:, -1]).any(1).float().mean()) < 0.4


def test_a_sample_follows_from_its_own_source() -> None:
    generator = tiny_generator()
    together = mixed_latents(generator, rngs(4), 0.5)
    torch.testing.assert_close(mixed_latents(generator, rngs(2, first=2), 0.5), together[2:])
    rng = torch.Generator().manual_seed(3)
    shared = mixed_latents(generator, [rng] * 3, 0.5)  # one source for a batch: samples differ
    assert not torch.equal(shared[0], shared[1])
