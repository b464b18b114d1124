"""Fitting and measuring directions, with a generator and a reader small enough to know the answer."""

from __future__ import annotations

import pytest
import torch
from direction_fit import fit_directions, measure, sample
from torch import Tensor

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.editing.directions import Direction, DirectionInfo
from refinestyle_hub.errors import DirectionError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator


ATTRIBUTES = {"left": "brightness_left", "redder": "redness"}


def read(pictures: Tensor) -> dict[str, Tensor]:
    """Attributes that are plain functions of the picture."""
    half = pictures.shape[3] // 2
    return {
        "brightness_left": pictures[..., :half].mean(dim=(1, 2, 3)),
        "brightness": pictures.mean(dim=(1, 2, 3)),
        "redness": (pictures[:, 0] - pictures[:, 1]).mean(dim=(1, 2)),
    }


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        StyleGAN2Config(16, z_dim=8, w_dim=8, mapping_layers=2, channels={4: 8, 8: 8, 16: 8})
    ).eval()
    with torch.no_grad():  # a fresh toRGB draws far outside [-1, 1], where nothing can be read
        for name in ("b4", "b8", "b16"):
            generator.synthesis.get_submodule(f"{name}.torgb").weight *= 0.15
    return generator


def test_samples_mix_codes_between_groups_of_layers(generator: Generator) -> None:
    samples = sample(generator, read, 20, seed=3)
    assert samples.w_plus.shape == (20, 6, 8)
    assert torch.equal(samples.w_plus[:, 0], samples.w_plus[:, 1])
    assert not torch.equal(samples.w_plus[:, 1], samples.w_plus[:, 2])
    with torch.no_grad():
        pictures = generator(samples.w_plus).clamp(-1, 1)
    torch.testing.assert_close(samples.labels["redness"], read(pictures)["redness"], rtol=0, atol=1e-5)
    again = sample(generator, read, 20, seed=3)
    assert torch.equal(again.w_plus, samples.w_plus)


def test_measured_effect_is_the_mean_change(generator: Generator) -> None:
    w = sample(generator, read, 20).w_plus
    direction = Direction(0.1 * torch.ones(1, 8), DirectionInfo(layers=(0, 2)))
    offset = direction.offset(6)
    with torch.no_grad():
        more, less = (read(generator(w + sign * offset).clamp(-1, 1))["redness"] for sign in (1, -1))
    assert measure(generator, read, direction, w)["redness"] == pytest.approx(
        float((more - less).mean() / 2), abs=1e-6
    )


def test_fitted_directions_do_what_they_state(generator: Generator) -> None:
    calls: list[tuple[int, int]] = []
    found = fit_directions(
        generator,
        read,
        600,
        attributes=ATTRIBUTES,
        held=(),
        measured=64,
        licence="CC0-1.0",
        on_step=lambda *c: calls.append(c),
    )
    assert calls[-1][0] == calls[-1][1], "progress must end at its total"
    assert found.config.base == generator.fingerprint()
    fresh = sample(generator, read, 200, seed=9)
    for name, attribute in ATTRIBUTES.items():
        other = next(a for a in ATTRIBUTES.values() if a != attribute)
        info, deviation = found[name].info, float(fresh.labels[attribute].std())
        effect = measure(generator, read, found[name], fresh.w_plus)
        # one standard deviation, up to what 64 and 200 samples can tell
        assert effect[attribute] == pytest.approx(deviation, rel=0.25)
        assert abs(effect[other]) < 0.25 * float(fresh.labels[other].std())
        assert info.effect[attribute] == pytest.approx(effect[attribute], rel=0.25)
        assert info.leak[other] < 0.1
        assert attribute not in info.leak
        assert info.licence == "CC0-1.0"


def test_an_attribute_that_is_not_read_is_named(generator: Generator) -> None:
    with pytest.raises(DirectionError, match="beard"):
        fit_directions(generator, read, 32, attributes={"beard": "beard"})


def test_an_attribute_that_pictures_do_not_vary_gets_no_direction(generator: Generator) -> None:
    noise = torch.Generator().manual_seed(0)

    def read_noise(pictures: Tensor) -> dict[str, Tensor]:
        return {**read(pictures), "glasses": torch.rand(len(pictures), generator=noise)}

    wanted = {"redder": "redness", "glasses": "glasses"}
    with pytest.warns(UserWarning, match="hardly varies glasses"):
        found = fit_directions(generator, read_noise, 600, attributes=wanted, held=(), measured=64)
    assert list(found) == ["redder"]


def test_what_never_changes_need_not_be_held(generator: Generator) -> None:
    """A generator of portraits before white, say."""

    def read_white(pictures: Tensor) -> dict[str, Tensor]:
        return {**read(pictures), "white": torch.ones(len(pictures))}

    wanted = {"redder": "redness"}
    found = fit_directions(generator, read_white, 100, attributes=wanted, held=("white",), measured=16)
    leak = found["redder"].info.leak
    assert "brightness" in leak
    assert "white" not in leak


def test_the_background_is_held(generator: Generator) -> None:
    found = fit_directions(generator, read, 600, attributes={"redder": "redness"}, measured=64)
    info = found["redder"].info
    deviation = float(sample(generator, read, 200, seed=9).labels["redness"].std())
    assert info.effect["redness"] > 0.1 * deviation
    assert max(info.leak[f"background_{colour}"] for colour in ("red", "green", "blue")) < 0.2
