from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import token_set
from torch import Tensor

from refinestyle_hub.config import Fingerprint, StyleGAN2Config
from refinestyle_hub.errors import BaseMismatchError, ConfigError, LayerError, ModelFileError, ShapeError
from refinestyle_hub.tokens.layer_tokens import LayerTokens
from refinestyle_hub.tokens.token_set import TokenSet


SPATIAL = ["broadcast", "scaled", "full"]
CONFIG = StyleGAN2Config(8, 8, 8, 1, {4: 6, 8: 5})
LAYERS = [spec.name for spec in CONFIG.layers]


def make(seed: int = 0, rank: int = 3, spatial: str = "scaled", residual: str = "post", **options: Any) -> TokenSet:
    return token_set(seed, rank, spatial, residual, config=CONFIG, **options)


def dense(tokens: TokenSet, layer: str, size: bool = False) -> Tensor:
    """dW straight from its definition, fp64; with ``size``, the sum of the terms' magnitudes."""
    if layer not in tokens.layers:
        spec = next(spec for spec in CONFIG.layers if spec.name == layer)
        return torch.zeros(spec.outputs, spec.inputs, spec.kernel, spec.kernel, dtype=torch.float64)
    x, kernel = tokens.layers[layer], 1 if "torgb" in layer else 3
    q = x.q.double() if x.q.ndim == 4 else x.q.double()[:, :, None, None]
    a = torch.ones(1, kernel, kernel).double() if x.a is None else x.a.double()
    terms = x.p.double()[:, :, None, None, None] * (q * a[:, None])[:, None]
    return (terms.abs() if size else terms).sum(dim=0)


def assert_sum(mix: TokenSet, terms: list[tuple[TokenSet, float]]) -> None:
    for layer in LAYERS:
        wanted = sum(strength * dense(tokens, layer) for tokens, strength in terms)
        sizes = sum(abs(strength) * dense(tokens, layer, size=True) for tokens, strength in terms) + 1e-12
        assert ((dense(mix, layer) - wanted).abs() / sizes).max() < 1e-6, layer


kinds = st.tuples(
    st.integers(0, 9), st.integers(1, 4), st.sampled_from(SPATIAL), st.sampled_from(["post", "pre", "mixed"])
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(kinds, st.floats(-2, 2)), min_size=1, max_size=4))
def test_mix_is_exact(terms: list[tuple[tuple[int, int, str, str], float]]) -> None:
    sets = [(make(*kind), strength) for kind, strength in terms]
    assert_sum(TokenSet.mix(sets), sets)
    assert_sum(TokenSet.mix(dict(sets)), sets)


@settings(max_examples=20, deadline=None)
@given(kinds, kinds, st.floats(0, 1))
def test_lerp_on_the_kernels(one: tuple[int, int, str, str], other: tuple[int, int, str, str], t: float) -> None:
    a, b = make(*one), make(*other)
    assert_sum(a.lerp(b, t), [(a, 1 - t), (b, t)])
    assert a.lerp(b, 0.0) is a
    assert a.lerp(b, 1.0) is b


def test_mix_of_one_set_is_that_set() -> None:
    a = make()
    assert TokenSet.mix({a: 1.0}) is a
    assert TokenSet.mix([(a, 1), (make(1), 0.0)]) is a
    assert not TokenSet.mix({a: 0.0}).layers


def test_sum_and_scale_carry_biases() -> None:
    a, b = make(0, bias=True), make(1, bias=True)
    both = a + b.scale(-0.5)
    assert_sum(both, [(a, 1), (b, -0.5)])
    for name in LAYERS:
        offset = a.layers[name].bias - 0.5 * b.layers[name].bias  # type: ignore[operator]
        torch.testing.assert_close(both.layers[name].bias, offset)
        plain = make(2).layers[name]
        kept = (a + make(2)).layers[name]
        assert plain.bias is None
        torch.testing.assert_close(kept.bias, a.layers[name].bias)


