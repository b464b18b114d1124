"""Published checkpoints, in the layouts that their code bases write: pictures agree with the original formulas."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nvidia_layout as nvidia
import pytest
import rosinality_layout as rosinality
import stylegan2_reference as reference
import torch

from refinestyle_hub.cards.facts import read_card
from refinestyle_hub.convert import convert
from refinestyle_hub.errors import (
    CardError,
    ConfigError,
    ModelFileError,
    ModelNotFoundError,
    RefineStyleHubError,
    UnsupportedModelError,
)
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.storage.index import read_index
from refinestyle_hub.storage.model_folder import Folder


TOLERANCE = 1e-4  # of pictures and logits of the size of 1: sums in another order, in fp32
LICENCE = "cc0-1.0"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _codes(n: int, layers: int, w_dim: int) -> torch.Tensor:
    return torch.randn(n, layers, w_dim, generator=torch.Generator().manual_seed(1))


def _assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours / scale, theirs / scale, atol=TOLERANCE, rtol=0)


def _refused(source: Path, error: type[RefineStyleHubError], match: str, **options: Any) -> None:
    """Converting ``source`` fails as it should: typed, at most three lines, and nothing is left behind."""
    out = source.parent / "out"
    before = sorted(source.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        convert(source, out, **{"license": LICENCE, **options})
    assert len(str(caught.value).splitlines()) <= 3
    assert sorted(source.parent.iterdir()) == before


# --- NVIDIA ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"resolution": 32, "mapping": 8, "z_dim": 8}, id="32"),
        pytest.param({"resolution": 64, "clamp": 1.5, "fp16": 2}, id="64, clamped, fp16 blocks"),
        pytest.param({"resolution": 256, "base": 1024, "maximum": 16}, id="256, half the channels, 2 mapping layers"),
        pytest.param({"resolution": 1024, "base": 4096, "maximum": 8}, id="1024"),
    ],
)
def test_nvidia_generator(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = nvidia.Generator(**options)
    source = nvidia.write_pickle(tmp_path / "net.pkl", nvidia.snapshot(G=theirs, G_ema=theirs))
    found = convert(source, tmp_path / "out", license=LICENCE)
    ours = Generator.from_pretrained(tmp_path / "out")
    assert found.parts == read_index(Folder(tmp_path / "out")).parts == ("generator",)
    assert ours.config.conv_clamp == options.get("clamp")
    assert ours.config.num_fp16_res == options.get("fp16", 0)
    weights = theirs.state_dict()
    assert torch.equal(ours.mean_latent, weights["mapping.w_avg"])
    z = torch.randn(3, ours.config.z_dim)
    _assert_close(ours.mapping(z), reference.mapping(weights, z, ours.config.mapping_layers))
    w = _codes(1 if options["resolution"] == 1024 else 2, ours.config.num_ws, ours.config.w_dim)
    _assert_close(ours(w), reference.synthesis(weights, w, options["resolution"], options.get("clamp")))


@torch.no_grad()
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nvidia_discriminator(tmp_path: Path, protocol: int) -> None:
    networks = {
        "G": nvidia.Generator(resolution=32),
        "D": nvidia.Discriminator(resolution=32, clamp=2.0, fp16=1),
        "G_ema": nvidia.Generator(resolution=32),
    }
    source = nvidia.write_pickle(tmp_path / "net.pkl", nvidia.snapshot(**networks), protocol)
    found = convert(source, tmp_path / "out", license=LICENCE)
    assert found.parts == ("generator", "discriminator")
    ours = Discriminator.from_pretrained(tmp_path / "out")
    assert ours.config.num_fp16_res == 1
    pictures = torch.randn(8, 3, 32, 32)
    _assert_close(ours(pictures), reference.discriminator(networks["D"].state_dict(), pictures, 32, clamp=2.0))
    generator = Generator.from_pretrained(tmp_path / "out")
    averaged = networks["G_ema"].state_dict()["synthesis.b32.conv0.weight"]
    assert torch.equal(generator.synthesis.b32.conv0.weight, averaged)  # type: ignore[union-attr]


@torch.no_grad()
def test_statistic_over_the_whole_batch(tmp_path: Path) -> None:
    theirs = nvidia.Discriminator(resolution=16, group=None)
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": nvidia.Generator(resolution=16), "D": theirs})
    convert(source, tmp_path / "out", license=LICENCE)
    pictures = torch.randn(6, 3, 16, 16)
    logits = reference.discriminator(theirs.state_dict(), pictures, 16, group=6)
    _assert_close(Discriminator.from_pretrained(tmp_path / "out")(pictures), logits)


def test_generator_pickled_alone(tmp_path: Path) -> None:
    """As PTI saves a tuned generator: the module itself, by ``torch.save``."""
    theirs = nvidia.Generator(resolution=16)
    source = nvidia.write_pickle(tmp_path / "model.pt", theirs, torch_save=True)
    convert(source, tmp_path / "out", license=LICENCE)
    ours = Generator.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.items())


def test_generator_trained_without_noise_or_average(tmp_path: Path) -> None:
    theirs = nvidia.Generator(resolution=16)
    for name, module in list(theirs.named_modules()):
        if name.endswith(("conv0", "conv1")):
            module.use_noise = False  # type: ignore[assignment]
            del module.noise_const, module.noise_strength
    del theirs.mapping.w_avg
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": theirs})
    found = convert(source, tmp_path / "out", license=LICENCE)
    assert len(found.notes) == 2
    ours = Generator.from_pretrained(tmp_path / "out")
    assert not any(float(conv.noise_strength.detach()) for conv in ours.convs())
    mean = reference.mapping(theirs.state_dict(), torch.randn(20_000, 16), 2).mean(dim=0)
    # the standard error of a mean over 20,000 samples is 0.007 deviations
    torch.testing.assert_close(ours.mean_latent, mean, atol=0.05, rtol=0)


def test_networks_that_are_not_plain_stylegan2(tmp_path: Path) -> None:
    def refused(network: nvidia.Persistent, match: str) -> None:
        source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": network})
        _refused(source, UnsupportedModelError, match)

    refused(nvidia.Generator(resolution=16, c_dim=10), "class-conditional")
    refused(nvidia.Generator(resolution=16, colours=1), "1 channels")
    refused(nvidia.Generator(resolution=16, arch="orig"), "skip connections")
    refused(type("TriPlaneGenerator", (nvidia.Generator,), {})(resolution=16), "'TriPlaneGenerator'")
    network = nvidia.Generator(resolution=16)
    network.mapping.fc0.activation = "relu"  # type: ignore[union-attr, assignment]
    refused(network, "'relu'")
    network = nvidia.Generator(resolution=16)
    network.mapping.fc1.bias_gain = 0.1  # type: ignore[union-attr, assignment]
    refused(network, "learning rate")
    network = nvidia.Generator(resolution=16)
    network.synthesis.b8.conv0.resample_filter.fill_(1 / 16)  # type: ignore[union-attr, operator]
    refused(network, "filter")
    network = nvidia.Generator(resolution=16)
    network.synthesis.b8.conv0.conv_clamp = 1.0  # type: ignore[union-attr, assignment]
    refused(network, "conv_clamp")
    third = nvidia.Generator(resolution=16)
    third.synthesis.input = nvidia.Persistent()  # type: ignore[assignment]
    third.synthesis.input.size = torch.zeros(2).numpy()  # type: ignore[assignment]
    refused(third, "StyleGAN3")


def test_discriminator_of_another_kind_can_be_left_out(tmp_path: Path) -> None:
    networks = nvidia.snapshot(G_ema=nvidia.Generator(resolution=16), D=nvidia.Discriminator(resolution=16))
    for module in networks["D"].modules():
        if hasattr(module, "architecture"):
            module.architecture = "orig"
    source = nvidia.write_pickle(tmp_path / "net.pkl", networks)
    _refused(source, UnsupportedModelError, "discriminator=False")
    assert convert(source, tmp_path / "out", license=LICENCE, discriminator=False).parts == ("generator",)


def test_sizes_must_fit_the_tensors(tmp_path: Path) -> None:
    network = nvidia.Generator(resolution=16)
    network.img_resolution = 32
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": network})
    _refused(source, ModelFileError, "states img_resolution 32")
    network.img_resolution = 16
    network.synthesis.b8.conv0.bias = torch.nn.Parameter(torch.zeros(5))  # type: ignore[union-attr]
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": network})
    _refused(source, ModelFileError, r"wrong shape synthesis.b8.conv0.bias \[5\], expected \[12\]")
    del network.synthesis.b8.conv0.bias  # type: ignore[union-attr]
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": network})
    _refused(source, ModelFileError, "missing synthesis.b8.conv0.bias")


# --- rosinality -----------------------------------------------------------------------------------------------------


def _save(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@torch.no_grad()
@pytest.mark.parametrize(
    ("channels", "depth"),
    [
        pytest.param({4: 12, 8: 12, 16: 10, 32: 8}, 8, id="32"),
        pytest.param({4: 16, 8: 16, 16: 16, 32: 16, 64: 8, 128: 4, 256: 2}, 2, id="256, half the channels"),
        pytest.param({4: 8, 8: 8, 16: 8, 32: 8, 64: 8, 128: 6, 256: 6, 512: 4, 1024: 4}, 8, id="1024"),
    ],
)
def test_rosinality(tmp_path: Path, channels: dict[int, int], depth: int) -> None:
    theirs, their_discriminator = rosinality.Generator(channels, 16, depth), rosinality.Discriminator(channels)
    source = _save(tmp_path / "net.pt", rosinality.checkpoint(theirs, their_discriminator, latent_avg=torch.randn(16)))
    found = convert(source, tmp_path / "out", license=LICENCE)
    assert found.parts == ("generator", "discriminator")
    ours = Generator.from_pretrained(tmp_path / "out")
    z = torch.randn(3, 16)
    _assert_close(ours.mapping(z), theirs.style(z))
    n = 1 if 1024 in channels else 2
    w = _codes(n, ours.config.num_ws, 16)
    _assert_close(ours(w), theirs(w))
    pictures = torch.randn(n, 3, max(channels), max(channels))
    _assert_close(Discriminator.from_pretrained(tmp_path / "out")(pictures), their_discriminator(pictures))


@pytest.mark.parametrize("zipped", [True, False])
def test_training_state(tmp_path: Path, zipped: bool) -> None:
    """All that rosinality's train.py saves: options, optimisers, the generator that was not averaged."""
    channels = {4: 8, 8: 8, 16: 8}
    theirs, current = rosinality.Generator(channels, 16, 2), rosinality.Generator(channels, 16, 2)
    their_discriminator = rosinality.Discriminator(channels)
    optimizer = torch.optim.Adam(their_discriminator.parameters(), lr=0.002, betas=(0.0, 0.99))
    their_discriminator(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    more = {
        "g": current.state_dict(),
        "d_optim": optimizer.state_dict(),
        "args": argparse.Namespace(size=16, lr=0.002, path="faces", augment=False),
        "ada_aug_p": 0.0,
        "latent_avg": torch.randn(16),
    }
    source = _save(tmp_path / "100000.pt", rosinality.checkpoint(theirs, their_discriminator, **more), zipped)
    convert(source, tmp_path / "out", license=LICENCE)
    ours = Generator.from_pretrained(tmp_path / "out")
    assert torch.equal(ours.synthesis.b16.conv0.weight, theirs.convs[2].conv.weight[0])  # type: ignore[union-attr, index]
    assert torch.equal(ours.mean_latent, more["latent_avg"])  # type: ignore[arg-type]


def test_rosinality_without_average_noise_and_with_prefix(tmp_path: Path) -> None:
    """As others fine-tune: only the generator, saved from parallel training, with neither mean latent nor noise."""
    theirs = rosinality.Generator({4: 8, 8: 8, 16: 8}, 16, 2)
    state = {f"module.{k}": v for k, v in theirs.state_dict().items() if not k.startswith("noises.")}
    source = _save(tmp_path / "net.pt", {"g": state})
    found = convert(source, tmp_path / "out", license=LICENCE)
    assert found.parts == ("generator",)
    assert len(found.notes) == 2
    ours = Generator.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        mean = theirs.style(torch.randn(20_000, 16)).mean(dim=0)
    torch.testing.assert_close(ours.mean_latent, mean, atol=0.05, rtol=0)
    assert 0.8 < float(ours.synthesis.b16.conv0.noise_const.std()) < 1.2  # type: ignore[union-attr, operator]
    again = convert(source, tmp_path / "again", license=LICENCE)
    assert again.fingerprint == found.fingerprint
    first, second = (path / "generator" / "model.safetensors" for path in (tmp_path / "out", tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_half_precision_checkpoint(tmp_path: Path) -> None:
    theirs = rosinality.Generator({4: 8, 8: 8, 16: 8}, 16, 2).half()
    source = _save(tmp_path / "net.pt", rosinality.checkpoint(theirs, latent_avg=torch.zeros(16)))
    convert(source, tmp_path / "out", license=LICENCE)
    ours = Generator.from_pretrained(tmp_path / "out")
    assert torch.equal(ours.synthesis.b4.const, theirs.input.input[0].float())  # type: ignore[union-attr]


def test_rosinality_files_that_do_not_fit(tmp_path: Path) -> None:
    def refused(change: dict[str, Any], match: str, error: type[RefineStyleHubError] = ModelFileError) -> None:
        state = {**theirs.state_dict(), **change}
        state = {name: tensor for name, tensor in state.items() if tensor is not None}
        _refused(_save(tmp_path / "net.pt", {"g_ema": state, "latent_avg": torch.zeros(16)}), error, match)

    theirs = rosinality.Generator({4: 8, 8: 8, 16: 8}, 16, 2)
    refused({"convs.1.conv.weight": None}, "no convs.1.conv.weight")
    refused({"convs.2.conv.weight": None}, "missing convs.2.conv.weight")
    refused({"to_rgb1.conv.weight": None}, "no to_rgb1.conv.weight")
    refused({"to_rgbs.1.bias": None}, "missing to_rgbs.1.bias")
    refused({"extra": torch.zeros(1)}, "unexpected extra")
    refused({"conv1.activate.bias": torch.zeros(9)}, "wrong shape conv1.activate.bias")
    refused({"conv1.activate.bias": torch.zeros(8, dtype=torch.int64)}, "wrong shape")
    refused({"conv1.activate.bias": torch.full((8,), torch.nan)}, "NaN")
    refused({"convs.0.conv.blur.kernel": torch.ones(4, 4)}, "filter", UnsupportedModelError)
    refused({"to_rgb1.conv.weight": torch.zeros(1, 1, 8, 1, 1)}, "1 channels", UnsupportedModelError)
    _refused(_save(tmp_path / "net.pt", {"g_ema": 3}), ModelFileError, "something other than tensors")
    average = {"g_ema": theirs.state_dict(), "latent_avg": torch.zeros(7)}
    _refused(_save(tmp_path / "net.pt", average), ModelFileError, "latent_avg")


# --- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    theirs = rosinality.Generator({4: 8, 8: 8, 16: 8}, 16, 2)
    return _save(tmp_path / "net.pt", rosinality.checkpoint(theirs, latent_avg=torch.zeros(16)))


def test_the_licence_is_asked_for_and_kept(checkpoint: Path) -> None:
    _refused(checkpoint, CardError, "an id such as 'cc-by-nc-4.0'", license=None)
    _refused(checkpoint, CardError, "not an id of the Hub's list", license="NVIDIA")
    _refused(checkpoint, CardError, "license_name", license="other")
    out = checkpoint.parent / "out"
    name, link = "nvidia-source-code-license-nc", "https://nvlabs.github.io/stylegan2-ada-pytorch/license.html"
    convert(checkpoint, out, license="other", license_name=name, license_link=link)
    for folder in (out, out / "generator"):
        card = read_card(Folder(folder))
        assert (card.license, card.license_name, card.license_link) == ("other", name, link)
    text = (out / "README.md").read_text(encoding="utf-8")
    assert f"license_name: {name}" in text
    assert "Converted from `net.pt`" in text


def test_the_crop_is_kept(checkpoint: Path) -> None:
    _refused(checkpoint, ConfigError, "crop must be one of", crop="cars")
    convert(checkpoint, checkpoint.parent / "out", license=LICENCE, crop="none")
    assert Generator.from_pretrained(checkpoint.parent / "out").config.crop == "none"


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no file"):
        convert(tmp_path / "none.pkl", tmp_path / "out", license=LICENCE)
    with pytest.raises(ModelNotFoundError, match="is a folder"):
        convert(tmp_path, tmp_path / "out", license=LICENCE)
    for name, content in [("empty.pkl", b""), ("text.pkl", b"hello"), ("picture.pt", b"\xff\xd8\xff\xe0\0\0JFIF")]:
        (tmp_path / name).write_bytes(content)
        _refused(tmp_path / name, ModelFileError, "cannot be read")
    encoder = {"state_dict": {"encoder.x": torch.zeros(1)}, "opts": {"output_size": 1024}}
    _refused(_save(tmp_path / "psp.pt", encoder), ModelFileError, "holds state_dict, opts")
    _refused(_save(tmp_path / "list.pt", [torch.zeros(1)]), ModelFileError, "holds a list")


def test_an_existing_folder_is_left_alone(checkpoint: Path) -> None:
    (checkpoint.parent / "out").mkdir()
    _refused(checkpoint, ModelFileError, "already exists")
