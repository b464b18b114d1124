"""The quality benchmark on a tiny generator: rows for scale that do what they say, and a whole run."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import ShapeError
from refinestyle_hub.evaluation.attributes import AttributeConfig, AttributeNet
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.images import load_picture


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "generator_quality.py"
    if not path.is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    spec = importlib.util.spec_from_file_location("generator_quality", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shuffled_moves_whole_tiles(quality: ModuleType) -> None:
    x = torch.rand(2, 3, 16, 16)
    y = quality.shuffled(x)
    assert y.shape == x.shape
    assert not torch.equal(x, y)

    def tiles(z: torch.Tensor) -> set[tuple[float, ...]]:
        corners = [(r, c) for r in range(0, 16, 4) for c in range(0, 16, 4)]
        return {tuple(z[0, :, r : r + 4, c : c + 4].flatten().tolist()) for r, c in corners}

    assert tiles(x) == tiles(y)


def test_darkened_keeps_black_and_lowers_white(quality: ModuleType) -> None:
    x = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)
    assert quality.darkened(x).flatten().tolist() == pytest.approx([-1.0, 0.2])


def normal(n: int, f: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed)) * scale + shift


def test_precision_and_recall_tell_poor_from_narrow(quality: ModuleType) -> None:
    real = normal(500, 4, 0)
    equal = quality.precision_recall(real, normal(500, 4, 1))
    assert min(equal.precision, equal.recall) > 0.85
    narrow = quality.precision_recall(real, normal(500, 4, 1, scale=0.3))  # convincing, but all of one kind
    assert narrow.precision > 0.95
    assert narrow.recall < 0.6
    wide = quality.precision_recall(real, normal(500, 4, 1, scale=4.0))  # reaches all, mostly unreal
    assert wide.precision < 0.4
    assert wide.recall > 0.9
    apart = quality.precision_recall(real, normal(500, 4, 1, shift=50.0))
    assert (apart.precision, apart.recall) == (0.0, 0.0)


def test_precision_radius_is_the_kth_neighbour_without_the_point_itself(quality: ModuleType) -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii for k = 1: 1, 1, 1, 8
    fake = torch.tensor([[1.5], [2.9], [3.1], [18.5]])  # within 1 of 2; within 1 of 2; within 8 of 10; nowhere
    assert quality.precision_recall(real, fake, k=1).precision == 0.75


def test_nearest_finds_a_planted_neighbour(quality: ModuleType) -> None:
    references = normal(3000, 8, 0)
    queries = references[[5, 2999]] + 1e-3
    distances, indices = quality.nearest(queries, references, k=2)
    assert indices[:, 0].tolist() == [5, 2999]
    assert distances[:, 0].tolist() == pytest.approx([1e-3 * math.sqrt(8)] * 2, rel=1e-3)
    assert bool((distances[:, 0] < distances[:, 1]).all())


def test_too_few_features_are_named(quality: ModuleType) -> None:
    with pytest.raises(ShapeError, match="more than 3"):
        quality.precision_recall(torch.zeros(3, 4), torch.zeros(9, 4))


def test_draw_repeats_with_its_seed(quality: ModuleType) -> None:
    generator = StyleGAN2Generator(StyleGAN2Config(8, z_dim=4, w_dim=4, mapping_layers=1, channels={4: 4, 8: 4}))
    first, again, other = (torch.cat(list(quality.draw(generator, 60, 1.0, seed))) for seed in (0, 0, 1))
    assert first.shape == (60, 3, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_whole_run(quality: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(64):
        smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
        (tmp_path / "data").mkdir(exist_ok=True)
        smooth.save(tmp_path / "data" / f"{i}.png")
    torch.manual_seed(0)
    channels = {4: 8, 8: 8, 16: 8, 32: 8}
    StyleGAN2Generator(StyleGAN2Config(32, 8, 8, 1, channels)).save_pretrained(tmp_path / "model")
    net = AttributeNet(AttributeConfig(("yaw",), 1, (0.0,), (1.0,), ("bald",), 32, (8, 8, 8, 8), 16))
    net.save_pretrained(tmp_path / "attributes")
    out = tmp_path / "out"
    quality.main([
        str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--attributes", str(tmp_path / "attributes"),
        "--samples", "30", "--faces", "2", "--out", str(out),
    ])  # fmt: skip
    report = json.loads((out / "quality.json").read_text())
    rows = report["sets"]
    assert set(rows) == {"other half", "blurred", "darkened", "shuffled", "samples"}
    assert {row["pictures"] for row in rows.values()} == {30}
    assert rows["other half"]["frechet"] < rows["samples"]["frechet"]  # an untrained generator is no match
    assert rows["other half"]["kernel_x1000"] < rows["samples"]["kernel_x1000"]
    assert report["face_found"] == {"pictures": 2, "samples": 0.0, "portraits": 0.0}
    for name in ("samples-0.8", "samples-1", "neighbours", "scale"):
        assert load_picture(out / f"{name}.png").width > 200
    assert "precision" in capsys.readouterr().out