def test_ranks_add_and_tokens_keep_their_entry() -> None:
    both = make(0, 2, residual="pre") + make(1, 3, residual="post")
    x = both.layers["b8.conv0"]
    assert x.rank == 5
    assert x.pre.tolist() == [True, True, False, False, False]


def test_strength_by_layer() -> None:
    a = make(bias=True)
    asked = {"b8.*": 0.5, "b8.torgb": -1.0}
    scaled = a.scale(asked)
    assert asked == {"b8.*": 0.5, "b8.torgb": -1.0}
    factors = {"b4.conv1": 1.0, "b4.torgb": 1.0, "b8.conv0": 0.5, "b8.conv1": 0.5, "b8.torgb": -1.0}
    for name, factor in factors.items():
        assert torch.equal(scaled.layers[name].p, a.layers[name].p * factor)
        assert torch.equal(scaled.layers[name].bias, a.layers[name].bias * factor)  # type: ignore[arg-type, operator]


def test_select() -> None:
    a = make()
    assert list(a.select(["b8.conv?", "b4.torgb"]).layers) == ["b4.torgb", "b8.conv0", "b8.conv1"]
    assert list(a.select("*").layers) == LAYERS
    assert a.select("b4.*").layers["b4.conv1"] is a.layers["b4.conv1"]


@pytest.mark.parametrize("name", ["b16.conv0", "conv0", "b8.conv[23]"])
def test_unknown_layers(name: str) -> None:
    for attempt in (make().select, lambda n: make().scale({n: 1.0})):
        with pytest.raises(LayerError, match=r"No layer matches .*b4\.conv1"):
            attempt(name)


def test_sets_of_different_generators() -> None:
    one, other = Fingerprint("a", "1" * 32, ()), Fingerprint("a", "2" * 32, ())
    a, b = make(0), make(1)
    a, b = TokenSet(a.layers, one), TokenSet(b.layers, other)
    for attempt in (lambda: a + b, lambda: TokenSet.mix({a: 1.0, b: 0.0})):
        with pytest.raises(BaseMismatchError, match="do not mix"):
            attempt()
    assert (a + make(2)).base == one
    wide = token_set(config=StyleGAN2Config(8, 8, 8, 1, {4: 6, 8: 4}))
    with pytest.raises(BaseMismatchError, match="6 -> 5, 6 -> 4"):
        make() + wide


def test_sets_of_a_generator_and_of_its_descendant_mix() -> None:
    old, new = Fingerprint("a", "1" * 32, ()), Fingerprint("a", "2" * 32, ("1" * 32,))
    sibling = Fingerprint("a", "3" * 32, ("1" * 32,))
    a, b, c = (TokenSet(make(n).layers, base) for n, base in enumerate((old, new, sibling)))
    assert (a + b).base == (b + a).base == new
    assert TokenSet.mix({a: 0.5, b: 0.0}).base == new
    with pytest.raises(BaseMismatchError, match="do not mix"):
        b + c


def test_only_sets_are_mixed() -> None:
    """A pipeline takes names of domains; the algebra knows none."""
    a = make(1)
    for ask in (lambda: TokenSet.mix({"oil": 1.0}), lambda: a.lerp("oil", 0.5), lambda: a + None):  # type: ignore
        with pytest.raises(ConfigError, match=r"Token sets are mixed, not ('oil'|None)\. A pipeline's own are"):
            ask()


def test_a_mix_remembers_what_it_was_made_of() -> None:
    a, b = (replace(make(n), metadata={"name": name, "pictures": 3}) for n, name in enumerate("ab"))
    assert TokenSet.mix({a: 0.5, b: 0.0}).metadata == a.metadata
    assert (a + b).metadata == {"mixed_from": [a.metadata, b.metadata]}
    assert a.lerp(b, 0.3).metadata == (a + b).metadata
    assert (a + make(3)).metadata == {"mixed_from": [a.metadata]}
    assert (make(3) + make(4)).metadata == {}


