"""What leaves for other tools: it loads there, draws the same, and comes back to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nvidia_layout as nvidia
import pytest
import rosinality_layout as rosinality
import safetensors.torch
import stylegan2_reference as reference
import torch
from tiny import TINY, randomise, tiny_generator, token_set

from refinestyle_hub.config import DiscriminatorConfig, StyleGAN2Config
from refinestyle_hub.convert import (
    convert,
    export,
    export_nvidia,
    export_rosinality,
    nvidia_state_dict,
    read_nvidia_state,
    rosinality_checkpoint,
)
from refinestyle_hub.errors import (
    BaseMismatchError,
    ConfigError,
    MergeError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.storage.index import PipelineIndex, save_index


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    network = Discriminator(DiscriminatorConfig(resolution=32, channels=TINY.channels)).eval().requires_grad_(False)
    randomise(network)
    return network


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_rosinality_round_trip(tmp_path: Path, generator: Generator, discriminator: Discriminator) -> None:
    export_rosinality(generator, tmp_path / "net.pt", discriminator)
    convert(tmp_path / "net.pt", tmp_path / "back", license="mit")
    assert_same(Generator.from_pretrained(tmp_path / "back"), generator)
    assert_same(Discriminator.from_pretrained(tmp_path / "back"), discriminator)
    assert Generator.from_pretrained(tmp_path / "back").config == generator.config
    # and once more: the file itself is the same
    export_rosinality(Generator.from_pretrained(tmp_path / "back"), tmp_path / "again.pt", discriminator)
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "net.pt").read_bytes()


@torch.no_grad()
def test_rosinality_loads_it(tmp_path: Path, generator: Generator, discriminator: Discriminator) -> None:
    export_rosinality(generator, tmp_path / "net.pt", discriminator)
    saved = torch.load(tmp_path / "net.pt", weights_only=True)
    channels = dict(TINY.channels)
    theirs, their_discriminator = rosinality.Generator(channels, 16, 2), rosinality.Discriminator(channels)
    theirs.load_state_dict(saved["g_ema"], strict=True)
    their_discriminator.load_state_dict(saved["d"], strict=True)
    assert saved["latent_avg"].shape == (16,)
    w = generator.map(torch.randn(2, 16))
    torch.testing.assert_close(theirs(w), generator(w), atol=1e-4, rtol=1e-4)
    pictures = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(their_discriminator(pictures), discriminator(pictures), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_nvidia_loads_it(tmp_path: Path) -> None:
    theirs = nvidia.Generator(resolution=32, base=1 << 20, maximum=10)
    their_discriminator = nvidia.Discriminator(resolution=32, base=1 << 20, maximum=10)
    same = StyleGAN2Generator(
        StyleGAN2Config(32, z_dim=16, w_dim=16, mapping_layers=2, channels={4: 10, 8: 10, 16: 10, 32: 10})
    )
    export_nvidia(same, tmp_path / "G.safetensors")
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "G.safetensors"), strict=True)
    w = same.map(torch.randn(2, 16))
    drawn = reference.synthesis(theirs.state_dict(), w, 32)
    torch.testing.assert_close(drawn, same(w), atol=1e-4, rtol=1e-4)
    ours = Discriminator(DiscriminatorConfig(resolution=32, channels=same.config.channels))
    export_nvidia(ours, tmp_path / "D.safetensors")
    their_discriminator.load_state_dict(safetensors.torch.load_file(tmp_path / "D.safetensors"), strict=True)


def test_nvidia_round_trip(tmp_path: Path) -> None:
    config = StyleGAN2Config(
        32, z_dim=8, w_dim=16, mapping_layers=2, channels=TINY.channels, conv_clamp=256.0, num_fp16_res=2
    )
    generator = tiny_generator(config=config)
    export_nvidia(generator, tmp_path / "G.safetensors")
    convert(tmp_path / "G.safetensors", tmp_path / "back", license="mit")
    back = Generator.from_pretrained(tmp_path / "back")
    assert_same(back, generator)
    assert back.config == config
    # a state dict of somebody else's: sizes come from the tensors
    safetensors.torch.save_file(nvidia_state_dict(generator), tmp_path / "plain.safetensors")
    convert(tmp_path / "plain.safetensors", tmp_path / "plain", license="mit")
    assert_same(Generator.from_pretrained(tmp_path / "plain"), generator)
    content = (tmp_path / "G.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-1])
    with pytest.raises(ModelFileError, match="damaged"):
        convert(tmp_path / "cut.safetensors", tmp_path / "cut", license="mit")
    assert not (tmp_path / "cut").exists()


def test_a_discriminator_under_nvidias_names(tmp_path: Path, generator: Generator) -> None:
    config = DiscriminatorConfig(32, TINY.channels, mbstd_group=8, conv_clamp=256.0, num_fp16_res=1)
    discriminator = Discriminator(config)
    export_nvidia(discriminator, tmp_path / "D.safetensors")
    back = read_nvidia_state(tmp_path / "D.safetensors")
    assert_same(back, discriminator)
    assert back.config == config
    with pytest.raises(UnsupportedModelError, match="a model needs a generator"):
        convert(tmp_path / "D.safetensors", tmp_path / "out", license="mit")
    assert not (tmp_path / "out").exists()
    export_nvidia(generator, tmp_path / "G.safetensors")
    assert_same(read_nvidia_state(tmp_path / "G.safetensors"), generator)
    with pytest.raises(ModelNotFoundError, match="no file"):
        read_nvidia_state(tmp_path / "none.safetensors")


def test_from_nvidia_to_rosinality_and_back(tmp_path: Path) -> None:
    theirs = nvidia.Generator(resolution=16)
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": theirs})
    convert(source, tmp_path / "ours", license="mit")
    generator = Generator.from_pretrained(tmp_path / "ours")
    export_rosinality(generator, tmp_path / "net.pt")
    convert(tmp_path / "net.pt", tmp_path / "back", license="mit")
    back = nvidia_state_dict(Generator.from_pretrained(tmp_path / "back"))
    original = theirs.state_dict()
    assert set(back) == set(original)
    assert all(torch.equal(back[name], original[name]) for name in original)


@torch.no_grad()
def test_a_domain_leaves_in_a_generator(tmp_path: Path, generator: Generator) -> None:
    domain = token_set(residual="pre", bias=True)
    export_rosinality(generator.merge({domain: 0.7}), tmp_path / "sketch.pt")
    theirs = rosinality.Generator(dict(TINY.channels), 16, 2)
    theirs.load_state_dict(torch.load(tmp_path / "sketch.pt", weights_only=True)["g_ema"])
    w = generator.map(torch.randn(2, 16))
    drawn = generator(w, domain, strength=0.7)
    scale = float(drawn.abs().max())
    torch.testing.assert_close(theirs(w) / scale, drawn / scale, atol=1e-4, rtol=0)
    with pytest.raises(MergeError):
        export_rosinality(generator.merge(token_set(residual="post")), tmp_path / "no.pt")


def test_export_of_a_saved_model(tmp_path: Path, generator: Generator, discriminator: Discriminator) -> None:
    model = tmp_path / "model"
    mark = generator.fingerprint()
    inside, outside = (replace(token_set(seed, residual="pre"), base=mark) for seed in (1, 2))
    generator.save_pretrained(model / "generator")
    discriminator.save_pretrained(model / "discriminator")
    inside.save_pretrained(model / "domains" / "sketch")
    save_index(model, PipelineIndex(("generator", "discriminator"), ("sketch",)))
    outside.save_pretrained(tmp_path / "bronze")

    export(model, tmp_path / "plain.pt", discriminator=True)
    convert(tmp_path / "plain.pt", tmp_path / "back", license="mit")
    assert_same(Generator.from_pretrained(tmp_path / "back"), generator)
    assert_same(Discriminator.from_pretrained(tmp_path / "back"), discriminator)

    domains = {"sketch": 0.5, str(tmp_path / "bronze"): 0.25}
    export(model, tmp_path / "both.safetensors", layout="nvidia", domains=domains)
    convert(tmp_path / "both.safetensors", tmp_path / "both", license="mit")
    merged = generator.merge([(inside, 0.5), (outside, 0.25)])
    assert_same(Generator.from_pretrained(tmp_path / "both"), merged)

    with pytest.raises(ModelNotFoundError):
        export(model, tmp_path / "no.pt", domains={str(tmp_path / "gold"): 1.0})
    replace(outside, base=replace(mark, digest="0" * 32)).save_pretrained(tmp_path / "other")
    with pytest.raises(BaseMismatchError, match="other weights"):
        export(model, tmp_path / "no.pt", domains={str(tmp_path / "other"): 1.0})
    for name, layout in (("no.pt", "nvidia"), ("no.safetensors", "rosinality"), ("no.pt", "tensorflow"), ("no", None)):
        with pytest.raises(ConfigError, match=r"name a \.pt for rosinality's layout"):
            export(model, tmp_path / name, layout=layout)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one network, the generator"):
        export(model, tmp_path / "no.safetensors", discriminator=True)
    assert not list(tmp_path.glob("no*"))
    assert not (tmp_path / "no.pt").exists()


def test_what_rosinality_does_not_have(discriminator: Discriminator) -> None:
    narrow = StyleGAN2Config(8, z_dim=8, w_dim=16, mapping_layers=1, channels={4: 4, 8: 4})
    with pytest.raises(UnsupportedModelError, match="8 and 16"):
        rosinality_checkpoint(StyleGAN2Generator(narrow))
    clamped = StyleGAN2Config(8, z_dim=16, w_dim=16, mapping_layers=1, channels={4: 4, 8: 4}, conv_clamp=256.0)
    with pytest.warns(UserWarning, match="does not clamp activations at 256"):
        rosinality_checkpoint(StyleGAN2Generator(clamped))
    plain = StyleGAN2Generator(StyleGAN2Config(8, z_dim=16, w_dim=16, mapping_layers=1, channels={4: 4, 8: 4}))
    other = Discriminator(DiscriminatorConfig(resolution=8, channels={4: 4, 8: 4}, mbstd_group=8))
    with pytest.raises(UnsupportedModelError, match="groups of 8"):
        rosinality_checkpoint(plain, other)


def test_writing_leaves_nothing_half_done(tmp_path: Path, generator: Generator) -> None:
    (tmp_path / "net.pt").mkdir()
    with pytest.raises(OSError, match=r"net\.pt"):
        export_rosinality(generator, tmp_path / "net.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
