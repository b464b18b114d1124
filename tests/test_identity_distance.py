"""The identity network in PyTorch: how foreign tensors are folded in, the chip, and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from identity_distance import BLOCKS, IdentityDistance
from torch import Tensor


def published(rng: torch.Generator) -> dict[str, Tensor]:
    """Tensors under face-api's names."""
    sizes = {"conv32_down": (32, 3, 7)}
    for name, inputs, outputs, _ in BLOCKS:
        sizes |= {f"{name}_conv1": (outputs, inputs, 3), f"{name}_conv2": (outputs, outputs, 3)}
    found = {"fc": torch.randn(256, 128, generator=rng)}
    for name, (outputs, inputs, side) in sizes.items():
        kernel = torch.randn(outputs, inputs, side, side, generator=rng) / (inputs * side**2) ** 0.5
        found |= {f"{name}_conv_filters": kernel, f"{name}_conv_bias": torch.randn(outputs, generator=rng)}
        found |= {f"{name}_scale_weights": torch.rand(outputs, generator=rng) + 0.5}
        found |= {f"{name}_scale_biases": torch.randn(outputs, generator=rng)}
    return found


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return published(torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network(tensors: dict[str, Tensor]) -> IdentityDistance:
    return IdentityDistance.from_face_api(tensors)


def test_scale_and_offset_are_folded_into_the_convolution(
    network: IdentityDistance, tensors: dict[str, Tensor]
) -> None:
    x = torch.randn(1, 64, 9, 9, generator=torch.Generator().manual_seed(1))
    y = F.conv2d(x, tensors["conv64_2_conv1_conv_filters"], tensors["conv64_2_conv1_conv_bias"], padding=1)
    scale, offset = (tensors[f"conv64_2_conv1_scale_{part}"][:, None, None] for part in ("weights", "biases"))
    found = network.blocks["conv64_2"].conv1(x)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(found, y * scale + offset, rtol=1e-4, atol=1e-4)


def test_the_chip_is_a_fixed_cut_of_a_crop_of_any_size(network: IdentityDistance) -> None:
    side = torch.arange(256.0)
    ramp = (side / 255 * 2 - 1).expand(1, 3, 256, 256).contiguous()  # its value says the column
    columns = (network.chips(ramp)[0, 0] + 1) / 2 * 255
    wanted = 1.19866 * 74.5 - 0.00836 * 74.5 + 39.00717  # of the middle, between pixels 74 and 75
    assert float(columns[74:76, 74:76].mean()) == pytest.approx(wanted, abs=1.0)
    large = F.interpolate(ramp, size=(512, 512), mode="bilinear")
    torch.testing.assert_close(network.chips(large), network.chips(ramp), rtol=0, atol=0.01)


def test_equal_crops_are_one_person_and_gradients_reach_the_first(network: IdentityDistance) -> None:
    rng = torch.Generator().manual_seed(2)
    x, y = (torch.rand(2, 3, 64, 64, generator=rng) * 2 - 1 for _ in range(2))
    assert not network(x, x).any()
    x.requires_grad_()
    distance = network(x, y, torch.Generator().manual_seed(3))
    assert distance.shape == (2,)
    distance.sum().backward()
    assert x.grad is not None
    assert x.grad.any()
