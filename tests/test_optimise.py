"""Inversion by optimisation, on a tiny generator with random weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError, ModelFileError, ShapeError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.inversion.inversion_settings import InversionSettings
from refinestyle_hub.inversion.optimise import invert
from refinestyle_hub.losses.identity_network import IdentityDistance
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline


# The shipped prior is for generators whose pictures differ more from the mean than an untrained one's.
WEAK = InversionSettings(prior=0.02, spread=0.1)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    plan = {4: 16, 8: 16, 16: 8, 32: 8}
    generator = StyleGAN2Generator(StyleGAN2Config(32, z_dim=16, w_dim=16, mapping_layers=2, channels=plan)).eval()
    with torch.no_grad():
        for resolution in plan:  # a fresh toRGB draws far outside [-1, 1]
            generator.synthesis.get_submodule(f"b{resolution}.torgb").weight *= 0.15
        generator.mean_latent.copy_(generator.mapping(torch.randn(500, 16)).mean(dim=0))
    return generator


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual.load("st-lpips-alex")


@pytest.fixture(scope="module")
def drawn(generator: Generator) -> Tensor:
    """Two pictures that the generator can draw."""
    with torch.no_grad():
        return generator(generator.map(torch.randn(2, 16, generator=torch.Generator().manual_seed(5)))).clamp(-1, 1)


@pytest.fixture(scope="module")
def foreign() -> Tensor:
    """A picture that no w+ draws: a bright disc on a ramp."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    disc = (x.square() + y.square() < 0.4).float()
    return torch.stack([x * 0.5 + disc * 0.4, y * 0.5, -x * 0.3 - disc * 0.5])[None].clamp(-1, 1)


def test_w_plus_comes_close_to_what_the_generator_can_draw(
    generator: Generator, perceptual: Perceptual, drawn: Tensor
) -> None:
    found = invert(generator, drawn, w_steps=60, token_steps=0, perceptual=perceptual, settings=WEAK)
    with torch.no_grad():
        mean = generator(generator.mean_latent.expand(1, 8, 16))
        pictures = generator(torch.stack([one.w_plus for one in found]))
    before = (mean - drawn).square().mean(dim=(1, 2, 3))
    for n, one in enumerate(found):
        assert one.tokens is None
        assert one.report["mse"] < 0.3 * float(before[n])
        shown = (pictures[n].clamp(-1, 1) - drawn[n]).square().mean()
        assert one.report["mse"] == pytest.approx(float(shown), rel=1e-3)  # the report is about the answer


