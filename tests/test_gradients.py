"""Gradient feedback: gradients of two distances by P and Q, normalised for each image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_generator
from torch import Tensor

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.encoder.gradients import FeedbackDistance, Reference, TokenGradients, render_with_gradients
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.losses.identity_network import IdentityDistance
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.losses.pixel import mse
from refinestyle_hub.tokens.batch import TokenBatch
from refinestyle_hub.tokens.layer_tokens import LayerTokens


SIZE = 32


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator().requires_grad_(False)


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["perceptual", "and identity"])
def distance(request: pytest.FixtureRequest) -> FeedbackDistance:
    identity = IdentityDistance.load() if request.param else None
    return FeedbackDistance(Perceptual.load("st-lpips-alex"), identity, request.param)


def features(distance: FeedbackDistance, rendered: Tensor, pictures: Tensor) -> Tensor:
    """The feedback distance [N] by the public parts that it is the sum of."""
    found: Tensor = distance.perceptual(rendered, pictures)
    if distance.identity is None:
        return found
    return found + distance.weight * distance.identity.reference(pictures)(0, rendered)


@pytest.fixture
def tokens(generator: Generator) -> dict[str, LayerTokens]:
    rng = torch.Generator().manual_seed(4)
    found = {}
    for spec in (s for s in generator.config.layers if s.role == "conv"):
        p = 0.05 * torch.randn(2, 3, spec.outputs, generator=rng)
        q = torch.randn(2, 3, spec.inputs, generator=rng)
        found[spec.name] = LayerTokens(p, q, torch.ones(2, 3, 3, 3), torch.zeros(2, 3, dtype=torch.bool))
    return found


def scene(generator: Generator) -> tuple[Tensor, Tensor]:
    """w+ of two samples, and two pictures that are others."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        w_plus = generator.map(torch.randn(2, generator.config.z_dim, generator=rng))
        return w_plus, torch.rand(2, 3, SIZE, SIZE, generator=rng) * 2 - 1


def gradients_of(
    generator: Generator, tokens: dict[str, LayerTokens], distance: FeedbackDistance
) -> tuple[Tensor, dict[str, TokenGradients]]:
    w_plus, pictures = scene(generator)
    return render_with_gradients(generator, w_plus, tokens, Reference(pictures, distance, SIZE))


def test_it_is_the_gradient_of_both_distances(
    generator: Generator, tokens: dict[str, LayerTokens], distance: FeedbackDistance
) -> None:
    drawn, found = gradients_of(generator, tokens, distance)
    w_plus, pictures = scene(generator)
    own = {
        name: LayerTokens(x.p.clone().requires_grad_(), x.q.clone().requires_grad_(), x.a, x.pre)
        for name, x in tokens.items()
    }
    again = generator(w_plus, TokenBatch(2, own))
    torch.testing.assert_close(drawn, again.detach())
    for which, far in enumerate((mse(again, pictures), features(distance, again, pictures))):
        leaves = {(name, kind): getattr(x, kind) for name, x in own.items() for kind in ("p", "q")}
        gradients = torch.autograd.grad(far.sum(), list(leaves.values()), retain_graph=True)
        for (name, kind), gradient in zip(leaves, gradients, strict=True):
            part = getattr(found[name], kind)[:, :, which]
            torch.testing.assert_close(part.square().mean(dim=(1, 2)), torch.ones(2))
            # 1: the same way, whatever the length
            same = F.cosine_similarity(part.flatten(1), gradient.flatten(1))
            torch.testing.assert_close(same, torch.ones(2))