@pytest.mark.parametrize("strength", [math.nan, math.inf, torch.tensor(math.nan), None, "x", [1.0]])
def test_a_strength_is_a_finite_number(strength: Any) -> None:
    a, b = make(0), make(1)
    for attempt in (
        lambda: TokenSet.mix({a: strength, b: 1.0}),
        lambda: a.scale(strength),
        lambda: a.scale({"*": strength}),
        lambda: a.lerp(b, strength),
    ):
        with pytest.raises(ConfigError, match="finite number"):
            attempt()


@pytest.mark.parametrize("spatial", SPATIAL)
def test_sizes(spatial: str) -> None:
    a = make(0, 4, spatial, bias=True)
    taps = {spec.name: spec.kernel**2 for spec in CONFIG.layers}
    values = 0
    for spec in CONFIG.layers:
        q = spec.inputs * (taps[spec.name] if spatial == "full" else 1)
        values += 4 * (spec.outputs + q + (taps[spec.name] if spatial == "scaled" else 0)) + spec.outputs
    assert a.num_values == values
    assert a.nbytes == 4 * values + 4 * len(LAYERS)  # and a byte for each flag
    assert a.to(dtype=torch.float16).nbytes == 2 * values + 4 * len(LAYERS)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_state_dict_comes_back(spatial: str) -> None:
    a = make(0, 2, spatial, "mixed", bias=True)
    state = a.state_dict()
    assert ("b8.conv0.a" in state) == (spatial == "scaled")
    assert state["b8.conv0.pre"].dtype == torch.bool
    for b in (TokenSet.from_state_dict(state), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert b.state_dict().keys() == state.keys()
        assert all(torch.equal(b.state_dict()[key], x) for key, x in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("b8.conv0.q"), r"lacks b8\.conv0\.q"),
        (lambda s: s.update({"b8.conv0.r": torch.zeros(1)}), "is not a tensor of a token set"),
        (lambda s: s.update({"p": torch.zeros(1, 1)}), "is not a tensor of a token set"),
        (lambda s: s.update({"b8.conv0.q": torch.zeros(2, 5)}), r"b8\.conv0: Tokens do not fit together"),
        (lambda s: s.update({"b8.conv0.pre": torch.zeros(3)}), r"pre \[3\] torch\.float32"),
    ],
)
def test_damaged_state(change: Any, message: str) -> None:
    state = make().state_dict()
    change(state)
    with pytest.raises(ModelFileError, match=message):
        TokenSet.from_state_dict(state)


@pytest.mark.parametrize(
    ("p", "q", "a", "pre", "bias"),
    [
        ((2, 4), (3, 5), None, (2,), None),
        ((2, 4), (2, 5), (3, 3, 3), (2,), None),
        ((2, 4), (2, 5, 3, 3), (2, 3, 3), (2,), None),
        ((2, 4), (2, 5), None, (1,), None),
        ((2, 4), (2, 5), None, (2,), (5,)),
        ((2, 4), (2,), None, (2,), None),
    ],
)
def test_tokens_that_do_not_fit_together(p: Any, q: Any, a: Any, pre: Any, bias: Any) -> None:
    parts = [None if shape is None else torch.zeros(shape) for shape in (p, q, a, bias)]
    with pytest.raises(ShapeError, match="Expected P"):
        LayerTokens(parts[0], parts[1], parts[2], torch.zeros(pre, dtype=torch.bool), parts[3])  # type: ignore[arg-type]


def test_is_a_value() -> None:
    a = make()
    with pytest.raises(AttributeError):
        a.layers = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        a.layers["b4.conv1"] = a.layers["b8.conv0"]  # type: ignore[index]
    assert a != make()  # by identity, so that sets can be keys
    leaf = a.layers["b4.conv1"].p.requires_grad_()
    kept = a.detach()
    leaf.data.zero_()
    assert kept.layers["b4.conv1"].p.abs().sum() > 0
    assert not kept.layers["b4.conv1"].p.requires_grad
