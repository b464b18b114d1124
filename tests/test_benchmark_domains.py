"""The baselines that domains are compared with, and the filters that make true pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import attribute_net, tiny_generator

from refinestyle_hub.adapt import References, preset
from refinestyle_hub.images import save_png, to_image
from refinestyle_hub.losses.perceptual import Perceptual


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
        tiny_generator(), references(), baselines.STYLES, 0.05, steps=30, settings=preset(5),
        perceptual=Perceptual.load("st-lpips-alex"),
    )  # fmt: skip
    before = run._distance()
    run.run()
    assert run.best_distance < before


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


def test_runs_of_the_same_wall_clock(baselines: ModuleType) -> None:
    """Steps without the discriminator cost 1 s, with it 2 s; a short run does without it."""
    from domain_costs import Costs

    costs = Costs(1.0, 2.0, preset(5))
    assert costs.seconds(100) == 100
    assert costs.seconds(400) == 100 + 2 * 300
    assert costs.steps_in(700) == 400
    assert costs.steps_in(60) == 60
    assert costs.steps_in(0.1) == 1


def test_what_a_step_costs_is_probed_with_and_without_the_discriminator(baselines: ModuleType) -> None:
    from domain_costs import step_costs

    seen: list[float] = []

    def make(steps: int, settings: Any) -> Any:
        seen.append(settings.adversarial_start(steps))
        return baselines.FineTuning(
            tiny_generator(), references(), baselines.STYLES, 0.01, steps=steps, settings=settings,
            perceptual=Perceptual.load("st-lpips-alex"),
        )  # fmt: skip

    costs = step_costs(make, preset(5))
    assert seen == [0.5]
    assert min(costs.early, costs.late) > 0
    assert costs.settings == preset(5)


@pytest.mark.slow
def test_a_whole_run(
    monkeypatch: pytest.MonkeyPatch,
    baselines: ModuleType,
    tiny_pipeline_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import domain_costs
    import domains

    monkeypatch.setattr(domain_costs, "PROBE", 1)
    rng = torch.Generator().manual_seed(0)
    for number, picture in enumerate(torch.rand(16, 3, 32, 32, generator=rng) * 2 - 1):
        save_png(to_image(picture), tmp_path / "portraits" / f"{number}.png")
    attribute_net().save_pretrained(tmp_path / "net")
    out = tmp_path / "out"
    args = f"{tiny_pipeline_dir} --data {tmp_path / 'portraits'} --attributes {tmp_path / 'net'} --out {out}"
    args += " --filters charcoal --pictures 5 --true 9 --samples 9 --faces 0 --steps 2 --one-shot-steps 2 --quick 1"
    some = [*args.split(), "--rows", "before", "T = 4"]
    domains.main([*some, "--minutes", "0"])
    assert "2 rows are left: the same command continues." in capsys.readouterr().out
    domains.main(some)
    assert "| T = 4 |" in capsys.readouterr().out
    made = json.loads((out / "domains.json").read_text())["styles"]["charcoal"]["rows"]
    assert set(made) == {"before", "T = 4"}
    domains.main(args.split())
    printed = capsys.readouterr().out
    report = json.loads((out / "domains.json").read_text())
    rows = report["styles"]["charcoal"]["rows"]
    assert {"before", "T = 1", "T = 4", "T = 16", "T = 2", "T = 8", "JoJoGAN-like, one picture"} <= set(rows)
    assert sum(name.startswith("fine-tuning@") for name in rows) == 3
    assert {name: rows[name] for name in made} == made  # what was there was not made again
    assert rows["before"]["attribute_features"]["gap_closed"] == 0
    assert rows["T = 4"]["numbers"] < rows["fine-tuning@0.001"]["numbers"]
    assert printed.count("| fine-tuning |") == 1  # the best rate alone
    with Image.open(out / "charcoal.png") as sheet:
        assert sheet.height == (len(rows) + 1) * 34 - 2
    with pytest.raises(SystemExit, match="figures of another samples"):
        domains.main([*args.split(), "--samples", "8"])
