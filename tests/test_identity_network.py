"""The identity network in PyTorch: dlib's numbers, the chip, the distance by maps, and damaged files."""

from __future__ import annotations

from pathlib import Path

import dlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from refinestyle_hub.errors import ModelFileError
from refinestyle_hub.faces.dlib_models import IDENTITY_FILE, default_models
from refinestyle_hub.losses.identity_network import CHIPS, IdentityDistance


@pytest.fixture(scope="module")
def network() -> IdentityDistance:
    return IdentityDistance.load()


@pytest.fixture(scope="module")
def crops() -> Tensor:
    """Two noisy crops [2, 3, 64, 64]."""
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_embeddings_are_those_of_dlib(network: IdentityDistance, astronaut: Image.Image) -> None:
    models, pixels = default_models(), np.asarray(astronaut)
    box, _ = models.detect(pixels)[0]
    landmarks = models.landmarks(pixels, box)
    points = [dlib.point(int(x), int(y)) for x, y in landmarks]
    chip = dlib.get_face_chip(pixels, dlib.full_object_detection(dlib.rectangle(*box), points), 150, 0.25)
    found = network.embed(torch.from_numpy(chip.copy()).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    wanted = models.descriptor(pixels, box, landmarks)
    assert np.linalg.norm(found.numpy() - wanted) < 1e-4  # one person: under 0.6


def test_all_who_ask_share_one_network(network: IdentityDistance) -> None:
    before = torch.get_rng_state()
    assert IdentityDistance.load() is network
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in network.parameters())


def test_the_chip_is_a_fixed_cut_of_a_crop_of_any_size(network: IdentityDistance) -> None:
    side = torch.arange(256.0)
    ramp = (side / 255 * 2 - 1).expand(1, 3, 256, 256).contiguous()  # its value says the column
    columns = (network.chips(ramp)[0, 0] + 1) / 2 * 255
    wanted = 1.19866 * 74.5 - 0.00836 * 74.5 + 39.00717  # of the middle, between pixels 74 and 75
    assert float(columns[74:76, 74:76].mean()) == pytest.approx(wanted, abs=1.0)
    large = F.interpolate(ramp, size=(512, 512), mode="bilinear")
    torch.testing.assert_close(network.chips(large), network.chips(ramp), rtol=0, atol=0.01)


def test_equal_crops_are_one_person_and_gradients_reach_the_first(network: IdentityDistance, crops: Tensor) -> None:
    x, y = crops.clone(), crops.flip(0)
    assert not network(x, x).any()
    x.requires_grad_()
    distance = network(x, y, torch.Generator().manual_seed(3))
    assert distance.shape == (2,)
    distance.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_maps_are_compared_with_those_of_a_fixed_picture(network: IdentityDistance, crops: Tensor) -> None:
    near = network.reference(crops)
    for step in (0, 1, CHIPS):
        torch.testing.assert_close(near(step, crops), torch.zeros(2), rtol=0, atol=1e-5)
    other = crops.flip(0).requires_grad_()
    first, second, again = (near(step, other) for step in (0, 1, CHIPS))
    assert first.shape == (2,)
    assert first.min() > 0.01
    torch.testing.assert_close(first, again)  # the chips take turns
    assert not torch.allclose(first, second, rtol=1e-4)
    torch.testing.assert_close(first[:1], network.reference(crops[:1])(0, other[:1]), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(first.sum(), other)
    assert gradient.any()


@pytest.mark.parametrize("spoil", ["short", "other sizes", "no network", "not a number"])
def test_a_damaged_file_says_so(
    spoil: str, network: IdentityDistance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = default_models().identity_file.read_bytes()
    first = data.index(b"con_4") + len(b"con_4")
    damaged = {
        "short": data[: len(data) // 2],
        "other sizes": data[: first + 2] + b"\x02\x81" + data[first + 4 :],
        "no network": b"\x01\x02 some other model" * 100,
        "not a number": data[: first + 11] + b"\xff" * 4 + data[first + 15 :],
    }
    (tmp_path / IDENTITY_FILE).write_bytes(damaged[spoil])
    monkeypatch.setenv("REFINESTYLE_FACE_MODELS", str(tmp_path))
    with pytest.raises(ModelFileError, match=IDENTITY_FILE):
        IdentityDistance.load()
