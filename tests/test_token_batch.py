"""What a batch holds; that it draws what its sets draw is tested with the generator."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import TINY, tiny_generator, token_set

from refinestyle_hub.config import Fingerprint
from refinestyle_hub.errors import BaseMismatchError, ConfigError, ShapeError
from refinestyle_hub.tokens.batch import TokenBatch, strengths
from refinestyle_hub.tokens.token_set import TokenSet


def test_pads_to_the_largest() -> None:
    rows = [token_set(0, 2), None, [(token_set(1, 3), 0.5), (token_set(2, 2, "full"), 1.0)]]
    batch = TokenBatch.collate(rows)
    assert len(batch) == 3
    assert {x.p.shape[1] for x in batch.own.values()} == {5}
    assert batch.own["b8.conv0"].q.shape == (3, 5, 12, 3, 3)


def test_layers_are_those_of_any_sample() -> None:
    batch = TokenBatch.collate([token_set(0, layers="b8"), token_set(1, layers="torgb", bias=True)])
    assert set(batch.own) == {n for n in (s.name for s in TINY.layers) if "b8" in n or "torgb" in n}
    x = batch.own["b4.torgb"]
    assert not x.p[0].any()
    assert x.bias is not None
    assert not x.bias[0].any()
    assert batch.own["b8.conv0"].bias is None


def test_unbind_gives_the_sets_back() -> None:
    sets = [token_set(i, 2, "full", "mixed", bias=True) for i in range(3)]
    base = Fingerprint("a", "0" * 32, ())
    for ours, theirs in zip(TokenBatch.collate(sets).unbind(base), sets, strict=True):
        assert ours.base == base
        state = theirs.state_dict()
        assert all(torch.equal(ours.state_dict()[key], x) for key, x in state.items())


def test_gradients_reach_sets_and_strengths() -> None:
    tokens, strength = token_set(), torch.tensor(0.5, requires_grad=True)
    leaf = tokens.layers["b8.conv0"].p.requires_grad_()
    batch = TokenBatch.collate([None, [(tokens, strength)]])
    batch.own["b8.conv0"].p.square().sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 0.5 * leaf.detach())
    torch.testing.assert_close(strength.grad, leaf.detach().square().sum())


def test_active() -> None:
    tokens = token_set()
    learnt = torch.zeros(2, requires_grad=True)
    assert not TokenBatch.collate([None, [(tokens, 0.0)]], shared=[(tokens, [0.0, 0.0])]).active
    assert TokenBatch.collate([None, tokens]).active
    assert TokenBatch.collate([None, None], shared=[(tokens, [0.0, -1.0])]).active
    assert TokenBatch.collate([None, None], shared=[(tokens, learnt)]).active


def test_sets_and_strengths_that_do_not_fit() -> None:
    a, b = (TokenSet(token_set(i).layers, Fingerprint("a", str(i) * 32, ())) for i in range(2))
    with pytest.raises(BaseMismatchError):
        TokenBatch.collate([a, None], shared=[(b, 1.0)])
    with pytest.raises(ShapeError, match="3 strengths for a batch of 2"):
        TokenBatch.collate([a, None], shared=[(a, [1.0, 2.0, 3.0])])


@pytest.mark.parametrize("strength", [math.nan, [0.0, math.inf], torch.tensor([math.nan, 1.0]), None, "x", ["x", 1]])
def test_strengths_are_finite_numbers(strength: Any) -> None:
    """Else the pictures would be black, or plain, without a word."""
    tokens, generator = token_set(), tiny_generator()
    with pytest.raises(ConfigError, match="finite number"):
        strengths(strength, 2)
    with pytest.raises(ConfigError, match="finite number"):
        TokenBatch.collate([None, None], shared=[(tokens, strength)])
    with pytest.raises(ConfigError, match="finite number"):
        generator(generator.map(torch.zeros(2, TINY.z_dim)), tokens, strength)
    if not isinstance(strength, (list, torch.Tensor)):
        with pytest.raises(ConfigError, match="finite number"):
            TokenBatch.collate([[(tokens, strength)], None])
