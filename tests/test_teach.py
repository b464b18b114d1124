"""A mapping that has been taught tells the scene; the pictures of the old one are kept where they can be."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import TINY, tiny_generator
from torch import Tensor

from refinestyle_hub import Generator
from refinestyle_hub.train.anchors import Scenes
from refinestyle_hub.train.teach import SceneReader, refit_styles, teach_mapping


NAMES = ["age", "glasses", "hair=bob", "hair=buzz", "hair=long"]


def scene(n: int) -> tuple[Tensor, Tensor]:
    """Codes [n, 4] and scenes [n, 5]; the hair style is a region of two codes with a curved border."""
    codes = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    style = torch.where(codes[:, 2].square() + codes[:, 3].square() < 1.4, 0, torch.where(codes[:, 2] > 0, 1, 2))
    words = torch.nn.functional.one_hot(style, 3).float()
    glasses = (codes[:, 1] > 1.0).float()
    return codes, torch.cat([codes[:, :1] * 3.0 + 40.0, glasses[:, None], words], dim=1)


@pytest.fixture
def generator() -> Generator:
    return tiny_generator(config=replace(TINY, z_dim=8, w_dim=32, mapping_layers=4)).requires_grad_()


def test_columns_are_told_apart() -> None:
    _, scenes = scene(100)
    assert Scenes(scenes, NAMES).columns() == ([0], [1], [[2, 3, 4]])
    assert Scenes(torch.cat([scenes, scenes[:, :1]], dim=1), NAMES).columns() == ([0, 5], [1], [[2, 3, 4]])


def test_a_reader_that_is_right_has_no_loss() -> None:
    _, scenes = scene(100)
    reader = SceneReader(5, Scenes(scenes, NAMES))
    with torch.no_grad():
        reader.out.weight.copy_(torch.eye(5) * 5**0.5)
        right = torch.cat([(scenes[:, :1] - scenes[:, :1].mean()) / scenes[:, :1].std(), scenes[:, 1:] * 40 - 20], 1)
        losses = reader.losses(right, scenes)
        wrong = reader.losses(-right, scenes)
    assert all(value < 1e-6 for value in losses.values())
    assert wrong["numbers"].item() == pytest.approx(4.0, rel=0.02)  # twice the deviation, squared
    assert wrong["words"] > 10
    assert wrong["flags"] > 10


def test_knowing_only_how_often_is_a_loss_of_one() -> None:
    _, scenes = scene(4000)
    reader = SceneReader(1, Scenes(scenes, NAMES))
    share = scenes[:, 1:].mean(0)
    with torch.no_grad():
        reader.out.weight.zero_()
        reader.out.bias.copy_(torch.cat([torch.zeros(1), (share[:1] / (1 - share[:1])).log(), share[1:].log()]))
        losses = reader.losses(torch.zeros(4000, 1), scenes)
    assert all(value.item() == pytest.approx(1.0, abs=1e-3) for value in losses.values())


def test_a_taught_mapping_tells_the_scene(generator: Generator) -> None:
    codes, scenes = scene(4000)
    losses = teach_mapping(generator.mapping, codes, Scenes(scenes, NAMES), steps=1000, batch=256)
    assert set(losses) == {"numbers", "flags", "words"}
    free = torch.randn(4000, generator.config.z_dim - 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        w = generator.mapping(torch.cat([codes, free], dim=1))
    assert w.square().mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.allclose(generator.mapping.w_avg, w.mean(0), atol=0.1)
    assert readout(codes, scenes) < 0.05  # a ring around the mean is invisible along straight lines
    assert readout(w, scenes) > 0.3


def readout(x: Tensor, scenes: Tensor) -> float:
    """The share of the first style's variance that a linear readout explains."""
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    wanted = scenes[:, 2:3]
    left = wanted - x @ torch.linalg.lstsq(x, wanted).solution
    return 1.0 - (left.var() / wanted.var()).item()


def test_teaching_is_deterministic_and_leaves_the_global_seed_alone(generator: Generator) -> None:
    codes, scenes = scene(200)
    torch.manual_seed(7)
    twins = [copy.deepcopy(generator.mapping) for _ in range(2)]
    for twin in twins:
        teach_mapping(twin, codes, Scenes(scenes, NAMES), steps=5, batch=32)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7)))
    assert all(torch.equal(a, b) for a, b in zip(twins[0].parameters(), twins[1].parameters(), strict=True))


@torch.no_grad()
def test_styles_follow_a_mapping_that_only_turned(generator: Generator) -> None:
    """w turned by an orthogonal matrix: the new styles undo it, and the picture stays."""
    before = copy.deepcopy(generator.mapping)
    z = torch.randn(2000, generator.config.z_dim)
    last = getattr(generator.mapping, f"fc{generator.mapping.depth - 1}")
    last.activate = getattr(before, f"fc{before.depth - 1}").activate = False  # else turning is not linear
    turn = torch.linalg.qr(torch.randn(generator.config.w_dim, generator.config.w_dim)).Q
    wanted = generator(before(z[:2])[:, None].expand(-1, generator.config.num_layers, -1))
    last.weight.copy_(turn @ last.weight)
    last.bias.copy_(turn @ last.bias)
    turned = generator(generator.mapping(z[:2])[:, None].expand(-1, generator.config.num_layers, -1))
    refit_styles(generator, before, z)
    kept = generator(generator.mapping(z[:2])[:, None].expand(-1, generator.config.num_layers, -1))
    assert (kept - wanted).abs().max() < 0.05 * (turned - wanted).abs().max()  # the ridge shrinks a little
