"""The verbs of the pipeline, and its files."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_encoder

from refinestyle_hub.config import DiscriminatorConfig, StyleGAN2Config
from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions
from refinestyle_hub.errors import (
    BaseMismatchError,
    ConfigError,
    DirectionError,
    DomainError,
    ModelNotFoundError,
    ShapeError,
)
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.generators.drawing import batch_size
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.hub.later import Later
from refinestyle_hub.images import to_tensor
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.inversion.inversion_settings import InversionSettings
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


PLAN = {4: 8, 8: 8, 16: 8, 32: 8}


def _generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = StyleGAN2Generator(StyleGAN2Config(32, z_dim=16, w_dim=16, mapping_layers=2, channels=PLAN)).eval()
    with torch.no_grad():
        for resolution in PLAN:  # a fresh toRGB draws far outside [-1, 1]
            generator.synthesis.get_submodule(f"b{resolution}.torgb").weight *= 0.15
    return generator


def _tokens(generator: Generator, seed: int, residual: str = "pre") -> TokenSet:
    rng = torch.Generator().manual_seed(seed)
    parameters = TokenParameters(generator.kernel_stats(), 2, residual=residual, rng=rng)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, leaf in parameters.named_parameters():
            if name.endswith(".p"):
                leaf.copy_(torch.randn(leaf.shape, generator=rng))
    return parameters.token_set(generator.fingerprint()).detach()


@pytest.fixture(scope="module")
def pipe() -> RefineStylePipeline:
    generator = _generator()
    vectors = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1))
    directions = Directions({"smile": Direction(vectors[0]), "age": Direction(vectors[1])}, generator.fingerprint())
    domains = {"sketch": _tokens(generator, 2), "bronze": _tokens(generator, 3)}
    discriminator = Discriminator(DiscriminatorConfig(32, channels=PLAN)).eval()
    pipe = RefineStylePipeline(generator, discriminator, directions, domains)
    pipe.__dict__["perceptual"] = Perceptual.load("st-lpips-alex")  # whatever this machine could fetch
    return pipe


@pytest.fixture(scope="module")
def faces(pipe: RefineStylePipeline) -> list[Inversion]:
    with torch.no_grad():
        w = pipe.generator.map(torch.randn(2, 16, generator=torch.Generator().manual_seed(4)))
    return [
        Inversion(w[0], _tokens(pipe.generator, 5, "post"), base=pipe.fingerprint),
        Inversion(w[1], None, base=pipe.fingerprint),
    ]


def test_generate_draws_the_published_latents(pipe: RefineStylePipeline) -> None:
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 16)).float()  # noqa: NPY002
    with torch.no_grad():
        expected = pipe.generator(pipe.generator.map(z, 0.7)).clamp(-1, 1)
    found = pipe.generate([7, 8], output_type="pt")
    assert found.shape == (2, 3, 32, 32)
    torch.testing.assert_close(found[:1], expected, rtol=0, atol=1e-5)  # alone and in a batch
    with pytest.raises(ConfigError, match="seed"):
        pipe.generate([-1])


def test_more_pictures_than_a_batch(pipe: RefineStylePipeline) -> None:
    strengths = torch.linspace(-1, 1, 11)
    found = pipe.generate(range(11), edits={"smile": strengths}, domains={"sketch": strengths}, output_type="pt")
    last = pipe.generate([10], edits={"smile": 1.0}, domains={"sketch": 1.0}, output_type="pt")
    torch.testing.assert_close(found[10:], last, rtol=0, atol=1e-4)


def test_kinds_of_output(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    images = pipe.render(faces)
    assert [image.size for image in images] == [(32, 32), (32, 32)]
    array = pipe.render(faces, output_type="np")
    assert array.dtype == np.uint8
    assert (array[1] == np.asarray(images[1])).all()
    one = pipe.render(faces[0])
    assert isinstance(one, Image.Image)
    assert pipe.render(faces[0], output_type="pt").shape == (3, 32, 32)
    with pytest.raises(ConfigError, match="output_type"):
        pipe.render(faces, output_type="jpg")  # type: ignore[arg-type]


def test_render_composes_edits_tokens_and_domains(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    found = pipe.render(
        faces, edits={"smile": 0.5}, domains={"sketch": torch.tensor([0.0, 0.7]), "bronze": 0.3}, output_type="pt"
    )
    w = torch.stack([face.w_plus for face in faces]) + 0.5 * pipe.directions["smile"].vector
    sketch, bronze = pipe.domains["sketch"], pipe.domains["bronze"]
    assert faces[0].tokens is not None
    rows = [TokenSet.mix([(faces[0].tokens, 1), (bronze, 0.3)]), TokenSet.mix([(sketch, 0.7), (bronze, 0.3)])]
    with torch.no_grad():
        expected = pipe.generator(w, rows).clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # a set that is not one of the pipeline's, by itself
    own = pipe.render(faces, domains={sketch: 0.7}, output_type="pt")
    assert torch.equal(own, pipe.render(faces, domains={"sketch": 0.7}, output_type="pt"))


def test_large_pictures_are_drawn_one_by_one_on_a_cpu(
    pipe: RefineStylePipeline, faces: list[Inversion], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts that fit, each with its own tokens and strengths, and to the same pictures."""
    assert batch_size(pipe.generator) == 8
    strengths = {"sketch": [0.1 * i for i in range(5)]}
    few = [faces[0], faces[1], faces[0], faces[1], faces[0]]
    together = pipe.render(few, domains=strengths, output_type="pt")
    largest = max(conv.spec.outputs * conv.spec.resolution**2 for conv in pipe.generator.convs())
    sizes: list[int] = []
    for room, count in ((2 * largest + 1, 2), (largest - 1, 1)):
        monkeypatch.setattr("refinestyle_hub.generators.drawing.CACHED", room)
        assert batch_size(pipe.generator) == count
        sizes.clear()
        with pipe.generator.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0]))):
            parts = pipe.render(few, domains=strengths, output_type="pt")
        assert sizes == [count] * (5 // count) + [1] * (5 % count)
        torch.testing.assert_close(parts, together, rtol=0, atol=1e-4)


def test_a_style_takes_the_place_of_a_faces_own_texture(
    pipe: RefineStylePipeline, faces: list[Inversion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refinestyle_hub.generators.drawing.FINE", 8)  # so that layers of 16 and 32 px are fine
    face, own = faces[0], faces[0].tokens
    assert own is not None
    fine = [name for name in own.layers if pipe.generator.layer(name).spec.resolution > 8]
    assert 0 < len(fine) < len(own.layers)
    mixes = [{"sketch": 0.0}, {"sketch": 0.4}, {"sketch": 0.7, "bronze": -0.5}]
    for domains, share in zip(mixes, (1.0, 0.6, 0.0), strict=True):
        kept = own.scale(dict.fromkeys(fine, share))
        with torch.no_grad():
            tokens = TokenSet.mix([(kept, 1.0), *((pipe.domains[name], s) for name, s in domains.items())])
            expected = pipe.generator(face.w_plus[None], tokens).clamp(-1, 1)[0]
        found = pipe.render(face, domains=domains, output_type="pt")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_an_edit_is_stronger_by_its_gain_beside_a_faces_own_tokens_only(
    pipe: RefineStylePipeline, faces: list[Inversion]
) -> None:
    face, vector = faces[0], pipe.directions["age"].vector
    gained = Directions({"age": Direction(vector, DirectionInfo(gain=1.5))})
    other = RefineStylePipeline(pipe.generator, None, gained, pipe.domains)
    shown: dict[str, Any] = {"output_type": "pt"}
    for refine, gain in ((1.0, 1.5), (0.5, 1.25), (0.0, 1.0), (-2.0, 1.5)):
        found = other.render(face, edits={"age": 2.0}, refine=refine, **shown)
        expected = pipe.render(face, edits={"age": 2.0 * gain}, refine=refine, **shown)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    alone = replace(face, tokens=None)
    style: dict[str, Any] = {"edits": {"age": 2.0}, "domains": {"sketch": 1.0}, **shown}
    assert torch.equal(other.render(alone, **style), pipe.render(alone, **style))
    assert torch.equal(other.generate(3, **style), pipe.generate(3, **style))
    assert torch.equal(other.render(face, edits={"age": 0.0}, **shown), pipe.render(face, **shown))


def test_without_tokens_and_edits_it_is_the_plain_picture(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    with torch.no_grad():
        plain = pipe.generator(faces[0].w_plus[None]).clamp(-1, 1)[0]
    same = pipe.render(faces[0], refine=0.0, edits={"age": 0.0}, domains={"sketch": 0.0}, output_type="pt")
    assert torch.equal(same, plain)
    assert not torch.equal(pipe.render(faces[0], output_type="pt"), plain)


def test_what_cannot_be_drawn_is_named(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    with pytest.raises(ConfigError, match="at least one seed"):
        pipe.generate([])
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(ConfigError, match="whole number"):
            pipe.generate([seed])  # type: ignore[list-item]
    with pytest.raises(ShapeError, match="no face"):
        pipe.render([])
    with pytest.raises(ShapeError, match="3 strengths for a batch of 2"):
        pipe.render(faces[:2], refine=[1.0, 0.5, 0.0])
    with pytest.raises(ShapeError, match="3 strengths for a batch of 2"):
        pipe.generate([0, 1], domains={next(iter(pipe.domains)): [1.0, 0.5, 0.0]})
    with pytest.raises(ConfigError, match="far too large"):
        pipe.generate([0], edits={"smile": 3e38})


def test_unknown_names(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    with pytest.raises(DirectionError, match="Did you mean 'smile'"):
        pipe.render(faces[0], edits={"smlie": 1.0})
    with pytest.raises(DomainError, match=r"Did you mean 'sketch'\?\nKnown: bronze, sketch"):
        pipe.render(faces[0], domains={"skech": 1.0})


def test_parts_of_another_generator_are_refused(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    other = _generator(seed=9)
    with pytest.raises(BaseMismatchError, match="set of directions"):
        RefineStylePipeline(other, directions=pipe.directions)
    with pytest.raises(BaseMismatchError, match="'sketch'"):
        RefineStylePipeline(other, domains=pipe.domains)
    bare = RefineStylePipeline(other)
    with pytest.raises(BaseMismatchError, match="inversion"):
        bare.render(faces[0])
    unknown = replace(faces[0], base=bare.fingerprint)  # whose tokens are still another generator's
    with pytest.raises(BaseMismatchError, match="inversion"):
        bare.render(unknown)
    with pytest.raises(BaseMismatchError, match="token set"):
        bare.generate([0], domains={pipe.domains["sketch"]: 1.0})
    lenient = RefineStylePipeline(other, directions=pipe.directions, allow_base_mismatch=True)
    assert isinstance(lenient.render(faces[0], edits={"smile": 1.0}), Image.Image)


def test_saved_and_loaded_pipelines_draw_the_same(
    pipe: RefineStylePipeline, faces: list[Inversion], tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    loaded = RefineStylePipeline.from_pretrained(tmp_path / "model")
    assert loaded.discriminator is not None
    assert not any(weight.requires_grad for weight in loaded.generator.parameters())
    assert sorted(loaded.domains) == ["bronze", "sketch"]
    how = {"edits": {"smile": 1.0, "age": -0.5}, "domains": {"bronze": 0.8}, "output_type": "pt"}
    assert torch.equal(loaded.render(faces, **how), pipe.render(faces, **how))

    RefineStylePipeline(pipe.generator).save_pretrained(tmp_path / "bare", variant="fp16")
    bare = RefineStylePipeline.from_pretrained(tmp_path / "bare")
    assert (bare.discriminator, len(bare.directions), bare.domains) == (None, 0, {})
    with pytest.raises(ModelNotFoundError):
        RefineStylePipeline.from_pretrained(tmp_path)


def test_an_aligned_picture_is_inverted_as_it_is(pipe: RefineStylePipeline, astronaut: Image.Image) -> None:
    crop = astronaut.crop((140, 15, 315, 190)).resize((48, 48))
    face = pipe.invert(crop, aligned=True, steps=10)
    assert (face.report["w_steps"], face.report["token_steps"]) == (4, 6)
    assert (face.quad, face.source_size) == (None, None)
    assert face.crop is not None
    expected = to_tensor(crop, 32)[0].permute(1, 2, 0).add(1).mul(127.5).round()
    assert torch.equal(face.crop.float(), expected)
    assert pipe.invert(crop, aligned=True, steps=3, tokens=False).tokens is None
    with pytest.raises(ShapeError, match="aligned"):
        face.paste_back(crop, crop)


def test_a_photo_is_cropped_inverted_and_pasted_back(pipe: RefineStylePipeline, astronaut: Image.Image) -> None:
    face = pipe.invert(astronaut, steps=4)
    assert face.source_size == astronaut.size
    assert face.quad is not None
    red = Image.new("RGB", (32, 32), "red")
    pasted = np.asarray(face.paste_back(astronaut, red)).astype(int)
    centre = face.quad.mean(dim=0).round().int().tolist()
    assert pasted[centre[1], centre[0]].tolist() == pytest.approx([255, 0, 0], abs=2)
    assert (pasted[-50:] == np.asarray(astronaut)[-50:]).all()
    with pytest.raises(ShapeError, match="found in a photo of"):
        face.paste_back(astronaut.resize((300, 300)), red)


def test_an_encoder_is_loaded_when_it_is_first_used(pipe: RefineStylePipeline, tmp_path: Path) -> None:
    """Its backbone imports for longer than a picture takes; but what is missing is told at once."""
    RefineStylePipeline(pipe.generator, encoder=tiny_encoder(pipe.generator)).save_pretrained(tmp_path)
    loaded = RefineStylePipeline.from_pretrained(tmp_path).to(torch.bfloat16)
    loaded.generate(0)
    assert isinstance(vars(loaded)["encoder"], Later)
    assert loaded.encoder is loaded.encoder
    assert loaded.encoder is not None
    assert not loaded.encoder.training
    assert loaded.encoder.w_avg.dtype == torch.bfloat16
    (tmp_path / "encoder" / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"encoder/model\.safetensors"):
        RefineStylePipeline.from_pretrained(tmp_path)


def test_moving_keeps_what_is_drawn(pipe: RefineStylePipeline, faces: list[Inversion]) -> None:
    distance = pipe.perceptual
    assert pipe.to("cpu") is pipe
    assert pipe.perceptual is distance
    assert pipe.device == torch.device("cpu")
    same = replace(faces[0])
    assert torch.equal(pipe.render(same, output_type="pt"), pipe.render(faces[0], output_type="pt"))


def test_a_model_in_bfloat16_is_not_saved(tiny_pipe: RefineStylePipeline, tmp_path: Path) -> None:
    generator = copy.deepcopy(tiny_pipe.generator)
    with pytest.raises(ConfigError, match="without a dtype"):
        RefineStylePipeline(generator).to(torch.bfloat16).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_settings_of_a_model_come_back_from_its_index(tiny_pipe: RefineStylePipeline, tmp_path: Path) -> None:
    mine = InversionSettings(code_rate=0.02, size=512, precision="bf16")
    pipe = RefineStylePipeline(tiny_pipe.generator, inversion=mine)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["settings"] == {"inversion": {"code_rate": 0.02, "size": 512, "precision": "bf16"}}
    assert RefineStylePipeline.from_pretrained(tmp_path).inversion == mine
    for settings, message in (({"colours": {}}, "nobody knows here: colours"), ({"inversion": {"size": 7}}, "size")):
        (tmp_path / "model_index.json").write_text(json.dumps(index | {"settings": settings}))
        with pytest.raises(ConfigError, match=message):
            RefineStylePipeline.from_pretrained(tmp_path)
