"""Perceptual distance and the small terms of the inversion."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from refinestyle_hub.errors import ConfigError, ModelFileError, ModelNotFoundError, ShapeError
from refinestyle_hub.losses.code_spread import code_spread
from refinestyle_hub.losses.gan import feature_matching
from refinestyle_hub.losses.perceptual import Perceptual, blur_pool, conv_blur_pool
from refinestyle_hub.losses.pixel import mse, shrink


@pytest.fixture(scope="module")
def distance() -> Perceptual:
    return Perceptual.load("st-lpips-alex")


def _pictures(n: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    """Smooth random pictures [N, 3, size, size] in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


@pytest.fixture
def no_alexnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def test_equal_pictures_have_distance_zero(distance: Perceptual) -> None:
    x = _pictures()
    assert torch.equal(distance(x, x), torch.zeros(2))


def test_distance_grows_with_damage_and_forgives_a_shift(distance: Perceptual) -> None:
    x = _pictures()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    small, large = distance(x, x + 0.05 * noise), distance(x, x + 0.2 * noise)
    assert bool((small > 0).all())
    assert bool((small < large).all())
    assert bool((distance(x, x.roll(1, dims=3)) < large).all())  # one pixel aside; what shift-tolerance is for


def test_a_reference_gives_the_same_distance(distance: Perceptual) -> None:
    x, y = _pictures(), _pictures(seed=1)
    to_y = distance.reference(y)
    torch.testing.assert_close(to_y(x), distance(x, y))
    one = distance.reference(y[:1])  # one target for the whole batch
    torch.testing.assert_close(one(x), distance(x, y[:1].expand(2, -1, -1, -1)))


def test_gradients_reach_the_picture_and_stay_finite(distance: Perceptual) -> None:
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)  # a flat picture leaves maps that are 0 in all channels
    distance(flat, _pictures(1)).sum().backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())
    assert float(flat.grad.abs().max()) > 0
    assert all(not p.requires_grad for p in distance.parameters())


def test_st_lpips_equals_the_package(distance: Perceptual) -> None:
    """Their values for these pictures were taken from stlpips-pytorch 0.0.2, which imports more than it declares."""
    assert float(distance(_pictures(1), _pictures(1, seed=1))) == pytest.approx(0.45481503, rel=1e-5)
    with_vgg = Perceptual.load("st-lpips-vgg")
    assert float(with_vgg(_pictures(1), _pictures(1, seed=1))) == pytest.approx(0.53305423, rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 40), (40, 33), (47, 47)])
def test_the_blurred_convolution_is_one_step_of_two(distance: Perceptual, height: int, width: int) -> None:
    """Its ends depend on whether the convolution has an even number of rows and columns."""
    conv = deepcopy(distance.convs[0]).double()
    assert isinstance(conv, torch.nn.Conv2d)
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(conv_blur_pool(x, conv), blur_pool(conv(x)), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The parameter .pretrained.", "ignore:Arguments other than a weight enum")
@pytest.mark.skipif(importlib.util.find_spec("lpips") is None, reason="lpips is not installed")
def test_lpips_equals_the_package() -> None:
    """With a random trunk, since AlexNet's weights need the network, and the package's own linear layers."""
    import lpips

    theirs = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    ours = Perceptual("lpips-alex")
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    theirs.load_state_dict(linear, strict=False)
    trunk = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")
    state = {f"importance.{i}": linear[f"lin{i}.model.1.weight"] for i in range(5)}
    for i, name in enumerate(trunk):
        conv = theirs.net.get_submodule(name)
        state |= {f"convs.{i}.weight": conv.weight, f"convs.{i}.bias": conv.bias}
    ours.load_state_dict(state)
    x, y = _pictures(), _pictures(seed=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y), theirs(x, y).flatten(), rtol=1e-5, atol=0)


def test_without_alexnet_the_shift_tolerant_one_takes_over(no_alexnet: None) -> None:
    assert Perceptual.load().name == "st-lpips-alex"
    with pytest.raises(ModelNotFoundError, match="st-lpips-alex"):
        Perceptual.load("lpips-alex")


def test_cached_alexnet_makes_it_lpips(no_alexnet: None, tmp_path: Path) -> None:
    """A random AlexNet in torch's cache, in the layout of torchvision's file."""
    shapes = {name: t.shape for name, t in Perceptual("lpips-alex").state_dict().items() if name.startswith("convs")}
    trunk = {
        f"features.{tv}.{leaf}": 0.05 * torch.randn(shapes[f"convs.{i}.{leaf}"])
        for i, tv in enumerate((0, 3, 6, 8, 10))
        for leaf in ("weight", "bias")
    }
    cache = tmp_path / "checkpoints"
    cache.mkdir()
    torch.save(trunk | {"classifier.1.weight": torch.ones(2)}, cache / "alexnet-owt-7be5be79.pth")
    found = Perceptual.load()
    assert found.name == "lpips-alex"
    assert torch.equal(found.convs[3].weight, trunk["features.8.weight"])
    assert float(found(_pictures(), _pictures(seed=1)).min()) > 0

    del trunk["features.8.bias"]
    torch.save(trunk, cache / "alexnet-owt-7be5be79.pth")
    with pytest.raises(ModelFileError, match=r"features\.8\.bias"):
        Perceptual.load("lpips-alex")
    (cache / "alexnet-owt-7be5be79.pth").write_bytes(b"PK cut off")
    with pytest.raises(ModelFileError, match="torch's cache, is damaged.\nRemove that file"):
        Perceptual.load("lpips-alex")
    with pytest.warns(UserWarning, match="Until then ST-LPIPS takes the place"):
        assert Perceptual.load().name == "st-lpips-alex"


def test_wrong_pictures_and_names_are_refused(distance: Perceptual) -> None:
    for shape in ((3, 64, 64), (1, 1, 64, 64), (1, 3, 16, 16)):
        with pytest.raises(ShapeError):
            distance(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ConfigError, match="lpips-vgg"):
        Perceptual("lpips-vgg")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'auto', 'lpips-alex', .* or 'st-lpips-vgg', not 'lpips-vgg'"):
        Perceptual.load("lpips-vgg")  # type: ignore[arg-type]


def test_small_terms() -> None:
    x, y = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)
    assert mse(x, y).tolist() == [0.25, 0.25]
    w = torch.randn(2, 1, 6).expand(-1, 4, -1)
    torch.testing.assert_close(code_spread(w), torch.zeros(2))
    w = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert code_spread(w).tolist() == [1.0]
    picture = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert shrink(picture, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert shrink(picture, 4) is picture
    assert shrink(torch.zeros(1, 3, 1024, 1024), 256).shape == (1, 3, 256, 256)


def test_features_of_a_flat_picture_may_be_nought() -> None:
    x = torch.full((1, 2, 4, 4), 3.0, requires_grad=True)
    nothing = torch.zeros(1, 2, 4, 4)
    assert feature_matching([x], [nothing + 1.5]).item() == pytest.approx(1)
    loss = feature_matching([x, nothing], [nothing, nothing])
    assert loss.item() == pytest.approx(5)  # ten times what is there, and nothing
    loss.backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
