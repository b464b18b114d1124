"""The CLIP loss, on a tiny CLIP of the real classes: against direct computations, and what it makes of bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_generator
from torch import Tensor

from refinestyle_hub.errors import (
    ConfigError,
    MissingDependencyError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from refinestyle_hub.images import to_images
from refinestyle_hub.losses.clip import (
    TEMPLATES,
    Clip,
    ClipDirection,
    Preprocessing,
    choose_layers,
    directional_loss,
    fill_templates,
    picture_direction,
    text_direction,
)


pytest.importorskip("transformers")
from tiny_clip import save_tiny_clip  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny", crop=32, short_side=40)


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return Clip.load(folder)


def pictures(n: int, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth random pictures on 8-bit levels, in [-1, 1]."""
    coarse = torch.rand(n, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return (smooth * 255).round() / 127.5 - 1


def embed(folder: Path, images: Tensor) -> Tensor:
    """Embeddings by transformers alone, from 8-bit pictures."""
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(folder).eval()
    inputs = CLIPProcessor.from_pretrained(folder)(images=to_images(images), return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, input_ids=torch.tensor([[model.config.text_config.eos_token_id]]))
    return out.image_embeds


# --- The network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (24, 24), (40, 40), (50, 71)])
def test_pictures_are_prepared_as_the_processor_does(folder: Path, clip: Clip, size: tuple[int, int]) -> None:
    from transformers import CLIPProcessor

    images = pictures(2, *size)
    processor = CLIPProcessor.from_pretrained(folder)
    wanted = processor.image_processor(images=to_images(images), return_tensors="pt")["pixel_values"]
    found = clip.preprocessing(images)
    assert found.shape == wanted.shape == (2, 3, 32, 32)
    # the processor rounds to 8 bits after resizing: half a level, or one where two roundings meet
    assert (found - wanted).abs().max() <= 1.01 / 255 / min(clip.preprocessing.std)


def test_embeddings_are_those_of_transformers(folder: Path, clip: Clip) -> None:
    images = pictures(3)
    found = clip.pictures(images)
    torch.testing.assert_close(found, embed(folder, images), atol=5e-3, rtol=0)  # the 8-bit rounding again
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_texts_are_those_of_transformers(folder: Path, clip: Clip) -> None:
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    texts = ["a photo of a face.", "a pencil sketch."]
    inputs = processor(text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model(**inputs, pixel_values=torch.zeros(1, 3, 32, 32)).text_embeds
    torch.testing.assert_close(clip.texts(texts), wanted)
    one_by_one = torch.cat([clip.texts([text]) for text in texts])
    torch.testing.assert_close(clip.texts(texts), one_by_one)  # padding changes nothing


def test_a_text_longer_than_the_context_is_cut(clip: Clip) -> None:
    assert clip.texts(["pencil " * 200]).isfinite().all()


def test_gradients_reach_the_pictures_and_no_weight(clip: Clip) -> None:
    images = (0.9 * pictures(1)).requires_grad_()
    clip.pictures(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in clip.parameters())


# --- Templates and directions ---------------------------------------------------------------------------------------


def test_templates_take_the_phrase_with_the_right_article() -> None:
    templates = ("{a} {x}.", "the {x}.")
    assert fill_templates("pencil sketch", templates) == ["a pencil sketch.", "the pencil sketch."]
    assert fill_templates("  an  oil painting.", templates) == ["an oil painting.", "the oil painting."]
    assert fill_templates("A4 page {x}", templates)[0] == "an A4 page {x}."
    assert len(set(fill_templates("face"))) == len(TEMPLATES)
    for empty in ("", " . "):
        with pytest.raises(ConfigError, match="A text is needed"):
            fill_templates(empty)


def test_text_direction_against_a_direct_computation(clip: Clip) -> None:
    found = text_direction(clip, "a photo", "a pencil sketch")
    changes = [
        clip.texts([after])[0] - clip.texts([before])[0]
        for before, after in zip(fill_templates("photo"), fill_templates("pencil sketch"), strict=True)
    ]
    wanted = torch.stack(changes).mean(0)
    torch.testing.assert_close(found, wanted / wanted.norm(), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="no direction"):
        text_direction(clip, "photo", "a photo.")


def test_picture_direction_leads_from_the_samples_to_the_references(clip: Clip) -> None:
    sources, references = pictures(3, seed=1), pictures(2, seed=2)
    wanted = clip.pictures(references).mean(0) - clip.pictures(sources).mean(0)
    found = picture_direction(clip, sources, references)
    torch.testing.assert_close(found, wanted / wanted.norm())
    with pytest.raises(ConfigError, match="no direction"):
        picture_direction(clip, sources, sources)


# --- Losses ---------------------------------------------------------------------------------------------------------


def test_directional_loss_is_one_minus_the_cosine() -> None:
    rng = torch.Generator().manual_seed(0)
    change, direction = torch.randn(5, 12, generator=rng), torch.randn(12, generator=rng)
    found = directional_loss(change, direction / direction.norm())
    wanted = 1 - torch.cosine_similarity(change, direction[None])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)  # the smoothing of 0.01 beside lengths of 3
    along = directional_loss(torch.stack([direction, -direction]), direction / direction.norm())
    torch.testing.assert_close(along, torch.tensor([0.0, 2.0]), atol=1e-4, rtol=0)


def test_directional_loss_has_a_tame_gradient_without_a_change() -> None:
    change = torch.zeros(1, 12, requires_grad=True)
    direction = torch.nn.functional.one_hot(torch.tensor(3), 12).float()
    directional_loss(change, direction).sum().backward()
    assert change.grad is not None
    torch.testing.assert_close(change.grad[0], -direction / 0.01)  # straight to where the text points, of length 100


def test_loss_and_gradient_against_a_direct_computation(folder: Path, clip: Clip) -> None:
    """Two CLIPs, written out, with the gradient by finite differences."""
    other = Clip.load(save_tiny_clip(folder.parent / "other", seed=1))
    loss = ClipDirection.from_text([clip, other], "photo", "pencil sketch")
    source, adapted = 0.9 * pictures(2, seed=3), 0.9 * pictures(2, seed=4)

    def direct(x: Tensor) -> Tensor:
        total = torch.zeros(2)
        for one in (clip, other):
            target = one.texts(fill_templates("pencil sketch"))
            text = (target - one.texts(fill_templates("photo"))).mean(0)
            image = one.pictures(x) - one.pictures(source)
            total += 1 - torch.cosine_similarity(image, text[None])
        return total

    x = adapted.clone().requires_grad_()
    found = loss(source, x)
    torch.testing.assert_close(found, direct(adapted), atol=1e-3, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    step = 1e-2 * gradient / gradient.abs().max()
    slope = (direct(adapted + step).sum() - direct(adapted - step).sum()) / 2
    assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=0.05)  # fp32 over a small step
    targets = [(one, one.texts(fill_templates("pencil sketch")).mean(0)) for one in (clip, other)]
    away = sum(1 - torch.cosine_similarity(one.pictures(adapted), target[None]) for one, target in targets)
    torch.testing.assert_close(loss.to_target(adapted), away)


def test_source_pictures_get_no_gradient(clip: Clip) -> None:
    loss = ClipDirection.from_pictures([clip], pictures(2, seed=1), pictures(2, seed=2))
    source, adapted = pictures(1, seed=3).requires_grad_(), pictures(1, seed=4).requires_grad_()
    loss(source, adapted).sum().backward()
    assert source.grad is None
    assert adapted.grad is not None


def test_descent_turns_pictures_where_the_text_points(clip: Clip) -> None:
    loss = ClipDirection.from_text([clip], "photo", "pencil sketch")
    source = 0.5 * pictures(2, 32, 32)
    x = source.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.03)
    for _ in range(40):
        optimiser.zero_grad()
        loss(source, x).sum().backward()
        optimiser.step()
    assert loss(source, x).max() < 0.6  # from 1, where nothing has changed


