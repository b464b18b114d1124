"""MobileStyleGAN under the interface of generators: pictures, tokens, and the strips that CPUs draw them in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import layer_tokens, randomise
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from refinestyle_hub.config import MobileStyleGANConfig
from refinestyle_hub.errors import ConfigError, ShapeError
from refinestyle_hub.generators import Generator, MobileStyleGANGenerator
from refinestyle_hub.generators import pointwise as strips
from refinestyle_hub.generators.mobile import ModulatedConv
from refinestyle_hub.generators.pointwise import depthwise, pointwise, pointwise_plain
from refinestyle_hub.tokens.modulated_conv import modulated_conv_dense, residual_kernel
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


TINY = MobileStyleGANConfig(64, 16, 16, 2, {4: 16, 8: 16, 16: 12, 32: 8})


def tiny(seed: int = 0) -> MobileStyleGANGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = MobileStyleGANGenerator(TINY).eval().requires_grad_(False)
    randomise(generator, seed)
    return generator


def latent(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, TINY.num_ws, TINY.w_dim, generator=torch.Generator().manual_seed(seed))


def tokens(seed: int = 0, rank: int = 3, residual: str = "post", spatial: str = "scaled") -> TokenSet:
    rng = torch.Generator().manual_seed(seed)
    return TokenSet(
        {
            spec.name: layer_tokens(rng, rank, spec.inputs, spec.outputs, spec.kernel, spatial, residual, bias=True)
            for spec in TINY.layers
        }
    )


@pytest.mark.parametrize("window", [(0, 0, 96), (37, 90, 100), (160, 3, 96), (0, 0, 256)])
def test_a_window_is_that_of_the_whole_picture(window: tuple[int, int, int]) -> None:
    """Drawn from the part of the maps that it depends on, with tokens and with noise of any kind."""
    config = replace(TINY, resolution=256, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8, 128: 8})
    generator = MobileStyleGANGenerator(config).eval().requires_grad_(False)
    randomise(generator, 0)
    rng = torch.Generator().manual_seed(0)
    w_plus, (top, left, side) = generator.sample(2, rng), window
    learnt = TokenParameters(generator.kernel_stats(), 2, "*", "pre", bias=True, rng=rng)
    torch.nn.init.normal_(learnt.layers[5].p, generator=rng)
    for noise in (None, generator.noise(2, rng), [None] * 11):
        whole = generator(w_plus, learnt.token_set(), noise=noise)
        part = generator(w_plus, learnt.token_set(), noise=noise, window=window)
        assert distance(part, whole[..., top : top + side, left : left + side]) < 1e-5  # sums of another order


def test_a_window_lies_within_the_picture() -> None:
    for window in ((0, 0, 65), (-1, 0, 8), (60, 0, 8), (0, 0, 0)):
        with pytest.raises(ShapeError, match="window"):
            tiny()(latent(1), window=window)
    assert tiny()(latent(1), window=(3, 5, 8)).shape == (1, 3, 8, 8)  # too small to save anything: cut from the whole


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


# --- The definition, written out ---


def reference(generator: Generator, w_plus: Tensor, given: TokenSet | None = None) -> Tensor:
    """The network with a dense kernel for each picture, the wavelet by transposed convolutions, step by step."""
    weights = {name.removeprefix("synthesis."): x for name, x in generator.state_dict().items()}
    haar = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2

    def affine(name: str, code: int) -> Tensor:
        return w_plus[:, code] @ weights[f"{name}.weight"].T / TINY.w_dim**0.5 + weights[f"{name}.bias"]

    def wavelet(x: Tensor) -> Tensor:
        bands = x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)  # each channel's four bands together
        return F.conv_transpose2d(
            bands, haar[:, None].repeat(x.shape[1] // 4, 1, 1, 1), stride=2, groups=x.shape[1] // 4
        )

    def convolution(x: Tensor, name: str, code: int) -> Tensor:
        weight, demod = weights[f"{name}.weight"], weights[f"{name}.demod"]
        layer = given.layers.get(name) if given else None
        if f"{name}.depthwise" in weights:
            x = F.conv2d(x, weights[f"{name}.depthwise"], padding=1, groups=x.shape[1])
        if not name.endswith("torgb"):
            whole = weight
            if layer is not None:
                early = replace(layer, p=layer.p * layer.pre[:, None])
                whole = weight + residual_kernel(early.shared(), weight.shape[-1])[0]
            demod = demod / whole.flatten(1).norm(dim=1)
        residuals = [layer.shared()] if layer else []
        y = modulated_conv_dense(x, weight, affine(f"{name}.affine", code), residuals, demodulation=demod)
        bias = weights[f"{name}.bias"] + (0 if layer is None or layer.bias is None else layer.bias)
        if f"{name}.noise_const" in weights:
            y = y + weights[f"{name}.noise_const"] * weights[f"{name}.noise_strength"]
        y = y + bias[:, None, None]
        return y if name.endswith("torgb") else F.leaky_relu(y, 0.2)

    x = convolution(weights["b4.const"].expand(len(w_plus), -1, -1, -1), "b4.conv1", 0)
    for i, size in enumerate((8, 16, 32)):
        code = 2 * i + 1
        x = wavelet(x * affine(f"b{size}.up", code)[:, :, None, None])
        x = convolution(convolution(x, f"b{size}.conv0", code), f"b{size}.conv1", code + 1)
    return wavelet(convolution(x, "b32.torgb", 7))


@pytest.mark.parametrize("residual", ["", "post", "pre", "mixed"])
@pytest.mark.parametrize("spatial", ["scaled", "broadcast", "full"])
def test_matches_the_definition(residual: str, spatial: str) -> None:
    generator, w_plus = tiny(), latent(2)
    given = tokens(1, 3, residual, spatial) if residual else None
    drawn, wanted = generator(w_plus, given), reference(generator, w_plus, given)
    assert drawn.shape == (2, 3, 64, 64)
    assert distance(drawn, wanted) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("size", [32, 16, 2])
def test_small_pictures_are_the_mean_of_the_full_one(size: int) -> None:
    generator, w_plus = tiny(), latent(2)
    mean = F.avg_pool2d(generator(w_plus), 64 // size)
    assert distance(generator(w_plus, resolution=size), mean) < 1e-6 * float(mean.abs().max()) + 1e-6
    with pytest.raises(ConfigError):
        generator(w_plus, resolution=size + 1)


def test_each_layer_reads_the_code_that_it_names() -> None:
    generator = tiny()
    w_plus = latent(1).requires_grad_()
    for name, spec in generator.layers.items():
        conv = generator.layer(name)
        style = conv.style(w_plus[:, spec.code])
        (gradient,) = torch.autograd.grad(style.square().sum(), w_plus)
        assert gradient.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == [spec.code]
    (gradient,) = torch.autograd.grad(generator(w_plus).square().sum(), w_plus)
    assert (gradient.abs().sum(dim=(0, 2)) > 0).all()


def test_noise_is_stored_fresh_or_none() -> None:
    generator, w_plus = tiny(), latent(2)
    stored, fresh = generator(w_plus), generator(w_plus, noise=generator.noise(2, torch.Generator().manual_seed(0)))
    none = generator(w_plus, noise=[None] * len(generator.convs()))
    assert distance(stored, fresh) > 1e-3
    assert distance(stored, none) > 1e-3
    maps = [conv.noise_const for conv in generator.convs()]
    assert torch.equal(generator(w_plus, noise=maps), stored)


# --- Tokens ---


@pytest.mark.parametrize("residual", ["post", "pre"])
def test_strength_zero_is_the_plain_picture(residual: str) -> None:
    generator, w_plus = tiny(), latent(2)
    plain = generator(w_plus)
    assert torch.equal(generator(w_plus, tokens(0, residual=residual), 0.0), plain)
    assert torch.equal(generator(w_plus, [tokens(0, residual=residual), tokens(1)], [0.0, 0.0]), plain)


def test_a_batch_may_hold_another_set_rank_and_strength_for_each() -> None:
    generator, w_plus = tiny(), latent(3)
    sets, amounts = [tokens(0, 2), None, tokens(1, 5, "pre")], [0.5, 1.0, -0.7]
    together = generator(w_plus, sets, amounts)
    for i in range(3):
        alone = generator(w_plus[i : i + 1], sets[i], amounts[i])
        assert distance(together[i : i + 1], alone) < 1e-5 * float(alone.abs().max())


def test_merging_is_exact_even_twice_and_under_tokens() -> None:
    generator, w_plus = tiny(), latent(2)
    first, second, face = tokens(0, 3, "pre"), tokens(1, 2, "pre"), tokens(2)
    merged = generator.merge({first: 0.8}).merge({second: 1.5})
    wanted = generator(w_plus, TokenSet.mix({first: 0.8, second: 1.5, face: 1.0}))
    assert distance(merged(w_plus, face), wanted) < 1e-5 * float(wanted.abs().max())
    assert merged.fingerprint().parents[-1] == generator.fingerprint().digest


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(["post", "pre", "mixed"]))
def test_sets_add_as_kernels_do(seed: int, a: float, b: float, residual: str) -> None:
    generator, w_plus = tiny(seed), latent(1, seed)
    one, other = tokens(seed, 2, residual), tokens(seed + 1, 3, residual)
    mixed = generator(w_plus, TokenSet.mix([(one, a), (other, b)]))
    wanted = reference(generator, w_plus, TokenSet.mix([(other, b), (one, a)], keep_zeros=True))
    assert distance(mixed, wanted) < 1e-4 * max(1.0, float(wanted.abs().max()))
    small, errors = TokenSet.mix([(one, a), (other, b)], keep_zeros=True).compress(5)
    assert max(errors.values()) < 1e-3
    assert distance(generator(w_plus, small), wanted) < 1e-2 * max(1.0, float(wanted.abs().max()))


def test_early_tokens_turn_rows_and_never_lengthen_them() -> None:
    generator = tiny()
    w, huge = latent(1)[:, 0], tokens(0, 3, "pre").scale(1000.0)
    for name, spec in generator.layers.items():
        conv = generator.layer(name)
        assert isinstance(conv, ModulatedConv)
        if spec.role == "conv" and spec.kernel == 1:
            rows = conv.kernel(w, [huge.layers[name].shared()])[0] / conv.style(w)
            torch.testing.assert_close(rows.norm(dim=1), conv.demod)


def test_tokens_learn_from_the_first_step() -> None:
    generator, w_plus = tiny(), latent(1).requires_grad_()
    parameters = TokenParameters(generator.kernel_stats(), rank=16, layers="*", bias=True)
    drawn = generator(w_plus, parameters.token_set())
    assert torch.equal(drawn, generator(w_plus))
    drawn.square().mean().backward()
    for name, layer in zip(parameters.names, parameters.layers, strict=True):
        assert layer.p.shape[0] == min(16, generator.layers[name].outputs)  # toRGB: twelve bands
        assert layer.p.grad.abs().sum() > 0
        assert layer.bias.grad.abs().sum() > 0


# --- Strips, and how else it runs ---


def operands(up: bool, dtype: torch.dtype) -> list[Tensor | None]:
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=dtype)

    x = randn(2, 3, 4, 2).contiguous(memory_format=torch.channels_last)
    return [x, randn(2, 4, 3), randn(2, 4), randn(4, 2), randn(2, 4) if up else None]


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("strip", [1, 20, 1 << 20])
def test_strips_equal_the_definition(up: bool, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP", strip)
    given = operands(up, torch.float32)
    assert distance(pointwise(*given), pointwise_plain(*given)) < 1e-6  # type: ignore[arg-type]
    x, kernel, bias, noise, style = operands(up, torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (x, kernel, bias, style) if leaf is not None]

    def strip_by_strip(x: Tensor, kernel: Tensor, bias: Tensor, style: Tensor | None = None) -> Tensor:
        result: Tensor = strips._Strips.apply(x, kernel, bias, noise, style)
        return result

    assert torch.autograd.gradcheck(strip_by_strip, leaves)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("strip", [20, 1 << 20])
def test_strips_of_bf16_keep_to_its_rounding(up: bool, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of bf16 are 2^-8 apart: pictures and gradients stay within a few such steps of those in fp32."""
    monkeypatch.setattr(strips, "STRIP", strip)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        x, kernel, bias, noise, style = operands(up, torch.float32)
        leaves = [leaf.requires_grad_() for leaf in (x, kernel, bias, style) if leaf is not None]
        y = pointwise(x.to(dtype), kernel, bias, noise, style)  # type: ignore
        assert y.dtype == dtype
        found.append([y.detach().float(), *torch.autograd.grad(y.float().square().sum(), leaves)])
    for wanted, ours in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        assert distance(ours, wanted) < 2**-5 * float(wanted.abs().max())


