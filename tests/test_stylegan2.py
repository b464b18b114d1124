from __future__ import annotations

from dataclasses import replace

import pytest
import stylegan2_reference as reference
import torch
from tiny import TINY, distance, latent, randomise, tiny_generator, token_set
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from refinestyle_hub.config import StyleGAN2Config, config_f_channels
from refinestyle_hub.errors import ConfigError, LayerError, ShapeError
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.inversion.optimise import _frozen
from refinestyle_hub.tokens.batch import TokenBatch
from refinestyle_hub.tokens.token_set import TokenSet


# --- The same picture as the published networks ---


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("depth", [1, 2, 8])
def test_matches_the_published_formulas(depth: int, clamp: float | None) -> None:
    config = StyleGAN2Config(32, 24, 16, depth, TINY.channels, conv_clamp=clamp)
    generator = tiny_generator(depth, config)
    z = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    weights = generator.state_dict()
    w = reference.mapping(weights, z, depth)
    assert distance(generator.map(z)[:, 0], w) < 1e-5
    w = generator.map(z) + 0.3 * latent(3)  # a code of its own for every layer
    assert distance(generator(w), reference.synthesis(weights, w, 32, clamp)) < 1e-4


@pytest.mark.parametrize(
    ("resolution", "channels"),
    [
        (1024, {r: max(c // 64, 4) for r, c in config_f_channels(1024).items()}),
        (256, {r: c // 8 for r, c in config_f_channels(256, base=16384).items()}),
        (8, {4: 3, 8: 5}),
    ],
)
def test_matches_at_any_size_and_width(resolution: int, channels: dict[int, int]) -> None:
    config = StyleGAN2Config(resolution, 16, 16, 2, channels)
    generator = tiny_generator(3, config)
    w = latent(1, 2, config)
    ours = generator(w)
    assert distance(ours, reference.synthesis(generator.state_dict(), w, resolution)) < 1e-4 * float(ours.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resolution", "base", "depth"),
    [(1024, 32768, 8), (256, 16384, 8), (256, 16384, 2)],
    ids=["f-1024", "half-256", "map-2"],
)
def test_matches_at_full_width(resolution: int, base: int, depth: int) -> None:
    config = StyleGAN2Config(resolution, 512, 512, depth, config_f_channels(resolution, base))
    torch.manual_seed(0)
    generator = StyleGAN2Generator(config).requires_grad_(False)
    randomise(generator)
    z = torch.randn(1, 512)
    w = generator.map(z, truncation=0.7)
    mean = generator.mean_latent
    assert distance(w[:, 0], mean + 0.7 * (reference.mapping(generator.state_dict(), z, depth) - mean)) < 1e-4
    ours, published = generator(w), reference.synthesis(generator.state_dict(), w, resolution)
    # random weights draw outside [-1, 1]; the bound is for pictures inside it
    assert distance(ours, published) < 1e-3 * max(1.0, float(published.abs().max()))


def test_parameter_names_are_the_published_ones() -> None:
    names = set(tiny_generator().state_dict())
    conv = {"weight", "bias", "noise_strength", "noise_const", "affine.weight", "affine.bias"}
    rgb = {"weight", "bias", "affine.weight", "affine.bias"}
    wanted = {"synthesis.b4.const", "mapping.w_avg"}
    wanted |= {f"mapping.fc{i}.{x}" for i in range(2) for x in ("weight", "bias")}
    for size in (4, 8, 16, 32):
        wanted |= {f"synthesis.b{size}.{c}.{x}" for c in ("conv0", "conv1")[size == 4 :] for x in conv}
        wanted |= {f"synthesis.b{size}.torgb.{x}" for x in rgb}
    assert names == wanted


# --- Latents, noise, layers ---


def test_truncation_pulls_towards_the_mean() -> None:
    generator = tiny_generator()
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    full, mean = generator.map(z), generator.mean_latent
    assert full.shape == (2, TINY.num_ws, 16)
    torch.testing.assert_close(generator.map(z, 0.0), mean.expand_as(full))
    torch.testing.assert_close(generator.map(z, 0.3), mean + 0.3 * (full - mean))
    cut = generator.map(z, 0.3, cutoff=3)
    assert torch.equal(cut[:, 3:], full[:, 3:])
    torch.testing.assert_close(cut[:, :3], generator.map(z, 0.3)[:, :3])


def test_each_layer_reads_the_code_that_it_names() -> None:
    for name, spec in tiny_generator().layers.items():
        generator = tiny_generator()
        for other in generator.layers:
            if other != name:  # every other style becomes a constant
                generator.layer(other).affine.weight.zero_()
        w = latent(1).requires_grad_()
        (gradient,) = torch.autograd.grad(generator(w).square().sum(), w)
        assert gradient.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == [spec.code], name


def test_layers_describe_the_kernels() -> None:
    generator = tiny_generator()
    assert list(generator.layers)[:4] == ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1"]
    for name, spec in generator.layers.items():
        assert generator.layer(name).weight.shape == (spec.outputs, spec.inputs, spec.kernel, spec.kernel)
        assert (spec.role == "rgb") == name.endswith("torgb")
        assert spec.up == name.endswith("conv0")
        assert name.startswith(f"b{spec.resolution}.")
    with pytest.raises(LayerError, match=r"no layer 'b64\.conv0'.*b32\.torgb"):
        generator.layer("b64.conv0")


def test_noise_is_constant_unless_given() -> None:
    generator, w = tiny_generator(), latent(2)
    assert torch.equal(generator(w), generator(w))
    fresh = [generator.noise(2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    pictures = [generator(w, noise=noise) for noise in fresh]
    assert torch.equal(pictures[0], pictures[1])
    assert distance(pictures[0], pictures[2]) > 1e-3
    assert [tuple(x.shape) for x in fresh[0]] == [(2, 1, r, r) for r in (4, 8, 8, 16, 16, 32, 32)]  # type: ignore[union-attr]
    silent = tiny_generator()
    for conv in silent.convs():
        conv.noise_strength.zero_()
    assert torch.equal(generator(w, noise=[None] * 7), silent(w))


@pytest.mark.parametrize("shape", [(2, 7, 16), (2, 8, 12), (8, 16), (1, 2, 8, 16)])
def test_wrong_latents(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\[N, 8, 16\]"):
        tiny_generator()(torch.zeros(shape))


def test_wrong_noise() -> None:
    generator = tiny_generator()
    with pytest.raises(ShapeError, match="7 noise maps are needed, not 6"):
        generator(latent(1), noise=[None] * 6)
    for shape in [(4, 4), (2, 1, 8, 8), (1, 3, 8, 8), (8, 4)]:  # for the second convolution, of 8 px
        with pytest.raises(ShapeError, match="layer of 8 px"):
            generator(latent(1), noise=[None, torch.zeros(shape), *[None] * 5])
    same = [None if x is None else x[:1] for x in generator.noise(3, torch.Generator().manual_seed(0))]
    w = latent(3)
    assert torch.equal(generator(w, noise=same), generator(w, noise=[None if x is None else x[0, 0] for x in same]))


def test_what_map_refuses() -> None:
    for shape in [(16,), (2, 7), (1, 2, 16)]:
        with pytest.raises(ShapeError, match=r"\[N, 16\]"):
            tiny_generator().map(torch.zeros(shape))
    with pytest.raises(ConfigError, match="finite"):
        tiny_generator().map(torch.zeros(1, 16), float("nan"))


# --- State, devices, types, graphs ---


def test_drawing_changes_no_state() -> None:
    generator = tiny_generator().train().requires_grad_(True)
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    attributes = {id(m): dict(vars(m)) for m in generator.modules()}
    tokens = token_set(bias=True)
    generator(generator.map(torch.randn(2, 16), 0.5), tokens, 0.7, generator.noise(2)).sum().backward()
    generator.merge(token_set(residual="pre"))
    generator.kernel_stats()
    assert all(torch.equal(before[name], x) for name, x in generator.state_dict().items())
    assert all(vars(m).keys() == attributes[id(m)].keys() for m in generator.modules())


class NoFloat64(TorchDispatchMode):
    """Fails where fp64 is made, which Apple's GPUs cannot do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            assert not (isinstance(x, Tensor) and x.dtype == torch.float64), f"{func} makes fp64"
        return result


def test_makes_no_fp64() -> None:
    generator = tiny_generator().requires_grad_(True)
    tokens = TokenBatch.collate([[(token_set(0, 2, "full", "pre", bias=True), 0.5)], token_set(1)])
    with NoFloat64():
        generator(generator.map(torch.randn(2, 16), 0.5), tokens, [0.5, 1.0]).square().sum().backward()


def test_bf16_autocast_stays_near() -> None:
    generator, w = tiny_generator(), latent(4)
    for tokens in (None, token_set(0, 4)):
        exact = generator(w, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = generator(w, tokens)
        assert rounded.dtype == torch.float32
        # seven rounded convolutions in a row, each off by about 2^-8 of its output's size
        error = (rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        assert error < 7 * 2**-8


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2**-8), (torch.bfloat16, 2**-5)])
def test_half_precision_weights(dtype: torch.dtype, bound: float) -> None:
    generator, half = tiny_generator(), tiny_generator().to(dtype)
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    for tokens in (None, token_set(0, residual="mixed", bias=True)):
        exact, rounded = generator(generator.map(z, 0.7), tokens), half(half.map(z, 0.7), tokens)
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).norm() / exact.norm()) < bound


@pytest.mark.parametrize("tokens", [None, token_set(0, bias=True)], ids=["plain", "tokens"])
def test_channels_last_is_the_same_picture(tokens: TokenSet | None) -> None:
    generator, w = tiny_generator(), latent(2)
    exact = generator(w, tokens)
    torch.testing.assert_close(generator.to(memory_format=torch.channels_last)(w, tokens), exact, atol=2e-5, rtol=1e-5)


class Inputs(TorchDispatchMode):
    """Notes what every convolution with a weight [O, I, 3, 3] reads: resolution and type."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.convolution.default and args[1].shape[-1] == 3:
            self.seen.append((args[0].shape[-1], args[0].dtype))
        return func(*args, **(kwargs or {}))


def test_fp16_blocks_are_those_of_the_published_networks() -> None:
    """On a GPU the highest resolutions run in fp16. Tensors without values stand for one where there is none."""
    config = replace(TINY, num_fp16_res=2, conv_clamp=256.0)
    with FakeTensorMode(), torch.device("cuda"):
        generator = StyleGAN2Generator(config).requires_grad_(False)
        w = torch.randn(2, config.num_ws, config.w_dim)
        tokens = TokenBatch.collate([token_set(0).to("cuda"), token_set(1, 2, "full", "pre", bias=True).to("cuda")])
        for refined in (None, tokens):
            with Inputs() as inputs:
                picture = generator(w, refined)
            assert picture.dtype == torch.float32
            half = {size for size, dtype in inputs.seen if dtype == torch.float16}
            whole = {size for size, dtype in inputs.seen if dtype == torch.float32}
            assert half == {8, 16, 32}  # conv0 of 16 px reads 8 px
            assert whole == {4, 8}


def test_what_is_descended_on_has_no_fp16_blocks() -> None:
    """In float16 the gradient of a mean over the pixels of a picture vanishes."""
    generator = StyleGAN2Generator(replace(TINY, num_fp16_res=2)).requires_grad_(False)
    frozen = _frozen(generator)
    assert frozen.config == TINY
    assert all(torch.equal(x, generator.state_dict()[name]) for name, x in frozen.state_dict().items())
