"""Figures of inversion: known where the answer is known, and a whole table of a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_evaluate_domain import attribute_net
from tiny import TINY, tiny_encoder, tiny_generator
from torch import Tensor

from refinestyle_hub.cli import main
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError, PictureError
from refinestyle_hub.evaluation import reconstruction as module
from refinestyle_hub.evaluation.baselines import pivotal_tuning, project_w_plus
from refinestyle_hub.evaluation.reconstruction import (
    Method,
    attribute_error,
    baselines,
    distances,
    evaluate_inversion,
    our_methods,
    table,
    token_values,
)
from refinestyle_hub.faces.photo import read_crops
from refinestyle_hub.images import save_png, to_image, to_tensor
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.losses.pixel import mse
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.index import PipelineIndex, save_index


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual.load("st-lpips-alex")


@pytest.fixture(scope="module")
def pipe(perceptual: Perceptual) -> RefineStylePipeline:
    pipe = RefineStylePipeline(generator := tiny_generator(), encoder=tiny_encoder(generator))
    pipe.perceptual = perceptual
    return pipe


def crops(n: int = 2) -> Tensor:
    """Pictures that the tiny generator can draw."""
    generator = tiny_generator()
    with torch.no_grad():
        z = torch.randn(n, TINY.z_dim, generator=torch.Generator().manual_seed(5))
        return generator(generator.map(z)).clamp(-1, 1)


def test_metrics_of_known_answers() -> None:
    x = torch.zeros(4, 3, 32, 32)
    shift = Method("a shift", lambda crop: (crop + 0.5, 7))
    numbers = torch.arange(4.0)
    by = {
        "mse": mse,
        "number": lambda a, b: numbers,
        "ms_ssim": lambda a, b: numbers,
        "half": lambda a, b: torch.where(numbers % 2 == 0, numbers, torch.nan),
        "nowhere": lambda a, b: torch.full((4,), torch.nan),
    }
    rows = evaluate_inversion([Method("itself", lambda crop: (crop, 3)), shift], x, by)
    assert [row["method"] for row in rows] == ["itself", "a shift"]
    assert [row["metrics"]["mse"]["mean"] for row in rows] == [0, 0.25]
    number = {"mean": 1.5, "std": pytest.approx(1.25**0.5, abs=1e-6), "median": 1.5, "worst_tenth": 2.7, "count": 4}
    assert rows[1]["metrics"]["number"] == number
    assert rows[1]["metrics"]["ms_ssim"] == {**number, "worst_tenth": 0.3}  # the more, the nearer
    assert rows[1]["metrics"]["half"] == {"mean": 1.0, "std": 1.0, "median": 1.0, "worst_tenth": 1.8, "count": 2}
    assert "nowhere" not in rows[1]["metrics"]
    assert rows[1]["values"] == 7
    assert "| a shift | 0.25 (0.25) | 1.5 (2.7) |" in table(rows)
    with pytest.raises(ConfigError, match="same name"):
        evaluate_inversion([shift, shift], x, by)


def test_the_attribute_error_is_in_deviations() -> None:
    net, x = attribute_net(), crops(3)
    assert torch.equal(attribute_error(net, x, x), torch.zeros(3))
    found = attribute_error(net, x, -x)
    read, other = (net.read(pictures) for pictures in (x, -x))
    parts = [
        (read[name] - other[name]).abs() / net.config.std[i] for i, name in enumerate(("yaw", "smile", "glasses"))
    ]
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))


def test_ways_of_a_model(pipe: RefineStylePipeline) -> None:
    """Each draws what the pipeline draws, and keeps as many numbers as its inversion has."""
    assert pipe.encoder is not None
    alone, answer, further = our_methods(pipe, [2])
    picture = crops(1)
    found = pipe.invert_crops(picture, steps=0)[0]
    assert found.tokens is not None
    drawn, kept = answer.invert(picture)
    torch.testing.assert_close(drawn.clamp(-1, 1), pipe.render([found], output_type="pt"), rtol=0, atol=1e-5)
    assert kept == found.w_plus.numel() + found.tokens.num_values
    plain, kept = alone.invert(picture)
    torch.testing.assert_close(
        plain.clamp(-1, 1), pipe.render([found], refine=0.0, output_type="pt"), rtol=0, atol=1e-5
    )
    assert kept == found.w_plus.numel()
    assert further.name == "encoder + 2 steps"
    assert [way.name for way in our_methods(RefineStylePipeline(pipe.generator), [3])] == ["tokens, 3 steps"]
    assert alone.parameters < answer.parameters == sum(p.numel() for p in pipe.encoder.parameters())
    broadcast = Encoder.for_generator(pipe.generator, widths=(8,) * 4, width=16, heads=2, spatial="broadcast", rank=2)
    assert token_values(broadcast) == sum(2 * (s.inputs + s.outputs) for s in TINY.layers if s.role == "conv")


def test_baselines_come_nearer(perceptual: Perceptual) -> None:
    generator, picture = tiny_generator(), crops(1)
    before = {name: t.clone() for name, t in generator.state_dict().items()}
    with torch.no_grad():
        start = float(mse(generator(generator.mean_latent.expand(1, TINY.num_ws, -1)), picture))
    w_plus = project_w_plus(generator, picture, perceptual=perceptual, steps=20)
    with torch.no_grad():
        assert float(mse(generator(w_plus), picture)) < 0.8 * start
    pivot, own = pivotal_tuning(generator, picture, perceptual=perceptual, pivot_steps=5, tuning_steps=20)
    assert torch.equal(pivot, pivot[:, :1].expand_as(pivot))
    with torch.no_grad():
        assert float(mse(own(pivot), picture)) < 0.9 * float(mse(generator(pivot), picture))
    assert all(torch.equal(t, before[name]) for name, t in generator.state_dict().items())


def test_read_crops(tmp_path: Path, astronaut: Image.Image) -> None:
    save_png(astronaut, tmp_path / "a" / "face.png")
    save_png(Image.new("RGB", (64, 64), "grey"), tmp_path / "a" / "wall.png")
    found, skipped = read_crops([tmp_path / "a"], 32)
    assert found.shape == (1, 3, 32, 32)
    assert list(skipped) == [str(tmp_path / "a" / "wall.png")]
    assert read_crops([tmp_path / "a" / "wall.png"], 32, aligned=True)[0].shape == (1, 3, 32, 32)
    with pytest.raises(PictureError, match="No picture can be used"):
        read_crops([tmp_path / "a" / "wall.png"], 32)


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "inversion", *map(str, args)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def model(pipe: RefineStylePipeline, tmp_path: Path) -> Path:
    """The model; beside it pictures, and a network that reads attributes."""
    pipe.save_pretrained(tmp_path / "model")
    attribute_net().save_pretrained(tmp_path / "attributes")
    for i, picture in enumerate(crops()):
        save_png(to_image(picture), tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "model"


def options(model: Path) -> list[object]:
    folder = model.parent
    return [folder / "pictures", "--out", folder / "out", "--aligned", "--attributes", folder / "attributes"]


def test_from_the_command_line(
    model: Path, pipe: RefineStylePipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "baselines", lambda p: baselines(p, [2], [(1, 1)]))  # minutes, as published
    assert run(model, *options(model), "--steps", 2, "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    names = ["encoder, w+ alone", "encoder", "encoder + 2 steps", "w+, 2 steps", "PTI, 1 + 1 step"]
    assert [row["method"] for row in report["rows"]] == names
    assert [line.split(" | ")[0] for line in printed.err.splitlines()[2:]] == [f"| {name}" for name in names]
    assert report["pictures"] == 2
    for row in report["rows"]:  # 32 pixels are too few for MS-SSIM
        assert list(row["metrics"]) == ["mse", "st-lpips-alex", "st-lpips-vgg", "attributes", "seconds"]
        assert [found["count"] for found in row["metrics"].values()] == [2] * 5
    assert report["rows"][4]["values"] > sum(p.numel() for p in pipe.generator.synthesis_parameters())


def test_a_stopped_run_goes_on(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are told as they are measured; no picture is measured twice, and no other setup is mixed in."""
    gone: list[str] = []

    def ways(stop: str) -> None:
        def way(name: str) -> Method:
            def invert(crop: Tensor) -> tuple[Tensor, int]:
                if len(gone) == 3 and stop:
                    raise KeyboardInterrupt
                gone.append(name)
                return 0.5 * crop, 7

            return Method(name, invert)

        monkeypatch.setattr(module, "our_methods", lambda *_: [way("first"), way("second")])

    ways("at the fourth")
    args = [model, *options(model), "--no-baselines"]
    assert run(*args) == 130
    printed = capsys.readouterr()
    assert gone == ["first", "first", "second"]
    assert [line.split(" | ")[0] for line in printed.out.splitlines()[2:]] == ["| first"]
    assert "stopped; what is measured is in " in printed.err
    assert "the same command continues" in printed.err

    ways("")
    assert run(*args) == 0
    printed = capsys.readouterr()
    assert gone == ["first", "first", "second", "second"]
    assert "3 of 4 inversions were measured before" in printed.err
    assert [line.split(" | ")[0] for line in printed.out.splitlines()[2:]] == [
        "| first",
        "| second",
        "",
        module.LEGEND,
    ]

    save_png(to_image(crops(3)[2]), model.parent / "pictures" / "1.png")  # another one of that name
    assert run(*args) == 0
    assert gone[4:] == ["first", "second"]
    capsys.readouterr()
    assert run(*args[:-3], "--no-baselines") == 1  # by identity, and not by attributes
    error = capsys.readouterr().err
    assert "has figures of another metrics, attributes. Name another place." in error
    tiny_generator(seed=5).save_pretrained(model / "generator")
    shutil.rmtree(model / "encoder")
    save_index(model, PipelineIndex(("generator",)))
    assert run(*args) == 1
    assert "has figures of another model, encoder." in capsys.readouterr().err
    assert len(gone) == 6


