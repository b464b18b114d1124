"""The encoder: shapes for any generator, where it starts, what its answers mean, its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_parts import encoder_for, pictures, taught
from tiny import TINY, tiny_generator
from torch import Tensor

from refinestyle_hub.config import EncoderConfig, EncoderNetwork, StyleGAN2Config
from refinestyle_hub.encoder.backbone import open_backbone
from refinestyle_hub.encoder.encoder import Encoder, standard_coordinates
from refinestyle_hub.encoder.stage import layer_groups
from refinestyle_hub.errors import BaseMismatchError, ConfigError, LayerError, ShapeError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.images import to_image
from refinestyle_hub.inversion.crops import invert_crops
from refinestyle_hub.inversion.inversion_settings import InversionSettings
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.batch import TokenBatch
from refinestyle_hub.tokens.modulated_conv import Residual, squared_residual_norm


# the sizes of the bundled model
BUNDLED = StyleGAN2Config(128, 256, 256, 4, {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16})
BUNDLED_SIZES = {"widths": (32, 64, 128, 192), "width": 128, "heads": 4}


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


PLANS = {
    "8 px": StyleGAN2Config(8, 4, 6, 1, {4: 5, 8: 4}),
    "16 px, odd widths": StyleGAN2Config(16, 8, 12, 2, {4: 7, 8: 5, 16: 3}),
    "64 px": StyleGAN2Config(64, 8, 8, 1, {4: 8, 8: 8, 16: 6, 32: 6, 64: 4}),
}


@pytest.mark.parametrize("stages", ["one", "two"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_any_generator_by_config_alone(plan: StyleGAN2Config, stages: str) -> None:
    generator = tiny_generator(config=plan)
    encoder = taught(encoder_for(generator, stages=stages, size=16 if plan.resolution == 8 else 0))
    w_plus, tokens = encoder(pictures(3, plan.resolution), generator)
    assert w_plus.shape == (3, plan.num_ws, plan.w_dim)
    convs = {spec.name: spec for spec in plan.layers if spec.role == "conv"}
    assert tokens.own.keys() == convs.keys()
    for name, spec in convs.items():
        assert tokens.own[name].p.shape == (3, 2, spec.outputs)
        assert tokens.own[name].q.shape == (3, 2, spec.inputs)
    assert generator(w_plus, tokens).shape == (3, 3, plan.resolution, plan.resolution)


def test_the_first_stage_stands_alone(tmp_path: Path) -> None:
    """Its answers have no tokens, and steps after it begin without."""
    generator = tiny_generator()
    encoder = taught(encoder_for(generator, num_iters=2, gradient_feedback=True))
    crops = pictures()
    alone = encoder.without_tokens()
    answer = alone(crops, generator)
    assert torch.equal(answer.w_plus, encoder.codes(crops))
    assert not answer.tokens.own
    RefineStylePipeline(generator, encoder=alone).save_pretrained(tmp_path)
    pipe = RefineStylePipeline.from_pretrained(tmp_path)
    pipe.__dict__["perceptual"] = Perceptual.load("st-lpips-alex")  # whatever this machine could fetch
    plain, refined = (pipe.invert_crops(crops[:1], steps=steps)[0] for steps in (0, 2))
    assert plain.tokens is None
    assert refined.tokens is not None
    assert torch.equal(plain.w_plus, refined.w_plus)


def test_the_groups_are_thirds_of_the_resolutions() -> None:
    sizes = [sorted({spec.resolution for spec in group}) for group in layer_groups(StyleGAN2Config(1024).shape)]
    assert sizes == [[4, 8, 16], [32, 64, 128], [256, 512, 1024]]
    sizes = [sorted({spec.resolution for spec in group}) for group in layer_groups(BUNDLED.shape)]
    assert sizes == [[4, 8], [16, 32], [64, 128]]


def test_parameter_budgets() -> None:
    def total(generator: StyleGAN2Config, **options: object) -> int:
        config = EncoderConfig(generator.shape, EncoderNetwork(**options))  # type: ignore[arg-type]
        return sum(tensor.numel() for tensor in Encoder.template(config).values())

    assert total(StyleGAN2Config(1024)) < 60e6
    assert total(StyleGAN2Config(1024), gradient_feedback=True) < 60e6
    assert total(BUNDLED, **BUNDLED_SIZES, gradient_feedback=True) < 8e6


# --- Where it starts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", ["one", "two"])
def test_an_untrained_encoder_answers_with_the_mean_latent_and_no_residual(generator: Generator, stages: str) -> None:
    w_plus, tokens = encoder_for(generator, stages=stages)(pictures(), generator)
    assert torch.equal(w_plus, generator.mean_latent.expand_as(w_plus))
    sizes = []
    for x in tokens.own.values():
        assert not x.p.any()
        assert x.a is not None
        assert torch.equal(x.a, torch.ones_like(x.a))
        sizes.append(x.q.detach().square().sum(dim=2).mean())
    assert 0.7 < float(torch.stack(sizes).mean()) < 1.4  # so that P alone says how strong a token is


STARTS = [
    {"stages": "one"},
    {},
    {"layers": ("b32.*", "b4.conv1")},
    {"spatial": "full"},
    {"gradient_feedback": True},
    {"gradient_feedback": True, "residual": "pre", "spatial": "broadcast"},
]


@pytest.mark.parametrize("options", STARTS)
def test_after_one_step_every_query_has_a_gradient(generator: Generator, options: dict[str, object]) -> None:
    encoder = encoder_for(generator, **options)
    learning = encoder.first if encoder.second is None else encoder.second
    optimizer = torch.optim.Adam(learning.parameters(), lr=1e-3)
    x, distance = pictures(), encoder.load_distance()
    for _ in range(2):
        optimizer.zero_grad()
        w_plus, tokens = encoder(x, generator, distance)
        (generator(w_plus, tokens) - x).square().mean().backward()
        gradients = {name: p.grad for name, p in learning.named_parameters()}
        optimizer.step()
    # in a first iteration nothing steps along the gradient by Q, which is 0 where P is
    late = ("step_q.gain", "step_q.rate.weight", "step_q.rate.bias")
    assert not [name for name, g in gradients.items() if (g is None or not g.any()) and not name.endswith(late)]
    for name, g in gradients.items():
        if name.endswith("queries"):
            assert g is not None
            assert (g.abs().sum(dim=1) > 0).all(), name


# --- What the answers mean ------------------------------------------------------------------------------------------


def test_every_picture_gets_its_own_answer(generator: Generator) -> None:
    encoder = taught(encoder_for(generator))
    x = pictures(3)
    w_plus, tokens = encoder(x, generator)
    sets = tokens.unbind(encoder.config.base)
    for n in range(3):
        alone = encoder(x[n : n + 1], generator)
        torch.testing.assert_close(alone.w_plus[0], w_plus[n], rtol=0, atol=1e-5)  # sums of other lengths
        for name, layer in sets[n].layers.items():
            torch.testing.assert_close(alone.tokens.own[name].p[0], layer.p, rtol=0, atol=1e-5)
    assert sets[0].base == generator.fingerprint()
    assert not torch.allclose(w_plus[0], w_plus[1], atol=1e-3)
    together, one_by_one = generator(w_plus, tokens), generator(w_plus, sets)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", ["post", "pre"])
@pytest.mark.parametrize("spatial", ["scaled", "broadcast", "full"])
def test_equal_answers_are_equal_shares_of_every_kernel(generator: Generator, residual: str, spatial: str) -> None:
    """P has the base kernel's size: heads of equal size change wide and narrow layers by the same share."""
    encoder = encoder_for(generator, stages="one", residual=residual, spatial=spatial, rank=1)
    with torch.no_grad():
        for group in encoder.first.groups:
            for head in group.token_heads:  # type: ignore[union-attr]
                head.p.bias.fill_(0.1)  # which alone is not divided by the width
    tokens = encoder(pictures(), generator).tokens
    stats, shares = generator.kernel_stats(), []
    for name, x in tokens.own.items():
        assert bool(x.pre.all()) == (residual == "pre")
        square = squared_residual_norm(Residual(x.p, x.q, x.a, x.pre), 3, stats[name].style)
        shares.append((square.sqrt() / stats[name].norm).mean())
    assert all(0.03 < float(share.detach()) < 0.3 for share in shares), shares  # P is 0.1 of its unit


