"""Directions: values, application, the three ways to find them, and their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions, apply
from refinestyle_hub.editing.discover import difference_of_means, find_from_labels, pca, sefa
from refinestyle_hub.errors import ConfigError, DirectionError, ModelFileError, ShapeError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator


L, D = 8, 16


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def directions() -> Directions:
    everywhere = Direction(_random(0, 1, D))
    coarse = Direction(_random(1, 1, D), DirectionInfo(layers=(0, 3), unit="2 degrees", effect={"yaw": 2.0}))
    each = Direction(_random(2, L, D), DirectionInfo(codes=L, leak={"age": 0.1}, source="a test", licence="CC0-1.0"))
    return Directions({"smile": everywhere, "yaw": coarse, "glasses": each})


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    plan = {4: 8, 8: 8, 16: 4}
    return StyleGAN2Generator(StyleGAN2Config(16, z_dim=D, w_dim=D, mapping_layers=2, channels=plan)).eval()


def test_edits_add_strength_times_vector_in_their_layers(directions: Directions) -> None:
    w = _random(3, 2, L, D)
    before = w.clone()
    edited = apply(w, {"smile": 1.5, "yaw": torch.tensor([0.0, -2.0])}, directions)
    expected = w + 1.5 * directions["smile"].vector
    expected[1, :3] -= 2.0 * directions["yaw"].vector[0]
    torch.testing.assert_close(edited, expected)
    assert torch.equal(w, before), "the given codes were changed"
    assert torch.equal(apply(w, {}, directions), w)
    assert torch.equal(apply(w, {"smile": 0.0}, directions), w)


def test_beside_tokens_a_strength_is_multiplied_by_the_gain(directions: Directions) -> None:
    w, smile = _random(3, 3, L, D), directions["smile"].vector
    held = Directions({"smile": Direction(smile, DirectionInfo(gain=1.5)), "yaw": directions["yaw"]})
    edited = apply(w, {"smile": 2.0}, held, refine=torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(edited, w + torch.tensor([2.0, 2.5, 3.0])[:, None, None] * smile)
    assert torch.equal(apply(w, {"yaw": 2.0}, held, refine=1.0), apply(w, {"yaw": 2.0}, held))
    assert torch.equal(apply(w, {"smile": 0.0}, held, refine=1.0), w)
    for gain in (0.9, 2.1, float("nan")):
        with pytest.raises(ConfigError, match="gain"):
            DirectionInfo(gain=gain)


@pytest.mark.parametrize("limits", [[3, -3], [0, 0], [1, 3], [-3, -1], [-3, 0, 3], [-3, float("nan")], []])
def test_limits_are_in_order_with_0_within(directions: Directions, tmp_path: Path, limits: list[float]) -> None:
    """Also where a file of directions states them."""
    with pytest.raises(ConfigError, match="limit"):
        DirectionInfo(limits=tuple(limits))  # type: ignore[arg-type]
    directions.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["directions"]["smile"]["limits"] = limits
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, ModelFileError), match="limits|NaN"):
        Directions.from_pretrained(tmp_path)


def test_limits_may_be_of_one_side() -> None:
    for limits in ((0, 2), (-2.5, 0)):
        assert DirectionInfo(limits=limits).limits == limits


def test_a_direction_with_a_row_for_each_code(directions: Directions) -> None:
    w = _random(3, 1, L, D)
    torch.testing.assert_close(apply(w, {"glasses": -1.0}, directions), w - directions["glasses"].vector)
    with pytest.raises(DirectionError, match=f"{L} codes, the generator 6"):
        apply(w[:, :6], {"glasses": 1.0}, directions)


def test_a_direction_names_its_group_and_both_ends_or_neither(directions: Directions, tmp_path: Path) -> None:
    info = DirectionInfo(group="Expression", negative="sad", positive="happy")
    Directions({"smile": Direction(_random(0, 1, D), info)}).save_pretrained(tmp_path)
    assert Directions.from_pretrained(tmp_path)["smile"].info == info
    assert (directions["smile"].info.group, directions["smile"].info.positive) == ("", "")
    with pytest.raises(ConfigError, match="both of its ends"):
        DirectionInfo(positive="happy")
    for text in ("two\nlines", " padded", "x" * 41):
        with pytest.raises(ConfigError, match="cannot name a group or an end"):
            DirectionInfo(group=text)


def test_unknown_names_are_answered_with_a_suggestion(directions: Directions) -> None:
    with pytest.raises(DirectionError, match="Did you mean 'smile'"):
        apply(_random(3, 1, L, D), {"smiel": 1.0}, directions)
    with pytest.raises(DirectionError, match="Known: glasses, smile, yaw"):
        directions["zzz"]
    assert "zzz" not in directions
    assert directions.get("zzz") is None


def test_wrong_sizes_and_strengths_are_refused(directions: Directions) -> None:
    w = _random(3, 2, L, D)
    with pytest.raises(ShapeError):
        apply(w[0], {"smile": 1.0}, directions)
    with pytest.raises(ShapeError, match="strength"):
        apply(w, {"smile": torch.ones(3)}, directions)
    with pytest.raises(ConfigError, match="finite"):
        apply(w, {"smile": float("nan")}, directions)
    with pytest.raises(DirectionError, match="16 numbers a code, w\\+ has 8"):
        apply(w[..., :8], {"smile": 1.0}, directions)
    with pytest.raises(DirectionError, match="codes 0 to 2, the generator has 2"):
        apply(w[:, :2], {"yaw": 1.0}, directions)
    with pytest.raises(ShapeError, match="same width"):
        Directions({"a": Direction(torch.ones(1, 4)), "b": Direction(torch.ones(1, 5))})
    with pytest.raises(ShapeError):
        Direction(torch.ones(2, 4))
    with pytest.raises(ConfigError, match="layers"):
        DirectionInfo(layers=(3, 3))


def test_saved_and_loaded_directions_are_the_same(directions: Directions, generator: Generator, tmp_path) -> None:
    known = Directions(dict(directions), base=generator.fingerprint())
    known.save_pretrained(tmp_path / "directions")
    loaded = Directions.from_pretrained(tmp_path)
    assert list(loaded) == sorted(directions)
    assert loaded.config.base == generator.fingerprint()
    for name, direction in directions.items():
        assert torch.equal(loaded[name].vector, direction.vector)
        assert loaded[name].info == direction.info


def _labelled(n: int = 4000) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """w with an uneven distribution; age and glasses are correlated through it, noise hides a part of both."""
    mixing = _random(5, D, D) * torch.linspace(2, 0.2, D)[:, None]
    w = _random(6, n, D) @ mixing
    age = 40 + 10 * (w[:, 0] + 0.1 * _random(7, n))
    glasses = (w[:, 0] + w[:, 1] + 0.1 * _random(8, n) > 0).float()
    return w, {"age": age, "glasses": glasses}


def test_directions_from_labels_move_their_own_label_alone() -> None:
    w, labels = _labelled()
    assert abs(float(torch.corrcoef(torch.stack([labels["age"], labels["glasses"]]))[0, 1])) > 0.2, "a weak test"
    found = find_from_labels(w, labels)
    age = found["age"].vector[0]
    # age is 10 w0 up to noise, and glasses depend on w0 + w1 only
    assert float(age[0]) * 10 == pytest.approx(float(labels["age"].std()), rel=0.05)
    assert abs(float(age[0] + age[1])) < 0.05 * float(age[0])
    assert "one standard deviation of age" in found["age"].info.unit


def test_without_conditions_a_direction_takes_its_correlates_along() -> None:
    w, labels = _labelled()
    age = find_from_labels(w, labels, against=())["age"].vector[0]
    assert float(age[0]) * 10 == pytest.approx(float(labels["age"].std()), rel=0.05)
    # the mean of w0 + w1 given w0
    expected = float(torch.cov(w.T)[0, :2].sum() / torch.cov(w.T)[0, 0])
    assert float((age[0] + age[1]) / age[0]) == pytest.approx(expected, rel=0.05)


def test_directions_in_w_plus_find_the_codes_that_matter() -> None:
    w = _random(9, 3000, 4, D)
    labels = {"smile": w[:, 1, 2] + 0.1 * _random(10, 3000)}
    vector = find_from_labels(w, labels)["smile"].vector
    assert vector.shape == (4, D)
    assert float(vector[1, 2]) == pytest.approx(1.0, abs=0.05)
    others = vector.clone()
    others[1, 2] = 0
    assert float(others.abs().max()) < 0.1  # 63 estimates from 3,000 samples: 0.018 each
    only = find_from_labels(w, labels, layers=(1, 3))["smile"]
    assert only.vector.shape == (4, D)
    assert float(only.vector[[0, 3]].abs().max()) == 0


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    w, labels = _labelled(500)
    with pytest.raises(DirectionError, match="same beard"):
        find_from_labels(w, labels | {"beard": torch.zeros(500)})
    doubled = labels | {"months": labels["age"] * 12}
    with pytest.raises(DirectionError, match="leave some of them out"):
        find_from_labels(w, doubled)
    assert set(find_from_labels(w, doubled, against=("glasses",))) == set(doubled)
    with pytest.raises(ShapeError):
        find_from_labels(w, {"age": labels["age"][:3]})
    with pytest.raises(DirectionError, match="no labels of glases"):
        find_from_labels(w, labels, against=("glases",))


def test_nothing_is_found_in_numbers_that_are_not_finite() -> None:
    w, far = _random(3, 50, D), torch.full((50,), torch.nan)
    for samples, labels in ((w, {"own": far}), (w * torch.nan, {"own": w[:, 0]}), (w, {})):
        with pytest.raises(DirectionError, match="finite numbers"):
            find_from_labels(samples, labels)
    with pytest.raises(DirectionError, match="finite numbers"):
        pca(w * torch.nan)


def test_groups_that_do_not_differ_have_no_direction() -> None:
    w_plus = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DirectionError, match="same mean"):
        difference_of_means(w_plus, w_plus.flip(0))
    other = w_plus.clone()
    other[:, 2] += 1
    with pytest.raises(DirectionError, match="same mean"):
        difference_of_means(w_plus, other, layers=(0, 2))
    torch.testing.assert_close(difference_of_means(w_plus, other).vector[2], torch.ones(8))
    labels = {"own": torch.tensor([0.0] * 4 + [1.0] * 4)}
    with pytest.raises(DirectionError, match="does not tell own"):
        find_from_labels(torch.cat([w_plus, w_plus]).mean(dim=1), labels)


def test_sefa_maximises_the_change_of_style(generator: Generator) -> None:
    found = sefa(generator, layers=(1, 3), k=3)
    convs = [generator.synthesis.get_submodule(name).affine.weight for name in ("b8.conv0", "b8.conv1")]
    a = torch.nn.functional.normalize(torch.cat(convs).detach(), dim=1)
    gains = [float((a @ d.vector[0]).square().sum()) for d in found.values()]
    singular = torch.linalg.svdvals(a).square()
    assert gains == pytest.approx(singular[:3].tolist(), rel=1e-4)
    assert all(float(d.vector.norm()) == pytest.approx(1.0, rel=1e-5) for d in found.values())
    assert found["sefa0"].info.layers == (1, 3)
    with pytest.raises(ConfigError, match="No convolution takes the codes 5 to 5"):
        sefa(generator, layers=(5, 6))  # the last code belongs to toRGB alone
    with pytest.raises(ConfigError):
        sefa(generator, layers=(2, 9))


def test_pca_is_in_standard_deviations() -> None:
    deviations = torch.linspace(3, 0.1, D)
    w = _random(11, 5000, D) * deviations + 4
    found = pca(w, k=2)
    for i in range(2):
        vector = found[f"pca{i}"].vector[0]
        assert float(vector[i]) == pytest.approx(float(deviations[i]), rel=0.05)
    with pytest.raises(ConfigError):
        pca(w[:3], k=3)
