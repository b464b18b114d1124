"""Names to models: bundled ones, local folders, single files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import token_set

from refinestyle_hub.config import DiscriminatorConfig, Fingerprint, StyleGAN2Config
from refinestyle_hub.errors import ConfigError, ModelFileError, ModelNotFoundError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.hub import sources
from refinestyle_hub.hub.fetched import FetchedModel
from refinestyle_hub.hub.sources import bundled_models, open_source
from refinestyle_hub.storage.index import PipelineIndex, read_index, save_index
from refinestyle_hub.storage.schema import config_to_json, dump_json
from refinestyle_hub.storage.tensors import encode_tensors
from refinestyle_hub.tokens.token_set import TokenSet


WIDTHS = {4: 6, 8: 4, 16: 2}
CONFIG = StyleGAN2Config(16, 8, 8, 2, WIDTHS)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(CONFIG)


@pytest.fixture
def pipeline_folder(tmp_path: Path, generator: Generator) -> Path:
    """A pipeline repo with a generator and a discriminator."""
    folder = tmp_path / "pipeline"
    generator.save_pretrained(folder / "generator")
    Discriminator(DiscriminatorConfig(16, WIDTHS)).save_pretrained(folder / "discriminator")
    save_index(folder, PipelineIndex(("generator", "discriminator"), ("sketch",)))
    return folder


def assert_same(a: Any, b: Any) -> None:
    assert a.config == b.config
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


# --- round trips


@pytest.mark.parametrize(
    "part", [StyleGAN2Generator(CONFIG), Discriminator(DiscriminatorConfig(16, WIDTHS, 4, 1, 256.0))]
)
def test_parts_round_trip_bit_for_bit(tmp_path: Path, part: Generator | Discriminator) -> None:
    part.save_pretrained(tmp_path / "part")
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == ["config.json", "model.safetensors"]
    loaded = type(part).from_pretrained(tmp_path / "part")
    assert_same(loaded, part)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    loaded.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "part" / name).read_bytes()


def test_loaded_generator_draws_the_same_picture(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    w = generator.map(torch.randn(2, 8))
    with torch.no_grad():
        assert torch.equal(Generator.from_pretrained(tmp_path)(w), generator(w))


def test_loading_leaves_the_random_state_alone(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Generator.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_config_is_readable_and_sorted(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    data = json.loads(text)
    assert list(data) == sorted(data)
    assert text.endswith("}\n")
    assert data["class"] == "StyleGAN2Generator"
    assert data["format_version"] == "1.0"
    assert data["value_range"] == [-1.0, 1.0]
    assert data["crop"] == "ffhq"
    assert data["channels"] == {"4": 6, "8": 4, "16": 2}


def test_saving_over_a_loaded_model(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    with torch.no_grad():
        loaded.mean_latent.fill_(3.0)
    loaded.save_pretrained(tmp_path)
    assert_same(Generator.from_pretrained(tmp_path), loaded)


def test_one_file_travels_alone(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path / "part")
    (tmp_path / "part" / "model.safetensors").rename(tmp_path / "alone.safetensors")
    assert_same(Generator.from_pretrained(tmp_path / "alone.safetensors"), generator)


def test_options_of_folders_do_not_pass_for_one_file(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    for option in ({"revision": "main"}, {"subfolder": "generator"}, {"variant": "fp16"}):
        with pytest.raises(ConfigError, match="is one file: subfolder=, variant= and revision= are for folders"):
            Generator.from_pretrained(tmp_path / "model.safetensors", **option)
    with pytest.raises(ConfigError, match=r"a floating-point type such as torch\.float16, not torch\.int64"):
        Generator.from_pretrained(tmp_path, dtype=torch.int64)


@pytest.mark.parametrize("spatial", ["scaled", "broadcast", "full"])
@pytest.mark.parametrize("residual", ["pre", "post", "mixed"])
def test_token_sets_round_trip(tmp_path: Path, spatial: str, residual: str) -> None:
    tokens = token_set(rank=3, spatial=spatial, residual=residual, bias=residual == "pre")
    tokens = replace(
        tokens, base=Fingerprint("stylegan2-32", "0" * 32, ("1" * 32,)), metadata={"steps": 3, "on": ["a"]}
    )
    tokens.save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path, variant="fp16")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "tokens.fp16.safetensors",
        "tokens.safetensors",
    ]
    loaded = TokenSet.from_pretrained(tmp_path)
    assert_same(loaded, tokens)
    assert loaded.base == tokens.base
    assert loaded.metadata == tokens.metadata
    halves = TokenSet.from_pretrained(tmp_path / "tokens.fp16.safetensors")
    for name, tensor in tokens.state_dict().items():
        assert torch.equal(halves.state_dict()[name], tensor.half().float() if tensor.is_floating_point() else tensor)


def test_empty_token_set_and_unknown_base(tmp_path: Path) -> None:
    empty = TokenSet({})
    empty.save_pretrained(tmp_path)
    loaded = TokenSet.from_pretrained(tmp_path)
    assert_same(loaded, empty)
    assert loaded.base is None


def test_metadata_that_json_cannot_hold(tmp_path: Path) -> None:
    for value in (torch.zeros(1), float("nan"), {1, 2}):
        with pytest.raises(ConfigError, match="cannot be written as JSON"):
            replace(token_set(), metadata={"x": value}).save_pretrained(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_domain_of_a_published_size_is_small(tmp_path: Path) -> None:
    """StyleGAN2 config-f at 1024 px, T = 4, scaled, all 3x3 layers, fp16: the formula, and at most 512 KB."""
    config = StyleGAN2Config(1024)
    tokens = token_set(rank=4, config=config, layers="conv")
    tokens.save_pretrained(tmp_path, variant="fp16")
    values = sum(4 * (spec.inputs + spec.outputs + 9) for spec in config.layers if spec.role == "conv")
    assert tokens.num_values == values
    size = (tmp_path / "tokens.fp16.safetensors").stat().st_size + (tmp_path / "config.json").stat().st_size
    assert 2 * values < size < 2 * values + 20_000  # header, config twice
    assert size <= 512 * 1024


def test_imports_stay_light() -> None:
    """What is heavy or touches the network is imported by the functions that need it."""
    script = "import sys, refinestyle_hub.generators.stylegan2; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"huggingface_hub", "httpx", "requests", "jinja2", "yaml", "torch._dynamo", "torchvision", "gradio"}
    assert "refinestyle_hub.hub.pretrained" in names
    assert heavy.isdisjoint(names)


# --- variants


def test_half_precision_variant(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    generator.save_pretrained(tmp_path, variant="fp16")
    halves = Generator.from_pretrained(tmp_path, variant="fp16")
    assert_same(Generator.from_pretrained(tmp_path), generator)
    for name, tensor in generator.state_dict().items():
        assert halves.state_dict()[name].dtype == torch.float32
        assert torch.equal(halves.state_dict()[name], tensor.half().float())
    assert Generator.from_pretrained(tmp_path, dtype=torch.float16).mean_latent.dtype == torch.float16


def test_half_precision_is_the_default_where_only_it_ships(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path, variant="fp16")
    assert_same(Generator.from_pretrained(tmp_path), Generator.from_pretrained(tmp_path, variant="fp16"))


def test_a_folder_holds_variants_of_the_same_weights(tmp_path: Path, generator: Generator) -> None:
    """What is loaded is what was saved last."""

    def weights() -> set[str]:
        return {path.name for path in tmp_path.glob("*.safetensors")}

    for variant, other in ((None, "fp16"), ("fp16", None)):
        generator.save_pretrained(tmp_path, variant)
        generator.save_pretrained(tmp_path, other)
        Generator.from_pretrained(tmp_path, variant="fp16").save_pretrained(tmp_path, "fp16")
        Generator.from_pretrained(tmp_path, variant=variant).save_pretrained(tmp_path)
        assert weights() == {"model.safetensors", "model.fp16.safetensors"}
        with torch.no_grad():
            generator.mean_latent.add_(1.0)
        generator.save_pretrained(tmp_path)
        assert weights() == {"model.safetensors"}
        assert torch.equal(Generator.from_pretrained(tmp_path).mean_latent, generator.mean_latent)


def test_half_precision_takes_no_other_weights_away(tmp_path: Path, generator: Generator) -> None:
    """Those in full precision may be the only ones, and these may only be rounded: loaded in another type."""
    generator.save_pretrained(tmp_path)
    kept = (tmp_path / "model.safetensors").read_bytes()
    rounded = Generator.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ModelFileError, match=r"other weights in full precision(?s:.*)another folder"):
        rounded.save_pretrained(tmp_path, "fp16")
    assert (tmp_path / "model.safetensors").read_bytes() == kept
    assert not (tmp_path / "model.fp16.safetensors").exists()


@pytest.mark.parametrize("change", ["damaged", "too large", "another size"])
def test_another_variant_that_cannot_be_the_same_goes(tmp_path: Path, generator: Generator, change: str) -> None:
    generator.save_pretrained(tmp_path, "fp16")
    if change == "damaged":
        (tmp_path / "model.fp16.safetensors").write_bytes(b"not the weights")
    elif change == "too large":
        with torch.no_grad():
            generator.mean_latent.fill_(1e6)
    else:
        generator = StyleGAN2Generator(StyleGAN2Config(16, 8, 8, 3, WIDTHS))
    generator.save_pretrained(tmp_path)
    assert not (tmp_path / "model.fp16.safetensors").exists()
    assert_same(Generator.from_pretrained(tmp_path), generator)


def test_a_set_of_tokens_that_became_another(tmp_path: Path) -> None:
    """Of the same values, but of other words about them, which its file carries."""
    tokens = token_set()
    tokens.save_pretrained(tmp_path)
    again = replace(tokens, metadata={"steps": 4})
    tokens.save_pretrained(tmp_path, "fp16")
    again.save_pretrained(tmp_path)
    assert not (tmp_path / "tokens.fp16.safetensors").exists()
    assert TokenSet.from_pretrained(tmp_path).metadata == again.metadata


def test_missing_variant_lists_those_there_are(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no model\.fp16\.safetensors.\nAvailable as variant=: None"):
        Generator.from_pretrained(tmp_path, variant="fp16")
    generator.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ModelNotFoundError, match="Available as variant=: 'fp16', None"):
        Generator.from_pretrained(tmp_path, variant="bf16")
    with pytest.raises(ConfigError, match="short name such as 'fp16'"):
        Generator.from_pretrained(tmp_path, variant="../fp16")
    with pytest.raises(ConfigError, match="None or 'fp16'"):
        generator.save_pretrained(tmp_path, variant="int4")


# --- where things are


def test_parts_of_a_pipeline(pipeline_folder: Path, generator: Generator) -> None:
    assert_same(Generator.from_pretrained(pipeline_folder), generator)  # found in its usual folder
    assert_same(Generator.from_pretrained(pipeline_folder, subfolder="generator"), generator)
    assert_same(Generator.from_pretrained(str(pipeline_folder / "generator")), generator)
    Discriminator.from_pretrained(pipeline_folder)
    with pytest.raises(ModelFileError, match="of class 'Discriminator', and no generator"):
        Generator.from_pretrained(pipeline_folder, subfolder="discriminator")
    with pytest.raises(ModelNotFoundError, match="subfolder: generator, discriminator, domains/sketch"):
        Generator.from_pretrained(pipeline_folder, subfolder="encoder")


def test_index_round_trips(pipeline_folder: Path) -> None:
    assert read_index(open_source(pipeline_folder)) == PipelineIndex(("generator", "discriminator"), ("sketch",))
    with pytest.raises(
        ModelNotFoundError, match=r"no model_index.json.\nIt is not a pipeline but one part, .* 'StyleGAN2Generator'"
    ):
        read_index(open_source(pipeline_folder / "generator"))
    with pytest.raises(ModelNotFoundError, match=r"has no model_index.json\.$"):
        read_index(open_source(pipeline_folder.parent))
    assert read_index(open_source(pipeline_folder.parent), pipeline_folder.name).domains == ("sketch",)


@pytest.mark.parametrize("name", ["", "../sketch", "/etc", "a/b", ".hidden", "a b", "x" * 65])
def test_names_in_an_index_stay_in_the_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a part or domain"):
        PipelineIndex(("generator",), (name,))


def test_bundled_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline_folder: Path) -> None:
    monkeypatch.setattr(sources, "BUNDLED", pipeline_folder.parent)
    monkeypatch.chdir(tmp_path)
    assert bundled_models() == ["pipeline"]
    other = StyleGAN2Generator(replace(CONFIG, crop="none"))
    other.save_pretrained(pipeline_folder.parent / "elsewhere" / "pipeline")
    monkeypatch.chdir(pipeline_folder.parent / "elsewhere")
    assert Generator.from_pretrained("pipeline").config.crop == "ffhq"  # the bundled one
    assert Generator.from_pretrained(Path("pipeline")).config.crop == "none"  # a Path is always a folder
    assert Generator.from_pretrained("./pipeline").config.crop == "none"


def test_every_bundled_model_loads() -> None:
    for name in bundled_models():
        source = open_source(name)
        assert "generator" in read_index(source).parts
        if isinstance(source, FetchedModel) and not source.is_there:
            continue  # test_fetched.py has one that is made here
        Generator.from_pretrained(name)


@pytest.mark.parametrize(
    "name",
    [
        *("./missing/dir", "missing/dir/deeper", "/missing", "~/missing", "~nobody/missing", "../missing"),
        *("a.safetensors", "./missing", "missing/", "me/missing/", "me\\missing", "C:\\missing"),
    ],
)
def test_missing_path_says_so(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        Generator.from_pretrained(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    for name, hint in (
        ("me.jpg", "$"),
        ("a.pkl", "refinestyle convert"),
        ("t.safetensors", "take it as --domain"),
    ):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ModelNotFoundError, match=rf"{name} is a file; a model is a folder\.(?s:.*){hint}"):
            open_source(tmp_path / name)


def test_an_address_is_no_model() -> None:
    with pytest.raises(ModelNotFoundError, match="not a Hub id, which is owner/name"):
        open_source("https://huggingface.co/me/faces")


def test_missing_path_object_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        Generator.from_pretrained(tmp_path / "missing")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json or generator/config\.json"):
        Generator.from_pretrained(tmp_path)


def test_folder_without_weights(tmp_path: Path, generator: Generator) -> None:
    generator.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no model\.safetensors.\nAvailable as variant=: none"):
        Generator.from_pretrained(tmp_path)


# --- what does not belong together


def test_config_of_another_save_is_noticed(tmp_path: Path, generator: Generator) -> None:
    """What a process killed between the two files leaves behind, or an edited config."""
    generator.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "crop": "none"}))
    with pytest.raises(ModelFileError, match=r"not the config that model\.safetensors was saved with"):
        Generator.from_pretrained(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path, generator: Generator) -> None:
    config = config_to_json("StyleGAN2Generator", replace(CONFIG, w_dim=10))
    (tmp_path / "config.json").write_bytes(dump_json(config))
    (tmp_path / "model.safetensors").write_bytes(encode_tensors(generator.state_dict(), config, torch.float32))
    with pytest.raises(ModelFileError, match="wrong shape: .*and [0-9]+ more") as error:
        Generator.from_pretrained(tmp_path)
    assert str(error.value).count("\n") <= 2