def test_loss_needs_a_clip() -> None:
    with pytest.raises(ConfigError, match="at least one CLIP"):
        ClipDirection([])


# --- Layers ---------------------------------------------------------------------------------------------------------


def test_chosen_layers_are_those_whose_codes_the_loss_moves() -> None:
    generator = tiny_generator()
    w_plus = generator.map(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    weights = torch.tensor([0.0, 0.0, 5.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    codes = w_plus.clone()

    class Probe:
        """A stand-in for drawing whose gradient by code is known."""

        layers = generator.layers

        def __call__(self, w: Tensor) -> Tensor:
            return (w * weights[: w.shape[1], None]).sum(dim=(1, 2))

    found = choose_layers(Probe(), lambda x: x, codes, 2)  # type: ignore[arg-type]
    assert found == tuple(name for name, spec in generator.layers.items() if spec.code in (2, 4))
    with pytest.raises(ConfigError, match="codes"):
        choose_layers(generator, lambda x: x.sum(dim=(1, 2, 3)), codes, 99)


def test_layers_are_chosen_through_clip_and_generator(clip: Clip) -> None:
    generator = tiny_generator()
    w_plus = generator.map(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    loss = ClipDirection.from_text([clip], "photo", "pencil sketch")
    some = choose_layers(generator, loss.to_target, w_plus, 3)
    assert 0 < len(some) < len(generator.layers)
    assert choose_layers(generator, loss.to_target, w_plus, w_plus.shape[1]) == tuple(generator.layers)


# --- What can go wrong ----------------------------------------------------------------------------------------------


def test_without_transformers_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'refinestyle-hub\[text\]'"):
        Clip.load(folder)


def test_no_clip_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="No CLIP can be loaded"):
        Clip.load(tmp_path)


@pytest.mark.parametrize("name", ["./my-clip", "my-clip/", "/my-clip", "~/my-clip", "a/my-clip/", "a\\my-clip"])
def test_a_mistyped_folder_is_told_as_one(name: str) -> None:
    for missing in (name, Path(name)):
        with pytest.raises(ModelNotFoundError, match="There is no folder .*my-clip"):
            Clip.load(missing)


def test_a_pickle_is_not_read(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        Clip.load(copy)


def test_another_kind_of_model(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UnsupportedModelError, match="bert"):
        Clip.load(copy)


def test_missing_weights(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFileError, match="text_projection"):
        Clip.load(copy)


def test_an_unusual_processor_is_refused() -> None:
    from transformers import CLIPImageProcessor

    small = {"shortest_edge": 32}
    assert Preprocessing.of(CLIPImageProcessor()).crop == 224
    for odd in (
        {"do_center_crop": False},
        {"crop_size": {"height": 224, "width": 200}},
        {"size": small},  # smaller than its crop: it would pad
        {"resample": 1},
    ):
        with pytest.raises(UnsupportedModelError, match="usual kind"):
            Preprocessing.of(CLIPImageProcessor(**odd))
