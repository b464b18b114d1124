"""The baselines that domains are compared with, and the filters that make true pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import attribute_net, tiny_encoder, tiny_generator

from refinestyle_hub.adapt import References, preset
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.images import from_uint8
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline


FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def baselines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not FOLDER.is_dir():
        pytest.skip("benchmarks/ is not part of this installation")
    monkeypatch.syspath_prepend(str(FOLDER))
    import domain_baselines

    return domain_baselines


@pytest.fixture
def filters(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not FOLDER.is_dir():
        pytest.skip("benchmarks/ is not part of this installation")
    monkeypatch.syspath_prepend(str(FOLDER))
    import domain_filters

    return domain_filters.FILTERS


def test_a_weave_is_told_by_its_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes count at their own period alone; a change of colour is no weave."""
    if not FOLDER.is_dir():
        pytest.skip("benchmarks/ is not part of this installation")
    monkeypatch.syspath_prepend(str(FOLDER))
    from domain_weave import PERIODS, weave

    for period in PERIODS:
        stripes = 2 * torch.where(torch.arange(64) % period < period // 2, 1.0, -1.0)
        found = weave(7 + stripes.expand(3, 64, 64))
        assert found == pytest.approx([2.0 * (period == each) for each in PERIODS], abs=1e-5)


def references(count: int = 5) -> References:
    pictures = torch.full((count, 3, 32, 32), 0.5)
    return References(pictures, tuple("abcde"[:count]), (False,) * count)


def codes(count: int = 3) -> torch.Tensor:
    z = torch.randn(count, 16, generator=torch.Generator().manual_seed(0))
    return tiny_generator().map(z)


def test_filters_give_pictures_of_another_look_and_repeat(filters: Any) -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name, change in filters.items():
        y = change(x, torch.Generator().manual_seed(0)).clamp(-1, 1)
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert (y - x).abs().mean() > 0.1, name
        assert torch.equal(y, change(x, torch.Generator().manual_seed(0)).clamp(-1, 1))
        assert y.std() > 0.02, name  # something is left to see


@pytest.mark.parametrize("kind", ["EVERYTHING", "STYLES"])
def test_fine_tuning_learns_only_its_weights(baselines: ModuleType, kind: str) -> None:
    generator, patterns = tiny_generator(), getattr(baselines, kind)
    run = baselines.FineTuning(
        generator,
        references(),
        patterns,
        0.01,
        steps=8,
        settings=preset(5),
        perceptual=Perceptual.load("st-lpips-alex"),
    )
    w = codes()
    assert torch.equal(run.draw()(w), generator(w).clamp(-1, 1))  # at first nothing has changed
    before = {name: x.clone() for name, x in run.generator.generator.state_dict().items()}
    run.run()
    assert run.finished
    assert not torch.allclose(run.draw()(w), generator(w).clamp(-1, 1), atol=1e-3)
    after = run.generator.generator.state_dict()
    assert all(torch.equal(x, before[name]) for name, x in after.items())  # learnt weights are kept apart
    known = set(dict(generator.named_parameters()))
    names = set(run.parameters.names)
    assert names <= known
    if kind == "STYLES":
        assert names == {name for name in known if name.endswith("affine.bias")}
    else:
        assert names == {name for name in known if name.startswith("synthesis.")}


def test_fine_tuning_comes_nearer_to_its_pictures(baselines: ModuleType) -> None:
    run = baselines.FineTuning(
        tiny_generator(), references(), baselines.STYLES, 0.05, steps=12, settings=preset(5),
        perceptual=Perceptual.load("st-lpips-alex"),
    )  # fmt: skip
    before = run._distance(run.best.now)
    run.run()
    assert run.best.nearest < before


def test_one_shot_draws_the_reference_from_its_coarse_codes(baselines: ModuleType) -> None:
    generator, perceptual = tiny_generator(), Perceptual.load("st-lpips-alex")
    reference, w_plus = torch.full((1, 3, 32, 32), 0.5), codes(1)
    ticks: list[int] = []
    draw = baselines.one_shot(
        generator, perceptual.embed, reference, w_plus, steps=15, rate=0.02, on_step=lambda: ticks.append(1)
    )
    assert len(ticks) == 15
    near, far = draw(w_plus), generator(w_plus).clamp(-1, 1)
    assert perceptual(near, reference) < perceptual(far, reference)
    assert not draw(codes()).requires_grad


def test_baselines_have_as_many_steps_as_cost_the_same(baselines: ModuleType) -> None:
    from domain_costs import steps_in

    assert steps_in(1.0, 2.0, 40) == 20
    assert steps_in(1.0, 500.0, 40) == 1


@pytest.mark.parametrize("steps", [8, 400])
def test_what_a_step_costs_is_probed_without_and_with_the_discriminator(baselines: ModuleType, steps: int) -> None:
    """Of a long run; a short one has none."""
    import domain_costs

    seen: list[tuple[int, float]] = []

    def make(steps: int, settings: Any) -> Any:
        seen.append((steps, settings.adversarial_start(steps)))
        return baselines.FineTuning(
            tiny_generator(), references(), baselines.STYLES, 0.01, steps=steps, settings=settings,
            perceptual=Perceptual.load("st-lpips-alex"),
        )  # fmt: skip

    assert domain_costs.step_seconds(make, preset(5), steps) > 0
    each = 2 * domain_costs.PROBE  # to warm up, and to count
    assert seen == [(2 * each + 1, 0.5) if steps == 400 else (each + 1, 1.0)]


def test_table_shows_the_best_rate_and_the_spread_of_its_seeds(baselines: ModuleType) -> None:
    from domain_table import best, table

    def row(kernel: float) -> dict[str, Any]:
        cost = {"numbers": 1000, "bytes": 4000, "steps": 7, "cpu_seconds": 3.2}
        return {"trunk_features": {"kernel_x1000": kernel, "gap_closed": None}, "landmarks": None, **cost}

    rows = {"T = 4": row(10), "fine-tuning@0.001": row(30), "fine-tuning@0.003": row(20)}
    rows |= {"T = 4#1": row(14), "fine-tuning@0.003#1": row(26), "fine-tuning@0.001#1": row(1)}
    assert best(rows, "fine-tuning") == "fine-tuning@0.003"
    assert best(rows, "style offsets") is None
    assert table("pencil", rows).splitlines()[2:] == [
        "| | numbers | KB | steps | CPU s | trunk kernel x1000 |",
        "|---|---:|---:|---:|---:|---:|",
        "| T = 4 | 1,000 | 4 | 7 | 3 | 12 ± 3 |",
        "| fine-tuning, rate 0.003 | 1,000 | 4 | 7 | 3 | 23 ± 4 |",
    ]


def test_people_in_the_pictures_are_none_of_the_samples(
    baselines: ModuleType, tmp_path: Path, tiny_pipeline_dir: Path
) -> None:
    import domains

    attribute_net().save_pretrained(tmp_path / "net")
    bench = domains.Bench(
        domains.arguments([str(tiny_pipeline_dir), "--attributes", str(tmp_path / "net"), "--quick", "--seed", "3"])
    )
    samples = bench.plain(bench.codes)
    pictures = from_uint8(bench.people.take(list(range(len(bench.people)))))
    assert torch.cdist(pictures.flatten(1), samples.flatten(1)).min() > 1


@pytest.mark.slow
def test_a_whole_run(
    monkeypatch: pytest.MonkeyPatch,
    baselines: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import domain_costs
    import domains

    monkeypatch.setattr(domain_costs, "PROBE", 1)
    attribute_net().save_pretrained(tmp_path / "net")
    generator = tiny_generator()
    model, out = tmp_path / "model", tmp_path / "out"
    RefineStylePipeline(generator, encoder=tiny_encoder(generator)).save_pretrained(model)
    args = f"{model} --attributes {tmp_path / 'net'} --out {out} --filters charcoal --quick --seeds 2"
    args += " --ranks 4 1"
    some = [*args.split(), "--rows", "before", "T = 4"]
    domains.main([*some, "--minutes", "0"])
    assert "2 rows to go: the same command continues." in capsys.readouterr().out
    domains.main(some)
    assert "| T = 4 |" in capsys.readouterr().out
    made = json.loads((out / "domains.json").read_text())["rows"]["charcoal"]
    assert set(made) == {"before", "T = 4"}
    domains.main(args.split())
    printed = capsys.readouterr().out
    rows = json.loads((out / "domains.json").read_text())["rows"]["charcoal"]
    single = {"T = 4, one picture", "JoJoGAN-like, one picture"}
    assert set(rows) == {"before", "T = 4", "T = 1", "T = 4#1", *single} | {
        "fine-tuning@0.0003", "fine-tuning@0.0003#1", "style offsets@0.02"
    }  # fmt: skip
    assert {name: rows[name] for name in made} == made  # what was there was not made again
    assert rows["before"]["attribute_features"]["gap_closed"] == 0
    assert rows["T = 4"]["numbers"] < rows["fine-tuning@0.0003"]["numbers"]
    assert printed.count("| fine-tuning, rate 0.0003 |") == 1
    with Image.open(out / "charcoal.png") as sheet:
        assert sheet.height == (len(rows) + 1) * 34 - 2
    with pytest.raises(ConfigError, match="figures of another truncation"):
        domains.main([*args.split(), "--truncation", "0.5"])
    with pytest.raises(SystemExit, match="Nothing measures distances"):
        domains.main([str(model), "--out", str(tmp_path / "none")])