def test_tokens_of_chosen_layers_only(generator: Generator) -> None:
    encoder = encoder_for(generator, layers=("b8.*", "b32.torgb"), rank=5)
    own = encoder(pictures(), generator).tokens.own
    assert list(own) == ["b8.conv0", "b8.conv1", "b8.torgb", "b32.torgb"]
    assert (own["b8.conv0"].rank, own["b32.torgb"].rank) == (5, 3)  # of three outputs, three tokens say all


def test_standard_coordinates(generator: Generator) -> None:
    basis, inverse = standard_coordinates(generator, torch.Generator().manual_seed(0))
    torch.testing.assert_close(basis @ inverse, torch.eye(16), rtol=0, atol=1e-4)
    w = generator.mapping(torch.randn(4000, 16, generator=torch.Generator().manual_seed(9)))
    place = (w - generator.mean_latent) @ inverse
    spread = place.square().mean(dim=0)
    assert ((spread > 0.8) & (spread < 1.25)).all()  # another sample of 4,000


def test_in_bf16_the_answer_is_about_the_same(generator: Generator) -> None:
    encoder = taught(encoder_for(generator))
    plain = encoder(pictures(), generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(pictures(), generator)
    assert half.w_plus.dtype == half.tokens.own["b4.conv1"].p.dtype == torch.float32
    error = (half.w_plus - plain.w_plus).norm() / (plain.w_plus - encoder.w_avg).norm()
    assert float(error.detach()) < 0.05  # bf16 keeps 8 bits


# --- Files and refusals ---------------------------------------------------------------------------------------------


def test_save_and_load(generator: Generator, tmp_path: Path) -> None:
    encoder = taught(encoder_for(generator, layers=("*.conv*", "b32.torgb")))
    encoder.save_pretrained(tmp_path / "plain")
    encoder.save_pretrained(tmp_path / "half", "fp16")
    loaded = Encoder.from_pretrained(tmp_path / "plain")
    assert loaded.config == encoder.config
    assert not loaded.training
    expected, found = encoder(pictures(), generator), loaded(pictures(), generator)
    assert torch.equal(found.w_plus, expected.w_plus)
    for name, x in expected.tokens.own.items():
        assert torch.equal(found.tokens.own[name].p, x.p)
    half = Encoder.from_pretrained(tmp_path / "half")(pictures(), generator)
    torch.testing.assert_close(half.w_plus, expected.w_plus, rtol=0, atol=0.02)


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "size": (lambda: EncoderNetwork(size=40), ConfigError, "multiple of 16"),
    "widths": (lambda: EncoderNetwork(widths=(8, 8)), ConfigError, "four widths"),
    "rank": (lambda: EncoderNetwork(rank=0), ConfigError, "rank"),
    "heads": (lambda: EncoderNetwork(width=30, heads=2), ConfigError, "width 30"),
    "strides": (lambda: EncoderNetwork(strides=(8, 16, 32)), ConfigError, "compact backbone has the strides"),
    "no layers": (lambda: EncoderNetwork(layers=()), ConfigError, "take one stage"),
    "layer": (lambda: Encoder(EncoderConfig(TINY.shape, EncoderNetwork(layers=("b512.*",)))), LayerError, "b512"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_cannot_be(bad: tuple[Callable[[], object], type[Exception], str]) -> None:
    make, kind, message = bad
    with pytest.raises(kind, match=message):
        make()


def test_pictures_of_another_size(generator: Generator) -> None:
    with pytest.raises(ShapeError, match=r"\[N, 3, 32, 32\]"):
        encoder_for(generator)(pictures(side=16), generator)
    with pytest.raises(ShapeError, match=r"not \[0, 3, 32, 32\]"):
        encoder_for(generator).codes(pictures()[:0])


def test_the_answer_is_a_token_batch(generator: Generator) -> None:
    assert isinstance(encoder_for(generator)(pictures(), generator).tokens, TokenBatch)


# --- In a pipeline --------------------------------------------------------------------------------------------------


def test_a_pipeline_with_an_encoder_starts_from_its_answer(generator: Generator, tmp_path: Path) -> None:
    encoder = taught(encoder_for(generator))
    RefineStylePipeline(generator, encoder=encoder).save_pretrained(tmp_path)
    pipe = RefineStylePipeline.from_pretrained(tmp_path)
    pipe.__dict__["perceptual"] = Perceptual.load("st-lpips-alex")  # whatever this machine could fetch
    assert pipe.encoder is not None
    crops = pictures()
    expected = encoder(crops, generator)
    for n, face in enumerate(pipe.invert_crops(crops, steps=0)):
        assert torch.equal(face.w_plus, expected.w_plus[n])
        assert face.tokens is not None
        assert torch.equal(face.tokens.layers["b8.conv0"].p, expected.tokens.own["b8.conv0"].p[n])
        assert face.tokens.base == face.base == pipe.fingerprint
        assert (face.report["w_steps"], face.report["token_steps"]) == (0, 0)
        assert face.report["w_plus_mse"] != face.report["mse"]

    image = to_image(crops[0])
    better = pipe.invert(image, aligned=True, steps=6)
    assert (better.report["w_steps"], better.report["token_steps"]) == (0, 6)
    assert torch.allclose(better.w_plus, expected.w_plus[0], atol=0.05)  # levels of 8 bits
    both = pipe.invert(image, aligned=True, steps=6, w_steps=2)
    assert (both.report["w_steps"], both.report["token_steps"]) == (2, 4)
    with pytest.raises(ConfigError, match="3 of 2"):
        pipe.invert(image, aligned=True, steps=2, w_steps=3)
    likeness = pipe.invert(image, aligned=True, steps=2, tokens=False)
    assert (likeness.report["w_steps"], likeness.tokens) == (2, None)
    assert pipe.invert(image, aligned=True, tokens=False, w_steps=3).report["w_steps"] == 3
    with pytest.raises(ConfigError, match="all steps move"):
        pipe.invert(image, aligned=True, tokens=False, steps=4, w_steps=3)


def test_steps_refine_layers_for_which_the_encoder_has_no_tokens(generator: Generator) -> None:
    encoder = taught(encoder_for(generator, layers=("b16.*",)))
    how: dict[str, Any] = {"encoder": encoder, "perceptual": Perceptual.load("st-lpips-alex"), "seed": 3}
    plain, refined = (invert_crops(generator, pictures()[:1], steps=steps, **how)[0] for steps in (0, 2))
    assert plain.tokens is not None
    assert set(plain.tokens.layers) == {"b16.conv0", "b16.conv1", "b16.torgb"}
    convs = {spec.name for spec in generator.config.layers if spec.role == "conv"}
    assert refined.tokens is not None
    assert set(refined.tokens.layers) == convs | {"b16.torgb"}
    assert refined.tokens.layers["b8.conv0"].p.abs().max() > 0
    moved = refined.tokens.layers["b16.conv0"].p - plain.tokens.layers["b16.conv0"].p
    assert 0 < moved.abs().max() < plain.tokens.layers["b16.conv0"].p.abs().max()  # it began with the answer

    settings = InversionSettings(from_tokens=False)
    answer, anew = (invert_crops(generator, pictures()[:1], steps=n, settings=settings, **how)[0] for n in (0, 2))
    assert answer.tokens is not None  # no step, so what the encoder says
    assert torch.equal(answer.tokens.layers["b16.conv0"].p, plain.tokens.layers["b16.conv0"].p)
    assert anew.tokens is not None
    assert set(anew.tokens.layers) == convs


def test_an_encoder_of_another_generator_is_refused(generator: Generator) -> None:
    with pytest.raises(BaseMismatchError, match="encoder"):
        RefineStylePipeline(tiny_generator(seed=5), encoder=encoder_for(generator))


@pytest.mark.slow  # timm takes long to import
def test_a_timm_backbone_by_its_name(generator: Generator, tmp_path: Path) -> None:
    encoder = taught(encoder_for(generator, backbone="convnext_atto"))
    expected = encoder(pictures(), generator)
    encoder.save_pretrained(tmp_path)
    found = Encoder.from_pretrained(tmp_path)(pictures(), generator)
    assert torch.equal(found.w_plus, expected.w_plus)
    generator(expected.w_plus, expected.tokens).sum().backward()
    assert encoder.second is not None
    assert all(p.grad is not None for p in encoder.second.parameters())  # no layer is carried along unused
    for name in ("nonsense", "hf-hub:someone/model", "vit_tiny_patch16_224"):
        with pytest.raises(ConfigError, match="timm"):
            Encoder(EncoderConfig(TINY.shape, EncoderNetwork(backbone=name)))
    with pytest.raises(ConfigError, match="no published weights"):
        encoder_for(generator, pretrained=True)


@pytest.mark.slow
def test_no_answer_of_a_timm_backbone_depends_on_the_batch(generator: Generator) -> None:
    """Nor on training: its batch normalisation keeps its statistics. Maps have the strides that are wanted."""
    reader = open_backbone(EncoderNetwork(backbone="resnet10t", size=64), 3).train()
    before = {name: x.clone() for name, x in reader.named_buffers()}
    x = pictures(side=64)
    together, alone = reader(x), reader(x[:1])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[:1], other, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in reader.named_buffers())
    assert [y.shape[2] for y in open_backbone(EncoderNetwork(backbone="dla34", size=64), 3)(x)] == [16, 8, 4]


@pytest.mark.slow
def test_a_timm_backbone_sees_what_it_was_made_for() -> None:
    """ImageNet's mean and deviation; and channels that a model puts last come to their place."""
    reader = open_backbone(EncoderNetwork(backbone="mambaout_femto", size=64), 6).eval()
    taken: list[Tensor] = []
    reader.get_submodule("body").register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    grey = torch.tensor([0.485, 0.456, 0.406] * 2)[:, None, None] * 2 - 1
    maps = reader(grey.expand(1, 6, 64, 64))
    torch.testing.assert_close(taken[0], torch.zeros(1, 6, 64, 64), rtol=0, atol=1e-5)
    reader(grey.expand(1, 6, 64, 64) + 0.458)
    torch.testing.assert_close(taken[1][0, 0], torch.ones(64, 64), rtol=0, atol=1e-5)  # a deviation of 0.229
    assert [y.shape[1] for y in maps] == list(reader.channels) == [48, 96, 192]
    assert [y.shape[2] for y in maps] == [16, 8, 4]
