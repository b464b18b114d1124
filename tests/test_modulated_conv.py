from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import layer_tokens, stacked
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from refinestyle_hub.tokens.modulated_conv import (
    Residual,
    join,
    modulated_conv,
    modulated_conv_dense,
    residual_kernel,
    squared_residual_norm,
)


SPATIAL = ["broadcast", "scaled", "full"]
RESIDUAL = ["post", "pre", "mixed"]


class Case:
    """Inputs of one layer for N samples, in fp32."""

    def __init__(
        self, seed: int, n: int, inputs: int, outputs: int, kernel: int, size: int, up: bool, demodulation: str,
        sources: list[tuple[int, str, str, bool]],
    ) -> None:  # fmt: skip
        rng = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, inputs, size, size + 1, generator=rng)
        self.weight = torch.randn(outputs, inputs, kernel, kernel, generator=rng)
        self.style = 1 + 0.5 * torch.randn(n, inputs, generator=rng)
        self.residuals = []
        for rank, spatial, residual, shared in sources:
            shape = (rank, inputs, outputs, kernel, spatial, residual)
            parts = [layer_tokens(rng, *shape) for _ in range(1 if shared else n)]
            strength = torch.randn(n, generator=rng) if shared or rank % 2 else None
            self.residuals.append(stacked(parts, strength))
        given = torch.rand(outputs, generator=rng) + 0.5 if demodulation == "given" else demodulation
        self.options: dict[str, Any] = {"up": up, "demodulation": given}

    def leaves(self) -> list[Tensor]:
        found = [self.x, self.weight, self.style]
        for r in self.residuals:
            found += [t for t in (r.p, r.q, r.a, r.strength) if t is not None]
        return found

    def change(self, change: Any) -> Case:
        new = Case.__new__(Case)
        new.options, new.residuals = self.options, []
        new.x, new.weight, new.style = change(self.x), change(self.weight), change(self.style)
        for r in self.residuals:
            new.residuals.append(Residual(*(t if t is None or t.dtype == torch.bool else change(t) for t in r)))
        return new

    def draw(self, form: Any = modulated_conv, **options: Any) -> Tensor:
        y: Tensor = form(self.x, self.weight, self.style, self.residuals, **(self.options | options))
        return y

    def energies(self) -> Tensor:
        """|W'_o|^2 [N, O], by drawing single pixels: the dense form without demodulation is linear in its input."""
        n, inputs = self.style.shape
        kernel = self.weight.shape[-1]
        total = torch.zeros(n, self.weight.shape[0], dtype=self.x.dtype)
        for i in range(inputs):
            pixel = torch.zeros(n, inputs, kernel, kernel, dtype=self.x.dtype)
            pixel[:, i, kernel // 2, kernel // 2] = 1
            y = modulated_conv_dense(pixel, self.weight, self.style, self.residuals, demodulation="none")
            total = total + y.square().sum(dim=(2, 3))
        return total


def relative_errors(case: Case, autocast: bool = False) -> dict[str, float]:
    """Fast form in fp32 against the definition in fp64, output and gradients, relative to the sum of absolute terms.

    With d the demodulation, c the convolution and E the energy, y = d c and dy = d dc - d^3 c dE / 2; so the terms of
    a gradient are those of ``bound`` below, in which every factor is replaced by its magnitude.
    """
    exact = case.change(lambda t: t.detach().double().requires_grad_())
    fast = case.change(lambda t: t.detach().clone().requires_grad_())
    sizes = case.change(lambda t: t.detach().double().abs().requires_grad_())
    reference = exact.draw(modulated_conv_dense)
    rng = torch.Generator().manual_seed(0)
    g = torch.randn(reference.shape, generator=rng)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            y = fast.draw()
    else:
        y = fast.draw()
    terms = sizes.draw(modulated_conv_dense, demodulation="none")
    d = torch.ones(())
    bound = (g.abs() * terms).sum()
    given = case.options["demodulation"]
    if isinstance(given, Tensor):
        bound, terms = (g.abs() * terms * given[:, None, None]).sum(), terms * given[:, None, None]
    elif given == "norm":
        d = (exact.energies().detach() + 1e-8).rsqrt()
        weighted = (g.abs() * terms.detach()).sum(dim=(2, 3)) * d**3 / 2
        bound = (g.abs() * terms * d[:, :, None, None]).sum() + (weighted * sizes.energies()).sum()
        terms = terms * d[:, :, None, None]
    (reference * g).sum().backward()
    (y.float() * g).sum().backward()
    bound.backward()
    errors = {"y": float(((y - reference).abs() / terms).max().detach())}
    names = ["x", "weight", "style", *(f"token {i}" for i in range(99))]
    for name, a, b, size in zip(names, fast.leaves(), exact.leaves(), sizes.leaves(), strict=False):
        assert a.grad is not None
        assert b.grad is not None
        assert size.grad is not None
        errors[name] = float(((a.grad - b.grad).abs() / size.grad.clamp_min(1e-30)).max())
    return errors


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = draw(st.sampled_from([3, 1]))
    source = st.tuples(st.integers(1, 4), st.sampled_from(SPATIAL), st.sampled_from(RESIDUAL), st.booleans())
    return Case(
        seed=draw(st.integers(0, 99)),
        n=draw(st.integers(1, 3)),
        inputs=draw(st.integers(1, 5)),
        outputs=draw(st.integers(1, 5)),
        kernel=kernel,
        size=draw(st.integers(2, 5)),
        up=kernel == 3 and draw(st.booleans()),
        demodulation=draw(st.sampled_from(["norm", "none", "given"])),
        sources=draw(st.lists(source, max_size=3)),
    )


@settings(max_examples=40, deadline=None)
@given(cases())
def test_fast_form_is_the_definition(case: Case) -> None:
    for name, error in relative_errors(case).items():
        assert error < 1e-5, name


LAYERS = {
    "plain": (3, False, "norm"),
    "up": (3, True, "norm"),
    "torgb": (1, False, "none"),
    "pointwise": (1, False, "given"),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("residual", RESIDUAL)
@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_switch(layer: str, spatial: str, residual: str, shared: bool) -> None:
    kernel, up, demodulation = LAYERS[layer]
    case = Case(1, 3, 8, 6, kernel, 4, up, demodulation, [(4, spatial, residual, shared)])
    assert max(relative_errors(case).values()) < 1e-5


@pytest.mark.parametrize("layer", LAYERS)
def test_bf16_bound(layer: str) -> None:
    """Under autocast: within 2^-6 of the sum of absolute terms, output and gradients.

    bf16 has an error of 2^-9 a rounding, and inputs, kernels, token maps and sums are rounded once or twice each.
    """
    kernel, up, demodulation = LAYERS[layer]
    for spatial in SPATIAL:
        sources = [(4, spatial, "mixed", False), (2, spatial, "post", True)]
        case = Case(2, 2, 16, 12, kernel, 6, up, demodulation, sources)
        assert max(relative_errors(case, autocast=True).values()) < 2**-6


def test_fp16_stays_in_range() -> None:
    """Weights and styles whose products overflow fp16 draw as in fp32, with tokens and without."""
    for sources in ([], [(4, "scaled", "post", False), (3, "full", "pre", True)]):
        for up in (False, True):
            case = Case(3, 2, 16, 8, 3, 6, up, "norm", sources)
            case.style = case.style * 300
            case.weight = case.weight * 300
            case.residuals = [r._replace(p=r.p * (300 if bool(r.pre.any()) else 90_000)) for r in case.residuals]
            exact = case.draw()
            half = modulated_conv(case.x.half(), case.weight, case.style, case.residuals, **case.options)
            assert half.dtype == torch.float16
            # 2^-11 a rounding, some tens of terms
            torch.testing.assert_close(half.float(), exact, atol=2e-2, rtol=1e-2)


def test_a_kernel_that_cancels_is_finite() -> None:
    """dW = -s W leaves nothing: the norm, a difference of large numbers, must not go below zero."""
    case = Case(5, 1, 4, 3, 3, 4, False, "norm", [])
    case.x.requires_grad_()
    kernel = -(case.weight * case.style[0, :, None, None])
    exact = Residual(torch.eye(3)[None], kernel[None], None, torch.zeros(1, 3, dtype=torch.bool))
    y = modulated_conv(case.x, case.weight, case.style, [exact])
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert case.x.grad is not None
    assert torch.isfinite(case.x.grad).all()


def test_without_tokens_nothing_is_added() -> None:
    case = Case(6, 2, 4, 3, 3, 4, True, "norm", [])
    flags = torch.zeros(2, 0, dtype=torch.bool)
    none = Residual(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4), torch.zeros(2, 0, 3, 3), flags)
    with_none = modulated_conv(case.x, case.weight, case.style, [none], **case.options)
    assert torch.equal(with_none, case.draw())


@pytest.mark.parametrize("layer", LAYERS)
def test_gain_and_bias(layer: str) -> None:
    """They are what multiplying and adding afterwards would be, also where there is no demodulation."""
    kernel, up, demodulation = LAYERS[layer]
    case = Case(8, 2, 4, 3, kernel, 4, up, demodulation, [(2, "scaled", "mixed", False)])
    for bias in (torch.randn(1, 3), torch.randn(2, 3)):
        found = modulated_conv(case.x, case.weight, case.style, case.residuals, **case.options, bias=bias, gain=1.5)
        torch.testing.assert_close(found, 1.5 * case.draw() + bias[:, :, None, None])


def test_join_adds_kernels_of_all_kinds() -> None:
    rng = torch.Generator().manual_seed(7)
    parts = [stacked([layer_tokens(rng, 2, 4, 3, 3, spatial)], torch.tensor([0.5])) for spatial in SPATIAL]
    whole = join(parts)
    assert whole.p.shape == (1, 6, 3)
    torch.testing.assert_close(residual_kernel(whole, 3), sum(0.5 * residual_kernel(part, 3) for part in parts))


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("residual", RESIDUAL)
def test_norm_by_gram_matrices(spatial: str, residual: str) -> None:
    rng = torch.Generator().manual_seed(8)
    tokens = stacked([layer_tokens(rng, 3, 5, 4, 3, spatial, residual) for _ in range(2)])
    style = torch.rand(5, generator=rng) + 0.5
    gate = torch.where(tokens.pre[..., None], style, 1.0)
    modulated = tokens._replace(q=tokens.q * (gate if tokens.q.ndim == 3 else gate[..., None, None]))
    squares = residual_kernel(modulated, 3).square().sum(dim=(1, 2, 3, 4))
    torch.testing.assert_close(squared_residual_norm(tokens, 3, style), squares)


class Groups(TorchDispatchMode):
    """Notes the number of groups of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append(args[8])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("spatial", SPATIAL)
def test_no_convolution_is_grouped_by_sample(layer: str, spatial: str) -> None:
    """Which would be baked into a compiled graph."""
    kernel, up, demodulation = LAYERS[layer]
    seen = []
    for n in (2, 5):
        case = Case(9, n, 4, 3, kernel, 4, up, demodulation, [(2, spatial, "mixed", False)])
        with Groups() as groups:
            case.draw()
        seen.append(groups.seen)
    assert seen[0] == seen[1] != []
