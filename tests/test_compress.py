from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import dense, token_set

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.tokens.token_set import TokenSet


CONFIG = StyleGAN2Config(8, 8, 8, 1, {4: 10, 8: 9})


def make(seed: int, rank: int, spatial: str, residual: str = "post") -> TokenSet:
    return token_set(seed, rank, spatial, residual, bias=True, config=CONFIG)


def parts(tokens: TokenSet, layer: str) -> list[torch.Tensor]:
    """dW of the post tokens and of the pre tokens, which do not stand for each other."""
    x = tokens.layers[layer]
    state = x.tensors()
    found = []
    for flag in (False, True):
        picked = {k: v if k == "bias" else v[x.pre == flag] for k, v in state.items()}
        found.append(dense(TokenSet.from_state_dict({f"{layer}.{k}": v for k, v in picked.items()}), layer))
    return found


def measured(tokens: TokenSet, short: TokenSet, layer: str) -> float:
    old, new = torch.stack(parts(tokens, layer)), torch.stack(parts(short, layer))
    return float((old - new).norm() / old.norm())


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(2, 5),
    st.integers(1, 5),
    st.sampled_from(["broadcast", "full", "scaled"]),
    st.sampled_from(["post", "mixed"]),
)
def test_error_is_what_the_report_says(seed: int, rank: int, wanted: int, spatial: str, residual: str) -> None:
    tokens = make(seed, rank, spatial, residual)
    short, report = tokens.compress(wanted)
    assert report.keys() == tokens.layers.keys()
    for layer, error in report.items():
        assert short.layers[layer].rank <= wanted
        assert measured(tokens, short, layer) == pytest.approx(error, abs=2e-6)
        assert torch.equal(short.layers[layer].bias, tokens.layers[layer].bias)  # type: ignore[arg-type]
        assert short.layers[layer].spatial == tokens.layers[layer].spatial


@pytest.mark.parametrize("spatial", ["broadcast", "full", "scaled"])
def test_exact_where_the_rank_suffices(spatial: str) -> None:
    a = make(0, 2, spatial, "mixed")
    b = make(1, 1, spatial, "pre")
    mix = TokenSet.mix([(a, 1.0), (b, 0.5), (a, -0.3), (b, 2.0)])  # six tokens, three of them independent
    short, report = mix.compress(3)
    assert max(report.values()) < 1e-6
    assert all(x.rank == 3 for x in short.layers.values())
    assert max(measured(mix, short, layer) for layer in report) < 2e-6


@pytest.mark.parametrize("spatial", ["broadcast", "full"])
def test_no_rank_does_better(spatial: str) -> None:
    """Eckart and Young: the error is that of the singular values left out."""
    tokens = make(2, 5, spatial)
    short, report = tokens.compress(2)
    values = torch.linalg.svdvals(dense(tokens, "b8.conv0").double().flatten(1))
    assert report["b8.conv0"] == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)
    assert 0.05 < report["b8.conv0"] < 1
    assert short.layers["b8.conv0"].p.dtype == torch.float32


def test_scaled_is_better_than_dropping_tokens() -> None:
    tokens = make(3, 4, "scaled")
    _, report = tokens.compress(3)
    for layer in ("b4.conv1", "b8.conv0", "b8.conv1"):
        x = tokens.layers[layer]
        whole = dense(tokens, layer)
        each = [x.p[t, :, None, None, None] * x.q[t, :, None, None] * x.a[t] for t in range(4)]  # type: ignore[index]
        assert report[layer] < min(float(one.norm()) for one in each) / float(whole.norm()) + 1e-3


def test_short_sets_stay_as_they_are() -> None:
    tokens = make(4, 3, "scaled")
    short, report = tokens.compress(3)
    assert set(report.values()) == {0.0}
    assert all(torch.equal(x.p, tokens.layers[name].p) for name, x in short.layers.items())


@pytest.mark.parametrize("rank", [0, -1])
def test_at_least_one_token(rank: int) -> None:
    with pytest.raises(ConfigError, match="rank must be a whole number of 1 or more"):
        make(4, 3, "scaled").compress(rank)


def test_silent_tokens() -> None:
    silent, report = make(5, 4, "scaled").scale(0.0).compress(2)
    assert set(report.values()) == {0.0}
    assert all(torch.isfinite(t).all() for x in silent.layers.values() for t in x.tensors().values())
