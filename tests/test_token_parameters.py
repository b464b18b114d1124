from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from tiny import TINY, dense, tiny_generator, token_set

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import BaseMismatchError, ConfigError, LayerError
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


def build(**options: Any) -> TokenParameters:
    return TokenParameters(tiny_generator().kernel_stats(), rng=torch.Generator().manual_seed(0), **options)


def unit(parameters: TokenParameters) -> TokenParameters:
    """P at plus or minus 1: every token at its full size."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in parameters.named_parameters():
            if name.endswith(".p"):
                x.copy_(torch.randn(x.shape, generator=rng).sign())
    return parameters


@pytest.mark.parametrize("spatial", ["scaled", "broadcast", "full"])
@pytest.mark.parametrize("residual", ["pre", "post"])
def test_starts_plain_with_a_gradient(spatial: str, residual: str) -> None:
    generator = tiny_generator()
    w = generator.map(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    parameters = build(layers="*", spatial=spatial, residual=residual, bias=True)
    picture = generator(w, parameters.token_set())
    torch.testing.assert_close(picture, generator(w), atol=1e-5, rtol=1e-5)
    picture.square().sum().backward()
    for name, x in parameters.named_parameters():
        assert x.grad is not None
        if name.endswith((".p", ".bias")):
            assert x.grad.abs().sum() > 0, name


@pytest.mark.parametrize("spatial", ["scaled", "broadcast", "full"])
@pytest.mark.parametrize("residual", ["pre", "post"])
def test_unit_tokens_change_every_layer_alike(spatial: str, residual: str) -> None:
    """Four independent tokens at unit P: about sqrt(4) of the kernel's norm, whatever the layer's own size."""
    generator = tiny_generator()
    for i, name in enumerate(generator.layers):
        generator.layer(name).weight.mul_(10.0 ** (i % 5 - 2))
    torch.manual_seed(0)
    stats = generator.kernel_stats()
    parameters = TokenParameters(stats, 4, "*.conv*", residual, spatial, rng=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    norms = unit(parameters).residual_norm()
    assert norms.min() > 1.0
    assert norms.max() < 4.0


@pytest.mark.parametrize("residual", ["pre", "post"])
def test_residual_norm_is_that_of_the_kernels(residual: Literal["pre", "post"]) -> None:
    generator = tiny_generator()
    stats = generator.kernel_stats()
    parameters = unit(build(rank=3, layers="*", residual=residual))
    tokens = parameters.token_set()
    for name, norm in zip(parameters.names, parameters.residual_norm(), strict=True):
        style = generator.layer(name).style(generator.mean_latent[None])[0][:, None, None]
        torch.testing.assert_close(stats[name].norm, (generator.layer(name).weight * style).norm())
        residual_kernel = dense(tokens, name) * (style if residual == "pre" else 1)
        torch.testing.assert_close(norm, residual_kernel.norm() / stats[name].norm, atol=1e-5, rtol=1e-5)


def test_residual_norm_has_a_gradient_at_zero() -> None:
    parameters = build()
    parameters.residual_norm().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in parameters.parameters() if x.grad is not None)


def test_layers_ranks_and_biases() -> None:
    parameters = build(rank=5, layers=["b8.*", "b32.conv1"], bias=True)
    tokens = parameters.token_set(metadata={"name": "sketch"})
    assert {name: x.rank for name, x in tokens.layers.items()} == {
        "b8.conv0": 5, "b8.conv1": 5, "b8.torgb": 3, "b32.conv1": 5,
    }  # fmt: skip
    assert all(x.bias is not None and x.pre.all() for x in tokens.layers.values())
    assert tokens.metadata == {"name": "sketch"}
    ranks = build(rank={"*": 2, "b16.*": 6}).token_set()
    assert {x.rank for name, x in ranks.layers.items() if "b16" in name} == {6}
    assert {x.rank for name, x in ranks.layers.items() if "b16" not in name} == {2}
    assert not any("torgb" in name for name in ranks.layers)


def test_same_generator_same_leaves() -> None:
    one, other = build(), build()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    other.load_state_dict(unit(one).state_dict())
    assert torch.equal(dense(one.token_set(), "b8.conv0"), dense(other.token_set(), "b8.conv0"))


@pytest.mark.parametrize("spatial", ["scaled", "broadcast", "full"])
def test_starts_from_a_set(spatial: str) -> None:
    generator = tiny_generator()
    tokens = token_set(0, 4, spatial, "mixed", bias=True)
    parameters = TokenParameters.from_token_set(generator.kernel_stats(), tokens)
    again = parameters.token_set()
    for name, x in tokens.layers.items():
        for key, tensor in x.tensors().items():
            torch.testing.assert_close(again.layers[name].tensors()[key], tensor)
    w = generator.map(torch.randn(1, 16))
    torch.optim.Adam(parameters.parameters(), 0.1).step()
    generator(w, again).sum().backward()
    assert all(x.grad is not None for x in parameters.parameters())
    before = tokens.layers["b4.conv1"].p.clone()
    with torch.no_grad():
        for x in parameters.parameters():
            x.zero_()
    assert torch.equal(tokens.layers["b4.conv1"].p, before)  # the set is not the leaves


def test_what_does_not_fit() -> None:
    with pytest.raises(LayerError, match="b64"):
        build(layers="b64.*")
    with pytest.raises(ConfigError, match=r"at least 1 token to b4\.conv1, not 0"):
        build(rank=0)
    with pytest.raises(ConfigError, match=r"b4\.conv1, not None"):
        build(rank={"b8.*": 2})
    stats = tiny_generator().kernel_stats()
    wide = StyleGAN2Config(32, 16, 16, 2, {**TINY.channels, 32: 6})
    with pytest.raises(BaseMismatchError, match="10 -> 8 channels here, the tokens are 10 -> 6"):
        TokenParameters.from_token_set(stats, token_set(config=wide))
    with pytest.raises(LayerError, match="b64"):
        TokenParameters.from_token_set(stats, TokenSet({"b64.conv0": token_set().layers["b8.conv0"]}))
