"""The attribute network learns what a picture shows, mirrored labels included, and comes back from its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refinestyle_hub.errors import CancelledError, ConfigError, ModelFileError, ShapeError
from refinestyle_hub.evaluation.attributes import AttributeConfig, AttributeNet, standardisation
from refinestyle_hub.train import attribute_trainer as attributes
from refinestyle_hub.train.attribute_trainer import AttributeTraining, train_attributes
from refinestyle_hub.train.data import to_float


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
        str(scenes), str(tmp_path), pictures=5600, batch=28, resolution=32, widths=WIDTHS, lr=5e-3, checks=2
    )
    report = train_attributes(config, lambda *figures: steps.append(figures))
    found = report["test"]["attributes"]
    # were the labels not mirrored with the pictures, half the yaws would have the wrong sign and R2 be near 0
    assert found["yaw"]["r2"] > 0.8
    assert found["skin_tone"]["r2"] > 0.7
    assert found["glasses"]["accuracy"] > 0.9
    assert report["test"]["hair_style"]["accuracy"] > 0.9
    assert report["test"]["parameters"]["l-x"] > 0.8
    assert found["yaw"]["mae"] < 2.5  # degrees, of a range of 16
    assert [step for step, _, _ in steps] == list(range(1, 201))
    assert np.mean([f["loss"] for _, _, f in steps[-20:]]) < 0.5 * np.mean([f["loss"] for _, _, f in steps[:20]])

    assert json.loads((tmp_path / "errors.json").read_text())["test"] == report["test"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    net = AttributeNet.from_pretrained(tmp_path)
    pictures = attributes.open_pictures(scenes, 32, "test")
    labels = attributes.open_labels(scenes, pictures)
    assert attributes.errors(net, pictures, labels) == report["test"]


def test_stops_when_asked(scenes: Path, tmp_path: Path) -> None:
    def stop(step: int, steps: int, figures: dict[str, float]) -> None:
        raise CancelledError("enough")

    config = AttributeTraining(str(scenes), str(tmp_path), pictures=64, batch=8, resolution=32, widths=WIDTHS)
    with pytest.raises(CancelledError):
        train_attributes(config, stop)
    assert not (tmp_path / "config.json").exists()


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
    x = torch.nn.functional.interpolate(to_float(levels), (32, 32), mode="bilinear")
    changed = attributes.augment(x.clone(), 1.0, np.random.default_rng(1))
    assert changed.min() >= -1
    assert changed.max() <= 1
    difference = (changed - x).abs().mean(dim=(1, 2, 3))
    assert difference.min() > 0
    assert difference.max() < 0.35
    assert torch.equal(attributes.augment(x, 0.0, rng), x)


def test_blur_keeps_the_mean_and_jpeg_the_picture() -> None:
    x = torch.zeros(1, 3, 33, 33)
    x[:, :, 16, 16] = 1
    blurred = attributes.blur(x, 1.5)
    assert float(blurred.sum()) == pytest.approx(3, abs=1e-4)
    variance = (blurred[0, 0].sum(0) * (torch.arange(33) - 16) ** 2).sum()
    assert float(variance) == pytest.approx(1.5**2, rel=0.02)
    smooth = torch.linspace(-0.5, 0.5, 32).expand(3, 32, 32)
    assert (attributes.jpeg(smooth, 90) - smooth).abs().max() < 0.06


def test_schedule_rises_then_falls_to_nothing() -> None:
    values = [attributes.schedule(p / 100, 0.1) for p in range(101)]
    assert max(values) == values[10] == 1
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[-1] == pytest.approx(0)