def test_a_shared_bias_gets_the_gradient_of_all_samples() -> None:
    x, kernel, bias, noise, _ = operands(False, torch.float32)
    found = []
    for function in (pointwise, pointwise_plain):
        leaf = bias[0].clone().requires_grad_()  # type: ignore[index]
        function(x, kernel, leaf, noise).square().sum().backward()  # type: ignore[arg-type]
        found.append(leaf.grad)
    torch.testing.assert_close(found[0], found[1])


def test_a_frozen_depthwise_kernel_passes_the_same_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 7, generator=rng), torch.randn(6, 1, 3, 3, generator=rng)
    gradients = []
    for frozen in (True, False):
        leaf = x.clone().requires_grad_()
        depthwise(leaf, weight.clone().requires_grad_(not frozen)).pow(3).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_compiles_without_graph_breaks_to_the_same_pictures() -> None:
    generator = tiny()
    counter = CompileCounter()
    compiled = torch.compile(generator, backend=counter, fullgraph=True)
    w_plus, given = latent(2).requires_grad_(), tokens(0, 2, "mixed")
    for size in (64, 32):
        ours, plain = compiled(w_plus, given, resolution=size), generator(w_plus, given, resolution=size)
        assert distance(ours, plain) < 1e-5 * float(plain.detach().abs().max())
        found = torch.autograd.grad(ours.square().sum(), w_plus)[0]
        torch.testing.assert_close(
            found,
            torch.autograd.grad(plain.square().sum(), w_plus)[0],
            rtol=1e-3,
            atol=1e-4 * float(found.abs().max()),
        )
    assert counter.frame_count == 2


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_draws_nearly_the_same(dtype: torch.dtype, bound: float) -> None:
    generator, w_plus = tiny(), latent(2)
    plain = generator(w_plus, tokens())
    with torch.autocast("cpu", dtype):
        half = generator(w_plus, tokens())
    assert half.dtype == torch.float32
    assert distance(half, plain) < bound * float(plain.abs().max())
    assert distance(half, plain) > 0


def test_exports_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generator, w_plus = tiny(), latent(1)
    with torch.no_grad():
        torch.onnx.export(generator, (w_plus,), tmp_path / "generator.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx")
    (drawn,) = session.run(None, {session.get_inputs()[0].name: w_plus.numpy()})
    plain = generator(w_plus)
    assert distance(torch.from_numpy(drawn), plain) < 1e-4 * float(plain.abs().max())


def test_saves_and_loads_as_a_generator(tmp_path: Path) -> None:
    generator, w_plus = tiny(), latent(1)
    generator.save_pretrained(tmp_path)
    again = Generator.from_pretrained(tmp_path)
    assert isinstance(again, MobileStyleGANGenerator)
    assert again.config == TINY
    assert torch.equal(again(w_plus), generator(w_plus))


@pytest.mark.parametrize(
    ("resolution", "channels"),
    [(64, {4: 16, 8: 16, 16: 12}), (64, {4: 16, 8: 18, 16: 12, 32: 8}), (48, {}), (8, {})],
)
def test_impossible_sizes_are_refused(resolution: int, channels: dict[int, int]) -> None:
    with pytest.raises(ConfigError):
        MobileStyleGANConfig(resolution, channels=channels)
