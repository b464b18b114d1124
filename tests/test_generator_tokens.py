"""The generator with tokens: mixed batches, strengths, gradients, threads, compiled graphs, and merging."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import distance, latent, layer_tokens, tiny_generator, token_set
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import BaseMismatchError, LayerError, MergeError, ShapeError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.storage.fingerprint import check_base
from refinestyle_hub.tokens.batch import TokenBatch
from refinestyle_hub.tokens.token_set import TokenSet


SMALL = StyleGAN2Config(8, 8, 8, 1, {4: 6, 8: 5})  # tracing costs a second a layer


def compiled(generator: Generator) -> tuple[Callable[..., Tensor], CompileCounter]:
    torch._dynamo.reset()
    counter = CompileCounter()  # type: ignore[no-untyped-call]
    return torch.compile(generator, backend=counter, fullgraph=True), counter


def test_compiles_without_graph_breaks() -> None:
    generator, w = tiny_generator(0, SMALL), latent(2, 0, SMALL)
    draw, counter = compiled(generator)
    with torch.no_grad():
        for seed in (0, 1):
            noise = generator.noise(2, torch.Generator().manual_seed(seed))
            torch.testing.assert_close(draw(w, noise=noise), generator(w, noise=noise))
    assert counter.frame_count == 1


def test_hot_swap_does_not_recompile() -> None:
    """Other sets, ranks, strengths, numbers of empty rows: one graph, as long as the largest T and the layers stay."""
    generator, w = tiny_generator(0, SMALL), latent(3, 0, SMALL)
    draw, counter = compiled(generator)
    a, b, c = (token_set(i, 2 + 3 * i, residual=r, config=SMALL) for i, r in enumerate(("post", "pre", "mixed")))
    shared = token_set(3, 4, residual="pre", config=SMALL)
    rows_of = [
        ([a, b, c], 0.5),
        ([[(a, 0.3), (b, -0.7)], None, c], [0.0, 1.0, 2.0]),
        ([c, [(a, 0.0)], None], 0.0),
    ]
    with torch.no_grad():
        for seed, (rows, strength) in enumerate(rows_of):
            batch = TokenBatch.collate(rows, shared=[(shared, strength)])
            scale, noise = torch.rand(3), generator.noise(3, torch.Generator().manual_seed(seed))
            torch.testing.assert_close(draw(w, batch, scale, noise), generator(w, batch, scale, noise))
            assert counter.frame_count == 1


@pytest.mark.parametrize("nothing", [None, [None] * 3, 0, 0.0, [0, 0.0, 0], torch.zeros(3), "batch"])
def test_no_tokens_and_strength_zero_are_the_plain_picture(nothing: object) -> None:
    generator, w = tiny_generator(), latent(3)
    tokens = token_set(bias=True)
    if nothing is None or (isinstance(nothing, list) and nothing[0] is None):
        refined = generator(w, nothing)
    elif nothing == "batch":
        refined = generator(w, TokenBatch.collate([[(tokens, 0.0)]] * 3, shared=[(tokens, 0)]))
    else:
        refined = generator(w, tokens, nothing)
    assert torch.equal(refined, generator(w))


def test_batch_of_different_sets_is_each_alone() -> None:
    """Rank, kind, strength and entry differ from sample to sample; order does not matter; padding is harmless."""
    generator, w = tiny_generator(), latent(5)
    sets = [
        token_set(0, 1),
        token_set(1, 5, "full", "pre", bias=True),
        None,
        token_set(2, 2, "broadcast", "mixed"),
        token_set(3),
    ]
    strength = [1.0, -0.7, 1.0, 2.5, 0.0]
    alone = torch.cat([generator(w[i : i + 1], sets[i], strength[i]) for i in range(5)])
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 1, 2]):
        together = generator(w[order], [sets[i] for i in order], [strength[i] for i in order])
        # sums in another order
        torch.testing.assert_close(together, alone[order], atol=2e-5, rtol=1e-5)
    rows = [[] if t is None else [(t, s)] for t, s in zip(sets, strength, strict=True)]
    padded = generator(w, TokenBatch.collate(rows))
    torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-5)
    plain = generator(w)
    assert distance(padded[[2, 4]], plain[[2, 4]]) < 1e-6 * float(plain.abs().max())
    assert distance(padded[[0, 1, 3]], plain[[0, 1, 3]]) > 0.1


def test_face_and_domains_in_one_call() -> None:
    """Per sample: its own tokens, and shared domains at strengths of its own; the same as mixing by hand."""
    generator, w = tiny_generator(), latent(2)
    faces = [token_set(1), token_set(2)]
    sketch, bronze = token_set(3, 2, "full", "pre", bias=True), token_set(4, residual="pre")
    by_hand = torch.cat(
        [
            generator(w[:1], TokenSet.mix([(faces[0], 1.0), (sketch, 0.7), (bronze, 0.3)])),
            generator(w[1:], TokenSet.mix({bronze: -0.4, faces[1]: 1.0, sketch: 0.0})),
        ]
    )
    shared = [(sketch, [0.7, 0.0]), (bronze, torch.tensor([0.3, -0.4]))]
    rows = [[(faces[0], 1), (sketch, 0.7), (bronze, 0.3)], [(faces[1], 1), (bronze, -0.4)]]
    for batch in (
        TokenBatch.collate(rows),
        TokenBatch.collate(faces, shared=shared),
    ):
        torch.testing.assert_close(generator(w, batch), by_hand, atol=2e-5, rtol=1e-5)


def test_strength_scales_residual_and_bias() -> None:
    generator, w = tiny_generator(), latent(3)
    tokens = token_set(0, bias=True)
    each = torch.cat([generator(w[i : i + 1], tokens.scale(s)) for i, s in enumerate((-1.0, 0.5, 2.0))])
    for strength in ([-1.0, 0.5, 2.0], torch.tensor([-1.0, 0.5, 2.0]), np.array([-1.0, 0.5, 2.0])):
        torch.testing.assert_close(generator(w, tokens, strength), each, atol=2e-5, rtol=1e-5)
    batch = TokenBatch.collate([tokens] * 3, shared=[(tokens, 0.5)])
    doubled = torch.cat([generator(w[i : i + 1], tokens.scale(1.5 * s)) for i, s in enumerate((-1.0, 0.5, 2.0))])
    torch.testing.assert_close(generator(w, batch, [-1.0, 0.5, 2.0]), doubled, atol=5e-5, rtol=1e-4)


def test_gradients_reach_latents_tokens_biases_and_strength() -> None:
    generator = tiny_generator()
    w = latent(2).requires_grad_()
    tokens = token_set(0, bias=True)
    tensors = [x for t in tokens.layers.values() for x in t.tensors().values()]
    leaves = [x.requires_grad_() for x in tensors if x.is_floating_point()]
    strength = torch.zeros(2, requires_grad=True)  # zero, and still a gradient
    generator(w, tokens, strength).square().sum().backward()
    assert strength.grad is not None
    assert (strength.grad != 0).all()
    generator(w, tokens).square().sum().backward()
    assert w.grad is not None
    for leaf in [w, *leaves]:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().sum() > 0


def test_threads_do_not_meet() -> None:
    generator = tiny_generator()
    jobs = [(latent(1, i), token_set(i, 1 + i % 4, bias=True), 0.5 + i / 32) for i in range(32)]
    serial = [generator(*job) for job in jobs]
    gate = threading.Barrier(32)

    def draw(job: tuple[Tensor, TokenSet, float]) -> Tensor:
        gate.wait()
        return generator(*job)

    with ThreadPoolExecutor(32) as pool:
        parallel = list(pool.map(draw, jobs))
    assert all(torch.equal(a, b) for a, b in zip(serial, parallel, strict=True))


def test_tokens_that_do_not_fit() -> None:
    generator, w = tiny_generator(), latent(2)
    wide = StyleGAN2Config(32, 16, 16, 2, {4: 12, 8: 12, 16: 10, 32: 6})
    with pytest.raises(BaseMismatchError, match=r"b32\.conv0 is 10 -> 8 channels here, the tokens are 10 -> 6"):
        generator(w, token_set(config=wide))
    big = StyleGAN2Config(64, 16, 16, 2, {4: 12, 8: 12, 16: 10, 32: 8, 64: 8})
    with pytest.raises(LayerError, match=r"no layer 'b64\.conv0'"):
        generator(w, token_set(config=big))
    wrong = TokenSet({"b4.torgb": layer_tokens(torch.Generator(), 2, 12, 3, kernel=3)})
    with pytest.raises(BaseMismatchError, match=r"b4\.torgb are \[1, 1\] here, those of the tokens \[3, 3\]"):
        generator(w, wrong)
    with pytest.raises(ShapeError, match="3 token sets for a batch of 2"):
        generator(w, [None, token_set(), None])
    with pytest.raises(ShapeError, match="3 strengths for a batch of 2"):
        generator(w, token_set(), [1.0, 2.0, 3.0])


def test_merge_is_exact_and_new() -> None:
    generator, w = tiny_generator(), latent(2)
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    a, b = token_set(0, residual="pre", bias=True), token_set(1, 2, "full", "pre")
    merged = generator.merge({a: 0.7, b: -0.3})
    refined = generator(w, TokenSet.mix({a: 0.7, b: -0.3}))
    torch.testing.assert_close(merged(w), refined, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(generator.merge(a, 0.5)(w), generator(w, a, 0.5), atol=2e-5, rtol=1e-5)
    # and it takes tokens itself
    torch.testing.assert_close(generator.merge(a)(w, b), generator(w, a + b), atol=2e-5, rtol=1e-5)
    assert all(torch.equal(before[name], x) for name, x in generator.state_dict().items())
    assert torch.equal(generator.merge(a, 0.0)(w), generator(w))
    with pytest.warns(UserWarning, match="relative"):  # what was made for the one may be used with the other
        check_base(generator.fingerprint(), merged.fingerprint())


@pytest.mark.parametrize("residual", ["post", "mixed"])
def test_post_modulation_tokens_do_not_merge(residual: str) -> None:
    with pytest.raises(MergeError, match=r"depends on the image \(b4\.conv1.*\n.*generator\(w, tokens\)"):
        tiny_generator().merge(token_set(residual=residual))
