"""The benchmarks of inversion and of edits on a tiny model: changes, slopes and curves that are right, whole runs."""

from __future__ import annotations

import importlib.util
import json
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from test_evaluate_domain import attribute_net
from tiny import TINY, tiny_generator

from refinestyle_hub.config import EncoderNetwork
from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import BaseMismatchError, ConfigError
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.images import save_png, to_image
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.losses.pixel import mse
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.index import PipelineIndex, read_index, save_index
from refinestyle_hub.train.dataset import Pictures, open_pictures
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.encoder_trainer import EncoderTrainer


def load(name: str, folder: str = "benchmarks") -> ModuleType:
    path = Path(__file__).parents[1] / folder / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"{folder}/ is not part of this installation")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inversion() -> ModuleType:
    return load("inversion")


@pytest.fixture(scope="module")
def edits() -> ModuleType:
    return load("edits")


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return load("token_ablation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an encoder and directions, a second encoder, portraits and a few-shot set of 32 px."""
    folder = tmp_path_factory.mktemp("inversion")
    torch.manual_seed(0)
    generator = tiny_generator()
    encoder = Encoder.for_generator(generator, widths=(8, 8, 8, 16), width=16, heads=2, depth=1, rank=2).eval()
    info = DirectionInfo(limits=(-2.0, 2.0))
    directions = Directions(
        {name: Direction(torch.randn(1, TINY.w_dim), info) for name in ("smile", "sparkle")}, generator.fingerprint()
    )
    RefineStylePipeline(generator, encoder=encoder, directions=directions).save_pretrained(folder / "model")
    encoder.save_pretrained(folder / "other")
    attribute_net().save_pretrained(folder / "attributes")
    with torch.no_grad():
        drawn = generator(generator.map(torch.randn(7, TINY.z_dim))).clamp(-1, 1)
    for i, picture in enumerate(drawn):
        save_png(to_image(picture), folder / ("portraits" if i < 5 else "domains/sketch") / f"{i}.png")
    rows = [{"id": i, "split": "test"} for i in range(5)]
    (folder / "portraits" / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_changes_leave_size_and_range(inversion: ModuleType) -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for change in inversion.CHANGES:
        kept, y = x.clone(), change(x)
        assert y.shape == x.shape
        assert y.abs().max() <= 1, change.__name__
        assert (y - x).abs().mean() > 0.02, change.__name__
        assert torch.equal(x, kept)
    corner = (..., slice(0, 4), slice(0, 4))
    torch.testing.assert_close(inversion.swirl(x)[corner], x[corner])  # which lies outside of the whirl
    assert inversion.evenly(10, 4).tolist() == [0, 2, 5, 7]


def test_a_curve_joins_what_differs_in_steps(inversion: ModuleType) -> None:
    def row(name: str, seconds: float, distance: float) -> dict[str, object]:
        return {"method": name, "metrics": {"seconds": {"mean": seconds}, "d": {"mean": distance}}}

    rows = [row("two & more", 0.05, 0.3), row("two & more + 10 steps", 1, 0.2), row("two & more, w+ alone", 0.04, 0.5)]
    rows.append(row("PTI, 10 + 20 steps", 60, 0.1))
    drawing = inversion.plot(rows, "d", "A title")
    assert inversion.plot(rows, "d", "A title") == drawing
    root = ElementTree.fromstring(drawing)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A title", "d", "seconds per picture"} <= set(texts)
    assert texts[-3:] == ["two & more", "two & more, w+ alone", "PTI"]
    lines = [one for one in root.iter("{http://www.w3.org/2000/svg}g") if one.get("id", "").startswith("legend")]
    assert len(lines) == 1


def test_all_tables_of_a_tiny_model(
    inversion: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, steps in (("CURVE", (1,)), ("W_CURVE", (2,)), ("PTI_CURVE", ((1, 1),))):
        monkeypatch.setattr(inversion, name, steps)
    monkeypatch.setattr(inversion, "CHANGES", (inversion.negative,))
    monkeypatch.setattr(Perceptual, "load", cache(Perceptual.load))  # each run would load them anew
    pipe = RefineStylePipeline.from_pretrained(folder / "model")
    assert pipe.encoder is not None
    with torch.no_grad():  # as if it had learnt something, or all iterations would be alike
        for p in pipe.encoder.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    pipe.save_pretrained(tmp_path / "model")
    where = ["--data", folder / "portraits", "--domains", folder / "domains", "--attributes", folder / "attributes"]
    sizes = ["--test", 3, "--each", 1, "--few", 1, "--steps", 1, "--num-iters", "0,2", "--out", tmp_path]
    inversion.main(
        [str(tmp_path / "model"), *map(str, where), "--encoder", f"other={folder / 'other'}", *map(str, sizes)]
    )
    report = json.loads((tmp_path / "inversion.json").read_text())["tables"]
    assert {name: found["pictures"] for name, found in report.items()} == {
        "portraits": 3,
        "portraits, a few": 1,
        "out-of-domain": 3,
        "out-of-domain, a few": 1,
    }
    iterated = ["two-stage, 0 iterations", "two-stage, 2 iterations"]
    quick = ["two-stage, w+ alone", "two-stage", *iterated, "other, w+ alone", "other"]
    assert [row["method"] for row in report["portraits"]["rows"]] == [*quick, "two-stage + 1 step"]
    rows = {row["method"]: row["metrics"]["mse"]["mean"] for row in report["portraits"]["rows"]}
    assert rows["two-stage, 0 iterations"] == rows["two-stage, w+ alone"] != rows["two-stage, 2 iterations"]
    few = [row["method"] for row in report["portraits, a few"]["rows"]]
    assert few == [*quick, "two-stage + 1 step", "w+, 2 steps", "PTI, 1 + 1 step"]
    assert "## out-of-domain: 3 pictures" in capsys.readouterr().out
    for given in (f"two-stage={folder / 'other'}", str(folder / "other")):
        with pytest.raises(ConfigError, match="give NAME=FOLDER, with a name"):
            inversion.main([str(folder / "model"), *map(str, where), "--encoder", given])
    assert "<svg" in (tmp_path / "portraits.svg").read_text()
    portraits = [*where[:2], *where[4:]]
    again = [str(tmp_path / "model"), *map(str, portraits), *map(str, sizes[:-1]), str(tmp_path / "again")]
    inversion.main([*again, "--baselines", str(tmp_path / "inversion.json")])
    rerun = json.loads((tmp_path / "again" / "inversion.json").read_text())["tables"]["portraits, a few"]["rows"]
    assert rerun[-2:] == report["portraits, a few"]["rows"][-2:]  # seconds too: they were not measured again
    assert [row["method"] for row in rerun] == [name for name in few if not name.startswith("other")]
    with pytest.raises(ConfigError, match="no table 'portraits, a few' of 2 pictures"):
        inversion.main([*again, "--few", "2", "--baselines", str(tmp_path / "inversion.json")])


def test_photos_are_measured_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each photo alone, so a run that was stopped goes on; a row is printed when it has all of its photos."""
    photos = load("inversion_photos")
    monkeypatch.setattr(photos, "keep_memory", lambda: None)  # it holds for the whole process
    monkeypatch.setattr(photos, "distances", lambda *_, **__: {"mse": mse})  # dlib looks long for faces where none are
    where = [str(folder / "model"), "--photos", str(folder / "portraits"), "--out", str(tmp_path)]
    photos.main([*where, "--steps", "1", "--some", "2", "--few", "0", "--rows", "encoder*1*"])
    printed = capsys.readouterr().out
    assert "## 2 photos" in printed
    assert "encoder + 1 step" in printed
    assert "w+ alone" not in printed

    known = json.loads((tmp_path / "photos.json").read_text())
    assert [*known["rows"]] == ["encoder + 1 step"]
    measured = {row["photo"]: row["metrics"] for row in known["rows"]["encoder + 1 step"].values()}
    assert measured.keys() == {"0.png", "2.png"}  # of five, spread over all
    measured["0.png"]["mse"] = 7.0
    measured["2.png"]["mse"] = 9.0
    (tmp_path / "photos.json").write_text(json.dumps(known))
    photos.main([*where, "--steps", "1", "--some", "2", "--few", "0"])
    printed = capsys.readouterr().out
    assert "| 8 (8.8) |" in printed  # median, and what nine in ten reach, of what was there
    assert "## 5 photos" in printed
    assert printed.count("encoder, w+ alone") == 2
    rows = json.loads((tmp_path / "photos.json").read_text())["rows"]["encoder"].values()
    assert sorted(row["photo"] for row in rows) == [f"{i}.png" for i in range(5)]


def test_an_encoder_is_bundled_with_its_card(folder: Path, tmp_path: Path) -> None:
    script = load("bundle_encoder", "tools")
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(folder / "model", model)
    save_index(model, PipelineIndex(("generator", "directions")))
    config = EncoderTraining(
        data=str(folder / "portraits"), out=str(run), model=str(model), w_pictures=0, pictures=2,
        start_from=str(tmp_path / "first"), perceptual=0.0, batch=2, flip=False,
        network=EncoderNetwork(widths=(8, 8, 8, 16), width=16, heads=2, depth=1, layers=("b8.conv*", "*.torgb")),
    )  # fmt: skip
    trainer = EncoderTrainer(config, tiny_generator(), open_pictures(folder / "portraits", TINY.resolution, "test"))
    trainer.run()
    found = {"mse": {"mean": 0.25, "std": 0.1}, "seconds": {"mean": 1.0, "std": 0.0}}
    rows = [{"method": name, "metrics": found} for name in ("two-stage", "other")]
    table = {"pictures": 5, "rows": rows}
    (tmp_path / "inversion.json").write_text(json.dumps({"tables": {"portraits": table, "portraits, a few": table}}))
    measured = script.metrics(tmp_path / "inversion.json", "two-stage")
    assert [(one.name, one.reference) for one in measured] == [
        ("two-stage: mse", False),
        ("other: mse", True),
    ]
    script.bundle(run, model, str(folder / "portraits"), tmp_path / "encoder.png", cost="a moment", metrics=measured)
    assert read_index(open_source(model)).parts == ("generator", "encoder", "directions")
    assert {path.name for path in (model / "encoder").iterdir()} >= {"card.json", "model.fp16.safetensors"}
    shipped = Encoder.from_pretrained(model, subfolder="encoder")
    for name, tensor in trainer.average.state_dict().items():
        torch.testing.assert_close(shipped.state_dict()[name], tensor, rtol=2e-3, atol=1e-6)  # half precision
    card = (model / "encoder" / "card.json").read_text()
    assert "trained on 2 pictures" in card
    assert "--out runs/run" in card
    assert "--widths 8,8,8,16" in card
    assert "--layers 'b8.conv*,*.torgb'" in card  # as a shell takes it
    assert "--no-flip" in card
    assert "--start-from first" in card
    script.bundle(run, model, str(folder / "portraits"), tmp_path / "encoder.png", "runs/first/encoder")
    again = (model / "encoder" / "card.json").read_text()
    assert "--start-from runs/first/encoder" in again
    assert str(tmp_path) not in card
    with Image.open(tmp_path / "encoder.png") as picture:
        assert picture.size == (5 * 34 - 2, 6 * 34 - 2)  # five portraits, six rows
    tiny_generator(seed=5).save_pretrained(model / "generator")
    with pytest.raises(BaseMismatchError, match="encoder"):
        script.bundle(run, model, str(folder / "portraits"), tmp_path / "encoder.png")


def test_slopes_and_drift_of_known_readings(edits: ModuleType) -> None:
    strengths = [-2.0, 0.0, 1.0]
    values = torch.tensor(strengths)[:, None, None] * torch.tensor([3.0, -0.5]) + 7  # [S, N, K]
    angles = torch.tensor(strengths)[:, None].deg2rad() * 10
    features = torch.stack([angles.cos(), angles.sin()], dim=-1)
    found = edits.Readings(values, features)
    torch.testing.assert_close(edits.slopes(found, strengths), torch.tensor([[3.0, -0.5]]))
    torch.testing.assert_close(edits.drift(found, strengths), torch.tensor([10.0]), rtol=1e-3, atol=0)
    half = edits.Readings(values / 2, features)
    row = edits.compare(half, found, own=0, count=2, strengths=strengths)
    assert row["response"] == pytest.approx(0.5)
    assert row["tokens_leak"] == pytest.approx(0.25)
    assert row["w_plus_leak"] == pytest.approx(0.5)


def test_edits_of_a_tiny_model(
    edits: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder has learnt nothing: its tokens are nought, and change no edit."""
    where = ["--data", folder / "portraits", "--attributes", folder / "attributes", "--out", tmp_path]
    taken: list[list[int]] = []
    take = Pictures.take

    def noted(self: Pictures, places: torch.Tensor) -> torch.Tensor:
        taken.append(places.tolist())
        return take(self, places)

    monkeypatch.setattr(Pictures, "take", noted)
    edits.main([str(folder / "model"), *map(str, where), "--pictures", "64"])
    assert taken == [[0, 1, 2, 3, 4]]  # all that there are, each once
    report = json.loads((tmp_path / "edits.json").read_text())
    assert list(report["directions"]) == ["smile"]  # nobody reads sparkle
    assert report["pictures"] == 5
    row = report["directions"]["smile"]
    assert row["response"] == pytest.approx(1, abs=1e-3)
    assert row["tokens_drift"] == pytest.approx(row["w_plus_drift"], abs=1e-3)
    with Image.open(tmp_path / "smile.png") as sheet:
        assert sheet.size == (6 * 34 - 2, 8 * 34 - 2)  # four portraits, two lines each; five strengths


def test_ablation_of_a_tiny_model(ablation: ModuleType, folder: Path, tmp_path: Path) -> None:
    where = ("--data", folder / "portraits", "--domains", folder / "domains", "--attributes", folder / "attributes")
    ablation.main([str(folder / "model"), *map(str, where), "--pictures", "1", "--steps", "1", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "ablation.json").read_text())
    assert report["pictures"] == 2
    values = {row["method"]: row["values"] for row in report["rows"]}
    assert list(values) == list(ablation.VARIANTS)
    assert values["T = 16"] == 2 * next(iter(values.values())) == 16 * values["T = 1"]
    assert values["broadcast"] < values["pre"] < values["full"]
    assert values["3x3 layers from 16 px"] < values["pre"] < values["3x3 and toRGB layers"]