def test_tokens_close_the_gap_that_w_plus_leaves(
    generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    one = invert(generator, foreign, w_steps=30, token_steps=60, perceptual=perceptual)[0]
    report = one.report
    assert report["mse"] < 0.7 * report["w_plus_mse"]
    assert report["perceptual"] < report["w_plus_perceptual"]
    assert report["perceptual_backbone"] == "st-lpips-alex"
    assert (report["w_steps"], report["token_steps"], report["stopped"]) == (30, 60, "finished")
    assert one.tokens is not None
    assert one.tokens.base == one.base == generator.fingerprint()
    assert set(one.tokens.layers) == {f"b{r}.conv{i}" for r in (4, 8, 16, 32) for i in (0, 1)} - {"b4.conv0"}
    levels = foreign[0].permute(1, 2, 0).add(1).mul(127.5).round().to(torch.uint8)
    assert one.crop is not None
    assert torch.equal(one.crop, levels)


def test_the_generator_and_the_random_state_are_left_alone(
    generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state = torch.random.get_rng_state()
    invert(generator, foreign, w_steps=3, token_steps=3, perceptual=perceptual)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())


def test_the_same_seed_gives_the_same_answer_in_any_thread(
    generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    def run(seed: int) -> Inversion:
        return invert(generator, foreign, w_steps=4, token_steps=4, seed=seed, perceptual=perceptual)[0]

    first, other = run(0), run(1)
    assert not torch.equal(first.w_plus, other.w_plus)
    answers: dict[int, Inversion] = {}
    threads = [threading.Thread(target=lambda s=seed: answers.update({s: run(s)})) for seed in (0, 1)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, seed in ((first, 0), (other, 1)):
        found = answers[seed]
        assert torch.equal(found.w_plus, expected.w_plus)
        assert found.tokens is not None
        assert expected.tokens is not None
        for name, tensor in expected.tokens.state_dict().items():
            assert torch.equal(found.tokens.state_dict()[name], tensor)


def test_progress_and_cancel(generator: Generator, perceptual: Perceptual, foreign: Tensor) -> None:
    calls: list[tuple[int, int]] = []

    def on_step(step: int, steps: int, metrics: Mapping[str, float]) -> bool:
        assert set(metrics) == {"mse", "perceptual"}
        calls.append((step, steps))
        return len(calls) == 16

    one = invert(generator, foreign, w_steps=10, token_steps=20, perceptual=perceptual, on_step=on_step)[0]
    assert calls == [(n, 30) for n in range(1, 17)]
    assert one.report["stopped"] == "cancelled"
    assert one.tokens is not None  # the best so far
    assert one.report["mse"] <= one.report["w_plus_mse"]

    early = invert(generator, foreign, w_steps=10, token_steps=20, perceptual=perceptual, on_step=lambda *_: True)[0]
    assert early.tokens is None
    assert early.report["token_steps"] == 0


def test_a_plateau_ends_a_phase(generator: Generator, perceptual: Perceptual, drawn: Tensor) -> None:
    settings = InversionSettings(w_rate=0.0, w_noise=0.0, patience=5)  # nothing moves
    one = invert(generator, drawn[:1], w_steps=50, token_steps=0, perceptual=perceptual, settings=settings)[0]
    assert one.report["stopped"] == "plateau"
    assert one.report["w_steps"] == 5
    on = invert(generator, drawn[:1], w_steps=50, token_steps=2, perceptual=perceptual, settings=settings)[0]
    assert (on.report["w_steps"], on.report["token_steps"], on.report["stopped"]) == (5, 2, "finished")


def loss(one: Inversion, weight: float) -> float:
    """Of the pictures; the regularisers are not in the report."""
    value: float = one.report["mse"] + weight * one.report["perceptual"]
    return value


def test_an_encoders_answer_takes_the_place_of_the_first_phase(
    generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    start = generator.map(torch.randn(1, 16, generator=torch.Generator().manual_seed(7))).detach()
    one = invert(generator, foreign, start=start, token_steps=20, perceptual=perceptual)[0]
    assert torch.equal(one.w_plus, start[0])
    assert one.report["w_steps"] == 0
    assert one.tokens is not None

    on = invert(generator, foreign, start=start, start_tokens=[one.tokens], token_steps=20, perceptual=perceptual)[0]
    weight = InversionSettings().perceptual
    assert loss(on, weight) < loss(one, weight)

    kept = invert(generator, foreign, start=start, start_tokens=[one.tokens], token_steps=0, perceptual=perceptual)[0]
    assert kept.report["mse"] == pytest.approx(one.report["mse"], rel=1e-4)

    refined = invert(generator, foreign, start=start, w_steps=20, token_steps=0, perceptual=perceptual)[0]
    assert refined.report["mse"] < kept.report["w_plus_mse"]

    found = [one.tokens]
    moved = invert(
        generator,
        foreign,
        start=start,
        start_tokens=found,
        w_steps=20,
        token_steps=0,
        perceptual=perceptual,
        settings=WEAK,
    )[0]
    assert not torch.equal(moved.w_plus, start[0])
    assert moved.tokens is one.tokens
    weight = InversionSettings().w_perceptual  # below: with the tokens that stay, not of w+ alone
    assert loss(moved, weight) < loss(kept, weight)


def test_w_plus_moves_beneath_the_tokens_where_it_has_a_rate(
    generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    start = generator.mean_latent.expand(1, generator.num_ws, -1)
    how: dict[str, Any] = {"start": start, "token_steps": 20, "perceptual": perceptual}
    (still,) = invert(generator, foreign, **how)
    (moved,) = invert(generator, foreign, settings=InversionSettings(code_rate=0.05), **how)
    assert torch.equal(still.w_plus, start[0])
    assert not torch.equal(moved.w_plus, start[0])
    assert loss(moved, 0.1) < loss(still, 0.1)


def test_momentum_carries_the_first_step_into_the_second(
    generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    def seen(momentum: float) -> list[Tensor]:
        pictures: list[Tensor] = []
        start = generator.mean_latent.expand(1, generator.num_ws, -1)
        settings = InversionSettings(momentum=momentum)
        how: dict[str, Any] = {"start": start, "token_steps": 3, "perceptual": perceptual, "settings": settings}
        invert(generator, foreign, on_pictures=lambda x: pictures.append(x.clone()), **how)
        return pictures

    without, carried = seen(0.0), seen(0.9)
    for n in (0, 1):  # Adam's first step has nothing to carry
        torch.testing.assert_close(carried[n], without[n])
    assert float((carried[2] - without[2]).abs().max()) > 1e-4


@pytest.mark.parametrize("phase", ["token", "w"])
def test_a_faces_features_come_nearer_where_they_have_a_weight(
    phase: str, generator: Generator, perceptual: Perceptual, foreign: Tensor
) -> None:
    start = generator.mean_latent.expand(1, generator.num_ws, -1)
    how: dict[str, Any] = {"start": start, "token_steps": 0, "perceptual": perceptual} | {f"{phase}_steps": 20}
    near = IdentityDistance.load().reference(foreign)

    def distance(weight: float) -> float:
        settings = replace(WEAK, identity=weight, w_identity=weight, near_rate=0.2)
        (found,) = invert(generator, foreign, settings=settings, **how)
        with torch.no_grad():
            return float(near(0, generator(found.w_plus[None], found.tokens)))

    assert distance(0.1) < 0.95 * distance(0.0)


@pytest.mark.parametrize(
    "wrong", [{"size": 100}, {"size": 16}, {"scales": 3}, {"precision": "fp8"}, {"momentum": 1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        InversionSettings(**wrong)


def test_pictures_of_a_batch_do_not_mix(generator: Generator, perceptual: Perceptual, drawn: Tensor) -> None:
    """Each picture's answer is what it is alone, up to the rounding of batched sums along the way."""
    both = invert(generator, drawn, w_steps=10, token_steps=3, perceptual=perceptual)
    for n in range(2):
        (alone,) = invert(generator, drawn[n : n + 1], w_steps=10, token_steps=3, perceptual=perceptual)
        torch.testing.assert_close(both[n].w_plus, alone.w_plus, rtol=0, atol=0.02)
        assert both[n].tokens is not None
        assert alone.tokens is not None
        for name, x in alone.tokens.layers.items():
            torch.testing.assert_close(both[n].tokens.layers[name].q, x.q, rtol=0, atol=0.02)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(generator: Generator, drawn: Tensor, mode: Any) -> None:
    encoder = Encoder.for_generator(generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1)
    pipe = RefineStylePipeline(generator, encoder=encoder)
    (wanted,) = pipe.invert_crops(drawn[:1], steps=2, w_steps=1)
    again = RefineStylePipeline(generator, encoder=encoder)  # which loads its perceptual distance in the mode
    with mode():
        (found,) = again.invert_crops(drawn[:1].clone(), steps=2, w_steps=1)
        (alone,) = invert(generator, drawn[:1].clone(), w_steps=1, token_steps=1, start=wanted.w_plus.clone()[None])
    torch.testing.assert_close(found.w_plus, wanted.w_plus)
    assert found.report["mse"] == pytest.approx(wanted.report["mse"])
    assert alone.report["token_steps"] == 1


def test_wrong_sizes_are_refused(generator: Generator, perceptual: Perceptual, drawn: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"\[N, 3, 32, 32\]"):
        invert(generator, drawn[..., :16], perceptual=perceptual)
    with pytest.raises(ShapeError, match=r"not \[0, 3, 32, 32\]"):
        invert(generator, drawn[:0], perceptual=perceptual)
    with pytest.raises(ShapeError, match="start must be"):
        invert(generator, drawn, start=torch.zeros(1, 8, 16), perceptual=perceptual)
    with pytest.raises(ShapeError, match="start_tokens"):
        invert(generator, drawn, start_tokens=[], perceptual=perceptual)
    with pytest.raises(ConfigError):
        invert(generator, drawn, w_steps=-1, perceptual=perceptual)


# --- The value and its file -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inversion(generator: Generator, perceptual: Perceptual, foreign: Tensor) -> Inversion:
    found = invert(generator, foreign, w_steps=2, token_steps=2, perceptual=perceptual)[0]
    quad = torch.tensor([[1.0, 2.0], [1.5, 30.0], [29.0, 31.0], [30.0, 2.5]])
    return Inversion(**{**vars(found), "quad": quad, "source_size": (64, 48)})


def test_a_saved_inversion_is_the_same_again(generator: Generator, inversion: Inversion, tmp_path: Path) -> None:
    path = tmp_path / "new" / "inversion.safetensors"
    inversion.save(path, crop=True)
    loaded = Inversion.from_pretrained(path)
    assert torch.equal(loaded.w_plus, inversion.w_plus)
    assert inversion.crop is not None
    assert loaded.crop is not None
    assert torch.equal(loaded.crop, inversion.crop)
    assert inversion.quad is not None
    assert loaded.quad is not None
    assert torch.equal(loaded.quad, inversion.quad)
    assert (loaded.source_size, loaded.base) == (inversion.source_size, inversion.base)
    assert loaded.report == inversion.report
    with torch.no_grad():
        expected = generator(inversion.w_plus[None], inversion.tokens)
        assert torch.equal(generator(loaded.w_plus[None], loaded.tokens), expected)
    first = path.read_bytes()
    loaded.save(path, crop=True)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_holds_no_pixels_unless_asked_to(inversion: Inversion, tmp_path: Path) -> None:
    inversion.save(tmp_path / "inversion.safetensors")
    assert Inversion.from_pretrained(tmp_path / "inversion.safetensors").crop is None
    assert inversion.crop is not None, "the value itself keeps it"


def test_w_plus_alone_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "inversion.safetensors"
    Inversion(torch.ones(4, 8)).save(path)
    loaded = Inversion.from_pretrained(path)
    assert (loaded.tokens, loaded.crop, loaded.quad, loaded.base, loaded.report) == (None, None, None, None, {})


def test_damaged_files_and_odd_values_are_refused(inversion: Inversion, tmp_path: Path) -> None:
    path = tmp_path / "inversion.safetensors"
    inversion.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelFileError):
        Inversion.from_pretrained(path)
    with pytest.raises(ModelFileError, match="safetensors"):
        inversion.save(tmp_path / "inversion.pt")
    with pytest.raises(ModelFileError, match="NaN"):
        Inversion(torch.full((4, 8), torch.nan)).save(path)
    with pytest.raises(ShapeError):
        Inversion(torch.ones(1, 4, 8))
    with pytest.raises(ShapeError):
        Inversion(torch.ones(4, 8), quad=torch.ones(4, 2))
