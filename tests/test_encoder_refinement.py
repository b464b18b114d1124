"""The second stage and its refinement iterations: where they start, what they see, and which gradients they get."""

from __future__ import annotations

import pytest
import torch
from encoder_parts import encoder_for, pictures, taught
from tiny import tiny_generator

from refinestyle_hub.config import EncoderNetwork
from refinestyle_hub.encoder.gradients import FeedbackDistance
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.losses.perceptual import Perceptual


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.mark.parametrize(
    "more", [{}, {"gradient_feedback": True, "num_iters": 2}], ids=["one iteration", "gradient feedback"]
)
@pytest.mark.parametrize("residual", ["post", "pre"])
def test_a_second_stage_that_has_learnt_nothing_draws_what_the_first_draws(
    generator: Generator, residual: str, more: dict[str, object]
) -> None:
    encoder = encoder_for(generator, residual=residual, **more)
    taught(encoder.first)  # type: ignore[arg-type]
    w_plus, tokens = encoder(pictures(), generator, encoder.load_distance())
    assert not torch.equal(w_plus[0], w_plus[1])
    assert torch.equal(w_plus, encoder.codes(pictures()))
    assert torch.equal(generator(w_plus, tokens), generator(w_plus))


def test_a_second_iteration_steps_along_the_gradient_by_q(generator: Generator) -> None:
    encoder = encoder_for(generator, gradient_feedback=True, num_iters=2)
    assert encoder.second is not None
    with torch.no_grad():
        for group in encoder.second.groups:
            for head in group.token_heads:
                head.step_p.rate.bias.fill_(-0.01)
    x = pictures()
    _, tokens = encoder(x, generator, encoder.load_distance())
    generator(encoder.codes(x), tokens).sum().backward()
    for name, p in encoder.second.named_parameters():
        if name.endswith("step_q.rate.bias"):
            assert p.grad is not None
            assert p.grad.any(), name


def test_the_first_of_two_stages_gets_no_gradient_from_the_second(generator: Generator) -> None:
    encoder = taught(encoder_for(generator))
    w_plus, tokens = encoder(pictures(), generator)
    generator(w_plus, tokens).sum().backward()
    assert all(p.grad is None for p in encoder.first.parameters())


def test_the_second_stage_looks_at_what_the_first_one_draws(generator: Generator) -> None:
    encoder = taught(encoder_for(generator))
    other = tiny_generator(seed=5)
    ours, theirs = (encoder(pictures(), g).tokens.own["b8.conv0"].p for g in (generator, other))
    assert not torch.allclose(ours, theirs, atol=1e-4)


def test_each_iteration_continues_from_the_render_before(generator: Generator) -> None:
    encoder = taught(encoder_for(generator, num_iters=3, gradient_feedback=True, layers=("b8.*", "b16.conv0")))
    x, distance = pictures(), encoder.load_distance()
    w_plus, last = encoder(x, generator, distance)
    assert torch.equal(last.own["b8.conv0"].p, encoder(x, generator, distance, num_iters=3).tokens.own["b8.conv0"].p)
    none, one, two = (encoder(x, generator, distance, num_iters=n) for n in (0, 1, 2))
    assert torch.equal(generator(w_plus, none.tokens), generator(w_plus))
    drawings = [generator(w_plus, answer.tokens) for answer in (none, one, two)] + [generator(w_plus, last)]
    for before, after in zip(drawings, drawings[1:], strict=False):
        assert not torch.allclose(before, after, atol=1e-4)
    assert all(answer.tokens.own["b8.conv0"].q.requires_grad for answer in (one, two))


def test_gradient_feedback_needs_the_distance_it_learnt_with(generator: Generator) -> None:
    encoder = encoder_for(generator, gradient_feedback=True)
    with pytest.raises(ConfigError, match="load_distance"):
        encoder(pictures(), generator)
    with pytest.raises(ConfigError, match="not of st-lpips-vgg"):
        encoder(pictures(), generator, FeedbackDistance(Perceptual("st-lpips-vgg")))
    faces = encoder_for(generator, gradient_feedback=True, identity_feedback=0.2)
    with pytest.raises(ConfigError, match=r"a weight of 0\.2, not of 0: pass Encoder\.load_distance"):
        faces(pictures(), generator, encoder.load_distance())


def test_identity_is_a_part_of_the_gradient_feedback() -> None:
    with pytest.raises(ConfigError, match="set gradient_feedback too"):
        EncoderNetwork(identity_feedback=0.2)
    with pytest.raises(ConfigError, match="from 0 to 100, not -1"):
        EncoderNetwork(gradient_feedback=True, identity_feedback=-1.0)


def test_a_second_stage_begins_with_what_the_first_knows_of_pictures(generator: Generator) -> None:
    encoder = taught(encoder_for(generator))
    assert encoder.second is not None
    queries = [group.queries.clone() for group in encoder.second.groups]
    encoder.second.init_from(encoder.first)
    x = pictures()
    blind = torch.cat([x, torch.zeros(2, 6, 32, 32)], dim=1)
    for ours, theirs in zip(encoder.second.backbone(blind), encoder.first.backbone(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    for group, own, first in zip(encoder.second.groups, queries, encoder.first.groups, strict=True):
        assert torch.equal(group.queries, own)
        block, other = group.blocks[0].state_dict(), first.blocks[0].state_dict()
        assert all(torch.equal(block[name], other[name]) for name in block)


def test_a_second_stage_of_few_layers_begins_with_the_blocks_at_its_own_maps(generator: Generator) -> None:
    encoder = taught(encoder_for(generator, layers=("b32.conv*",)))
    assert encoder.second is not None
    encoder.second.init_from(encoder.first)
    (group,) = encoder.second.groups
    (same,) = (first for first in encoder.first.groups if first.level == group.level)
    block, wanted = group.blocks[0].state_dict(), same.blocks[0].state_dict()
    assert all(torch.equal(block[name], wanted[name]) for name in block)
