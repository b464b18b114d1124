"""``refinestyle directions``: found, read, made of pictures, and used afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, tiny_generator

from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.images import save_png, to_images
from refinestyle_hub.pipeline import RefineStylePipeline


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tiny_pipeline_dir: Path, tmp_path: Path) -> Path:
    """A model of one's own that has directions."""
    return Path(shutil.copytree(tiny_pipeline_dir, tmp_path / "model"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model of one's own that has none."""
    RefineStylePipeline(tiny_generator()).save_pretrained(tmp_path / "bare")
    return tmp_path / "bare"


def report(run: Run, *args: object) -> dict[str, Any]:
    code, out, err = run("directions", *args, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_list_and_show(run: Run, model: Path, bare: Path, tmp_path: Path) -> None:
    assert "smile" in report(run, "list", model)["directions"]
    code, out, _ = run("directions", "list", model)
    assert code == 0
    assert "smile  -3 to 3  length 1 in w" in out.splitlines()
    assert run("directions", "list", bare)[1] == "none\n"

    found = report(run, "show", model, "smile", "--out", tmp_path / "strip.png", "--seeds", "4,5")
    vector = Directions.from_pretrained(model)["smile"].vector
    assert found["length"] == pytest.approx(float(vector.norm()))
    assert f"length   {found['length']:.4g}" in run("directions", "show", model, "smile")[1].splitlines()
    with Image.open(found["file"]) as strip:
        assert strip.size == (5 * 34 - 2, 2 * 34 - 2)
    cells = pixels(tmp_path / "strip.png")
    pipe = RefineStylePipeline.from_pretrained(model)
    drawn = np.asarray(pipe.generate([5], edits={"smile": 3.0})[0]).astype(int)
    assert np.abs(cells[34:66, 136:168] - drawn).max() <= 1, "the last seed at the highest strength"
    code, _, err = run("directions", "show", model, "smlie")
    assert code == 1
    assert "Did you mean 'smile'?" in err


def test_all_that_is_known_is_shown(run: Run, bare: Path, tmp_path: Path) -> None:
    pipe = RefineStylePipeline.from_pretrained(bare)
    effect = {f"attribute {i:02}": i / 8 for i in range(20)}
    info = DirectionInfo(layers=(1, 3), effect=effect, source="measured on faces; " * 20)
    pipe.directions = pipe.directions.joined({"own": Direction(torch.ones(1, 8), info)}, pipe.fingerprint)
    pipe.save_pretrained(tmp_path / "model")
    code, out, _ = run("directions", "show", tmp_path / "model", "own")
    assert code == 0
    lines = out.splitlines()
    assert "layers   1-2" in lines, "both ends, as --layers takes them"
    assert any(line.startswith("effect   attribute 00 0, ") and line.endswith("attribute 19 2.375") for line in lines)
    assert f"source   {info.source}" in lines
    found = run("directions", "find", bare, "--by", "sefa", "--count", 1, "--out", tmp_path / "a model")[1]
    assert f"generate '{tmp_path / 'a model'}' --set sefa0=1 shows it" in found


@pytest.mark.parametrize("by", ["sefa", "pca"])
def test_what_is_found_can_be_set(run: Run, bare: Path, tmp_path: Path, by: str) -> None:
    found = report(run, "find", bare, "--by", by, "--count", 3, "--layers", "0-1", "--samples", 200)
    assert found["directions"] == [f"{by}{i}" for i in range(3)]
    pipe = RefineStylePipeline.from_pretrained(bare)
    assert list(pipe.directions) == found["directions"]
    assert pipe.directions[f"{by}0"].info.layers == (0, 2)
    assert pipe.directions.config.base == pipe.fingerprint

    for name, edits in (("plain", []), ("set", ["--set", f"{by}0=3"])):
        code, _, err = run("generate", bare, "--seeds", 1, "--out", tmp_path / name, *edits)
        assert code == 0, err
    plain, edited = (pixels(tmp_path / name / "seed0001.png") for name in ("plain", "set"))
    assert np.abs(plain - edited).max() > 5
    expected = np.asarray(pipe.generate([1], edits={f"{by}0": 3.0})[0])
    assert np.abs(edited - expected).max() <= 1


def test_a_name_is_taken_once(run: Run, model: Path) -> None:
    before = Directions.from_pretrained(model)
    vector = torch.randn(1, TINY.w_dim)
    np.save(model / "smile.npy", vector.numpy())
    code, _, err = run("directions", "import", model, model / "smile.npy")
    assert code == 1
    assert "of that name already: smile" in err
    report(run, "import", model, model / "smile.npy", "--replace", "--license", "MIT", "--layers", "2")
    after = Directions.from_pretrained(model)
    assert list(after) == list(before), "the others stay"
    assert torch.equal(after["smile"].vector, vector)
    assert torch.equal(after["age"].vector, before["age"].vector)
    assert (after["smile"].info.licence, after["smile"].info.layers) == ("MIT", (2, 3))
    report(run, "import", model, model / "smile.npy", "--name", "grin")
    assert "grin" in Directions.from_pretrained(model)
    with pytest.raises(ConfigError, match="cannot name a direction"):
        after.joined({"a=b": after["smile"]}, after.config.base)  # type: ignore[arg-type]


def test_public_files_are_imported(run: Run, bare: Path, tmp_path: Path) -> None:
    components, deviations = torch.randn(4, 1, TINY.w_dim), torch.rand(4)
    names = {"lat_comp": components.numpy(), "lat_stdev": deviations.numpy(), "lat_mean": np.zeros((1, TINY.w_dim))}
    np.savez(tmp_path / "ganspace.npz", **names)
    assert report(run, "import", bare, tmp_path / "ganspace.npz")["directions"] == ["pca0", "pca1", "pca2", "pca3"]
    found = Directions.from_pretrained(bare)
    torch.testing.assert_close(found["pca3"].vector, components[3] * deviations[3])
    # rows of another generator's codes
    np.save(tmp_path / "age.npy", np.ones((5, TINY.w_dim), np.float32))
    code, _, err = run("directions", "import", bare, tmp_path / "age.npy")
    assert code == 1
    assert "5 codes" in err
    assert list(Directions.from_pretrained(bare)) == list(found)


@pytest.fixture
def groups(bare: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model with an encoder, and two folders of pictures that differ along one direction."""
    pipe = RefineStylePipeline.from_pretrained(bare)
    torch.manual_seed(0)
    encoder = Encoder.for_generator(pipe.generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1).eval()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        w_plus = pipe.generator.sample(6, torch.Generator().manual_seed(1))
        for name, codes in (("without", w_plus[:3]), ("with", w_plus[3:] + 2)):
            for n, image in enumerate(to_images(pipe.generator(codes).clamp(-1, 1))):
                save_png(image, tmp_path / name / f"{n}.png")
    (tmp_path / "with" / "broken.png").write_bytes(b"no picture")
    RefineStylePipeline(pipe.generator, encoder=encoder).save_pretrained(bare)
    return bare, tmp_path / "without", tmp_path / "with"


@pytest.mark.parametrize("by", ["means", "linear"])
def test_a_direction_of_two_folders(run: Run, groups: tuple[Path, Path, Path], tmp_path: Path, by: str) -> None:
    model, without, with_ = groups
    found = report(run, "add", model, "mine", without, with_, "--by", by, "--aligned")
    assert list(found["skipped"]) == [str(with_ / "broken.png")]
    pipe = RefineStylePipeline.from_pretrained(model)
    codes = [
        torch.stack([pipe.invert(folder / f"{n}.png", aligned=True, steps=0, tokens=False).w_plus for n in range(3)])
        for folder in (without, with_)
    ]
    way = codes[1].mean(dim=0) - codes[0].mean(dim=0)
    direction = pipe.directions["mine"]
    if by == "means":
        torch.testing.assert_close(direction.vector, way, rtol=1e-4, atol=1e-5)
    else:
        assert direction.vector.shape == (1, TINY.w_dim)
        assert float((direction.vector * way.mean(dim=0)).sum()) > 0
    code, _, err = run("generate", model, "--seeds", 1, "--set", "mine=1", "--out", tmp_path / "drawn")
    assert code == 0, err


def test_a_model_that_is_not_ones_own_is_copied(run: Run, tmp_path: Path, bare: Path) -> None:
    code, _, err = run("directions", "find", "mini-faces-128", "--by", "sefa")
    assert code == 1
    assert "--out" in err
    found = report(run, "find", bare, "--by", "sefa", "--count", 1, "--out", tmp_path / "copy")
    assert found["folder"] == str(tmp_path / "copy")
    assert list(RefineStylePipeline.from_pretrained(tmp_path / "copy").directions) == ["sefa0"]
    assert len(RefineStylePipeline.from_pretrained(bare).directions) == 0
    code, _, err = run("directions", "find", bare, "--by", "sefa", "--out", tmp_path / "copy")
    assert code == 1
    assert "not empty" in err
    assert run("directions", "find", bare, "--layers", "3-1")[0] == 2


def test_codes_of_a_larger_generator_are_cut(run: Run, bare: Path, tmp_path: Path) -> None:
    count = tiny_generator().num_ws
    vector = torch.randn(count + 2, TINY.w_dim)
    np.save(tmp_path / "stylegan_ffhq_age_w_boundary.npy", vector.numpy())
    code, out, err = run("directions", "import", bare, tmp_path / "stylegan_ffhq_age_w_boundary.npy")
    assert code == 0, err
    assert out.startswith("age in ")
    assert f"age: this generator has {count} codes" in err
    assert "found in w of the first StyleGAN" in err
    assert torch.equal(Directions.from_pretrained(bare)["age"].vector, vector[:count])


def test_names_and_codes_are_checked_before_the_work(run: Run, model: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"  # pictures would be missed next
    for args, why in (
        (("add", model, "smile", none, none), "already: smile"),
        (("add", model, "a/b", none, none), "cannot name a direction"),
        (("add", model, "own", none, none, "--layers", "2-9"), "2-9 goes beyond the codes 0-"),
        (("find", model, "--by", "sefa", "--count", 2, "--name", "a/"), "cannot name a direction"),
    ):
        code, _, err = run("directions", *args)
        assert code != 0
        assert why in err
    assert report(run, "find", model, "--by", "sefa", "--count", 2, "--name", "fine")["directions"] == [
        "fine0",
        "fine1",
    ]


def test_strengths_add_and_those_that_are_far_are_told(run: Run, model: Path, tmp_path: Path) -> None:
    drawn = []
    for edits, told in ((["smile=1", "smile=1"], ""), (["smile=2"], ""), (["smile=50"], "smile is made for")):
        args = [part for edit in edits for part in ("--set", edit)]
        code, _, err = run("generate", model, "--seeds", 1, "--out", tmp_path / "drawn", *args)
        assert code == 0
        assert err.startswith(told)
        assert bool(err) == bool(told)
        drawn.append(pixels(tmp_path / "drawn" / "seed0001.png"))
    assert np.abs(drawn[0] - drawn[1]).max() == 0