@pytest.mark.parametrize("which", [0, 1], ids=["pixels", "features"])
def test_against_it_the_distance_falls(
    generator: Generator, tokens: dict[str, LayerTokens], distance: FeedbackDistance, which: int
) -> None:
    drawn, found = gradients_of(generator, tokens, distance)
    w_plus, pictures = scene(generator)
    moved = {
        name: LayerTokens(x.p - 1e-4 * found[name].p[:, :, which], x.q - 1e-4 * found[name].q[:, :, which], x.a, x.pre)
        for name, x in tokens.items()
    }
    far: Callable[[Tensor, Tensor], Tensor] = (mse, partial(features, distance))[which]
    with torch.no_grad():
        before, after = far(drawn, pictures), far(generator(w_plus, TokenBatch(2, moved)), pictures)
    assert (after < before).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_whatever_the_caller_does_about_gradients(
    generator: Generator,
    tokens: dict[str, LayerTokens],
    distance: FeedbackDistance,
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    expected = gradients_of(generator, tokens, distance)[1]
    with mode():
        drawn, found = gradients_of(generator, tokens, distance)
    assert not drawn.requires_grad
    assert not any(x.p.requires_grad for x in tokens.values())
    for name, both in found.items():
        assert not any(x.requires_grad for x in both)
        torch.testing.assert_close(both, expected[name])


@pytest.mark.parametrize("identity", [0.0, 0.5])
def test_an_encoder_reads_in_inference_mode(generator: Generator, identity: float) -> None:
    small = {"widths": (8, 8, 16, 16), "width": 16, "heads": 2, "depth": 1, "rank": 2, "identity_feedback": identity}
    encoder = Encoder.for_generator(generator, gradient_feedback=True, num_iters=2, **small).eval()
    pictures = scene(generator)[1]
    with torch.inference_mode():
        w_plus, tokens = encoder(pictures, generator, encoder.load_distance())
        assert generator(w_plus, tokens).shape == pictures.shape


def test_an_image_that_is_rendered_exactly_has_no_gradient(generator: Generator, distance: FeedbackDistance) -> None:
    """A gradient of nought stays nought: nothing is divided by it."""
    w_plus, _ = scene(generator)
    rng = torch.Generator().manual_seed(6)
    layers = [s for s in generator.config.layers if s.role == "conv"]
    tokens = {
        s.name: LayerTokens(
            torch.zeros(2, 1, s.outputs),
            torch.randn(2, 1, s.inputs, generator=rng),
            None,
            torch.zeros(2, 1, dtype=torch.bool),
        )
        for s in layers
    }
    with torch.no_grad():
        pictures = generator(w_plus, TokenBatch(2, tokens))
    _, found = render_with_gradients(generator, w_plus, tokens, Reference(pictures, distance, SIZE))
    for both in found.values():
        assert torch.isfinite(both.p).all()
        assert not both.p[:, :, 0].any()
        assert not both.q.any()  # P is 0


def test_large_pictures_are_refined_at_256_px(monkeypatch: pytest.MonkeyPatch) -> None:
    # the backward pass of a picture of 1024 px would cost sixteen times as much, for a stage that sees 256
    channels = {4: 4, 8: 4, 16: 4, 32: 4, 64: 4, 128: 4, 256: 4, 512: 4}
    large = tiny_generator(config=StyleGAN2Config(512, 8, 8, 2, channels))
    drawn: list[int | None] = []
    forward = StyleGAN2Generator.forward

    def recorded(self: StyleGAN2Generator, *args: Any, **how: Any) -> Tensor:
        drawn.append(how["resolution"])
        return forward(self, *args, **how)

    monkeypatch.setattr(StyleGAN2Generator, "forward", recorded)
    shape = {"widths": (4, 4, 4, 4), "width": 8, "heads": 2, "depth": 1, "rank": 2, "size": 64}
    for feedback in (True, False):
        drawn.clear()
        encoder = Encoder.for_generator(large, **shape, stages="two", gradient_feedback=feedback, num_iters=2).eval()
        pictures = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found = encoder(pictures, large, encoder.load_distance())
        assert drawn == [256, 256]
        assert all(tokens.p.isfinite().all() for tokens in found.tokens.own.values())
