"""The attribute network learns what a picture shows, mirrored labels included, and comes back from its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_parts import Stop, stop_at

from refinestyle_hub.errors import ConfigError, ModelFileError, ShapeError
from refinestyle_hub.evaluation.attributes import AttributeConfig, AttributeNet, standardisation
from refinestyle_hub.images import from_uint8
from refinestyle_hub.train import checkpoint
from refinestyle_hub.train.attribute_settings import AttributeTraining
from refinestyle_hub.train.attribute_trainer import measure_errors, train_attributes
from refinestyle_hub.train.dataset import open_pictures
from refinestyle_hub.train.degrade import degrade, gaussian_blur, jpeg
from refinestyle_hub.train.labels import open_labels


WIDTHS = (16, 16, 16, 16)


def tiny(**changes: object) -> AttributeNet:
    torch.manual_seed(0)
    config = {
        "names": ("yaw", "glasses", "jawOpen"),
        "num_attributes": 2,
        "mean": (3.0, 0.1, 0.5),
        "std": (10.0, 0.3, 0.2),
        "hair_styles": ("afro", "bob"),
        "resolution": 32,
        "widths": WIDTHS,
        "features": 16,
    } | changes
    return AttributeNet(AttributeConfig(**config)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled 32 px pictures: yaw moves a light patch sideways, skin tone darkens it, glasses put a bar on it."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    rows, count = [], 400
    yaw, tone, glasses = rng.uniform(-8, 8, count), rng.uniform(0, 1, count), rng.random(count) < 0.5
    for i in range(count):
        levels = np.full((32, 32, 3), 60, dtype=np.uint8)
        left = round(10 + yaw[i])
        levels[8:24, left : left + 12] = round(250 - 120 * tone[i])
        if glasses[i]:
            levels[12:15, left : left + 12] = 0
        Image.fromarray(levels).save(root / f"{i:06d}.png")
        rows.append({
            "id": i, "split": "train" if i < 300 else "val" if i < 350 else "test",
            "yaw": float(yaw[i]), "tone": float(tone[i]), "glasses": bool(glasses[i]),
            "hair": "bob" if glasses[i] else "afro",
            "age": 0.5, "gender": 0.5, "smile": 0.5, "mouth_open": 0, "brow": 0, "pitch": 0, "gaze": [0, 0],
            "beard": 0, "makeup": 0, "hair_rgb": [9, 9, 9], "iris": [9, 9, 9], "light": [0, 0], "hair_length": 0.5,
        })  # fmt: skip
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sides = np.stack([yaw, -yaw], axis=1).astype(np.float16)  # swapped by a flip, as their names say
    np.savez(root / "parameters.npz", local=sides, local_names=np.array(["l-x", "r-x"]), expression=sides,
             expression_names=np.array(["xLeft", "xRight"]))  # fmt: skip
    return root


def test_learns_through_flips_and_reports_what_it_saved(scenes: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int, dict[str, float]]] = []
    config = AttributeTraining(
        str(scenes), str(tmp_path), pictures=5600, batch=28, resolution=32, widths=WIDTHS, learning_rate=5e-3,
        validate_every=2800,
    )  # fmt: skip
    report = train_attributes(config, lambda *figures: steps.append(figures)).report
    found = report["test"]["attributes"]
    # were the labels not mirrored with the pictures, half the yaws would have the wrong sign and R2 be near 0
    assert found["yaw"]["r2"] > 0.8
    assert found["skin_tone"]["r2"] > 0.7
    assert found["glasses"]["accuracy"] > 0.9
    assert report["test"]["hair_style"]["accuracy"] > 0.9
    assert report["test"]["parameters"]["l-x"] > 0.8
    assert found["yaw"]["mae"] < 2.5  # degrees, of a range of 16
    assert [seen for seen, _, _ in steps] == list(range(28, 5601, 28))
    assert np.mean([f["loss"] for _, _, f in steps[-20:]]) < 0.5 * np.mean([f["loss"] for _, _, f in steps[:20]])

    assert json.loads((tmp_path / "errors.json").read_text())["test"] == report["test"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["seen"] for line in lines if "yaw" in line] == [2800, 5600]
    assert [line["seen"] for line in lines if "loss" in line] == [1400, 2800, 4200, 5600]
    net = AttributeNet.from_pretrained(tmp_path)
    pictures = open_pictures(scenes, 32, "test")
    labels = open_labels(scenes, pictures.names)
    assert measure_errors(net, pictures, labels) == report["test"]


def test_an_interrupted_run_ends_like_an_uninterrupted_one(scenes: Path, tmp_path: Path) -> None:
    config = AttributeTraining(
        str(scenes), str(tmp_path / "whole"), pictures=64, batch=8, resolution=32, widths=WIDTHS, validate_every=1000
    )
    train_attributes(config)
    broken = replace(config, out=str(tmp_path / "broken"))
    with pytest.raises(Stop):
        train_attributes(broken, stop_at(24))
    assert not (tmp_path / "broken" / "config.json").exists()
    train_attributes(broken)
    ours, theirs = (checkpoint.read(Path(run.out) / "state.safetensors")[0] for run in (broken, config))
    assert ours.keys() == theirs.keys()
    for name in ours:  # the same operations in the same order: not a bit may differ
        assert torch.equal(ours[name], theirs[name]), name
    with pytest.raises(ModelFileError, match="another network"):
        train_attributes(replace(config, widths=(16, 16, 16, 24)))


def test_reads_any_size_in_the_units_of_the_labels() -> None:
    net = tiny()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    read = net.read(x)
    assert list(read) == ["yaw", "glasses"]
    raw = net(x).values
    assert torch.allclose(read["yaw"], raw[:, 0] * 10 + 3)
    assert torch.allclose(read["glasses"], raw[:, 1].sigmoid())
    assert net.features(x).shape == (2, 16)
    assert net(x).hair.shape == (2, 2)
    smooth = torch.nn.functional.interpolate(x, (8, 8), mode="bilinear")
    small, large = (torch.nn.functional.interpolate(smooth, (s, s), mode="bilinear") for s in (32, 64))
    assert torch.allclose(net.features(small), net.features(large), atol=0.02)
    with pytest.raises(ShapeError, match="pictures"):
        net.features(x[0])


def test_readings_have_gradients() -> None:
    x = torch.rand(1, 3, 32, 32).requires_grad_()
    tiny().read(x)["yaw"].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_files_give_the_network_back(tmp_path: Path) -> None:
    net = tiny()
    net.save_pretrained(tmp_path, variant="fp16")
    loaded = AttributeNet.from_pretrained(tmp_path)
    assert loaded.config == net.config
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.allclose(loaded(x).values, net(x).values, atol=1e-2)  # the rounding of fp16 through eight layers
    path = tmp_path / "model.fp16.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError):
        AttributeNet.from_pretrained(tmp_path)


def test_config_is_checked() -> None:
    with pytest.raises(ConfigError, match="same length"):
        tiny(mean=(1.0,))
    with pytest.raises(ConfigError, match="resolution"):
        tiny(resolution=48)
    with pytest.raises(ConfigError, match="positive"):
        AttributeTraining("data", "out", batch=0)
    with pytest.raises(ConfigError, match="seed"):
        AttributeTraining("data", "out", seed=-1)


def test_constant_columns_keep_their_scale() -> None:
    mean, std = standardisation(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert mean == (2.0, 5.0)
    assert std == (pytest.approx(2**0.5), 1.0)


def test_augmentation_is_mild_and_leaves_the_labels_true() -> None:
    rng = np.random.default_rng(0)
    levels = torch.from_numpy(rng.integers(60, 190, (24, 3, 4, 4)).astype(np.uint8))
    x = torch.nn.functional.interpolate(from_uint8(levels), (32, 32), mode="bilinear")
    changed = degrade(x.clone(), 1.0, np.random.default_rng(1))
    assert changed.min() >= -1
    assert changed.max() <= 1
    difference = (changed - x).abs().mean(dim=(1, 2, 3))
    assert difference.min() > 0
    assert difference.max() < 0.35
    assert torch.equal(degrade(x, 0.0, rng), x)


def test_blur_keeps_the_mean_and_jpeg_the_picture() -> None:
    x = torch.zeros(1, 3, 33, 33)
    x[:, :, 16, 16] = 1
    blurred = gaussian_blur(x, 1.5)
    assert float(blurred.sum()) == pytest.approx(3, abs=1e-4)
    variance = (blurred[0, 0].sum(0) * (torch.arange(33) - 16) ** 2).sum()
    assert float(variance) == pytest.approx(1.5**2, rel=0.02)
    smooth = torch.linspace(-0.5, 0.5, 32).expand(3, 32, 32)
    assert (jpeg(smooth, 90) - smooth).abs().max() < 0.06