def test_every_distance_of_a_larger_picture(perceptual: Perceptual) -> None:
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    by = distances(128, perceptual)
    assert list(by) == ["mse", "st-lpips-alex", "ms_ssim"]
    assert float(by["ms_ssim"](x, x).min()) == pytest.approx(1)


def test_the_identity_is_compared_where_there_are_faces(astronaut: Image.Image) -> None:
    x = torch.cat([to_tensor(astronaut.resize((256, 256))), torch.zeros(1, 3, 256, 256)])
    by = distances(256, Perceptual.load("st-lpips-alex"), identity=True)
    found = by["identity"](x, x)
    assert found[0] == 0
    assert found[1].isnan()
    row = evaluate_inversion([Method("itself", lambda crop: (crop, 0))], x, {"identity": by["identity"]})[0]
    assert row["metrics"]["identity"]["count"] == 1


def test_every_way_may_optimise_the_first_too() -> None:
    """Also when it is only warmed up: of a model without an encoder the first way is an optimisation."""
    enabled: list[bool] = []

    def invert(crop: Tensor) -> tuple[Tensor, int]:
        enabled.append(torch.is_grad_enabled())
        return crop, 0

    evaluate_inversion([Method("a", invert)], crops(1), {"mse": mse})
    assert enabled == [True, True]


def test_seconds_are_of_a_way_that_was_gone_before() -> None:
    """The first of all; and each quick one, in whose seconds what it loads would weigh."""
    gone: list[str] = []

    def way(name: str, quick: bool) -> Method:
        def invert(crop: Tensor) -> tuple[Tensor, int]:
            gone.append(name)
            return crop, 0

        return Method(name, invert, quick=quick)

    ways = [way("slow", False), way("slower", False), way("quick", True), way("quicker", True)]
    evaluate_inversion(ways, crops(1), {"mse": mse})
    assert [gone.count(one.name) for one in ways] == [2, 1, 2, 2]
    gone.clear()
    evaluate_inversion(ways, crops(1), {"mse": mse}, warm=True)
    assert [gone.count(one.name) for one in ways] == [1, 1, 1, 1]
