from __future__ import annotations

import pytest
import torch
from stylegan2_reference import resample

from refinestyle_hub.tokens.resample import blur, downsample, upsample


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 5, 6, 10)])
def test_matches_zero_insertion(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pairs = {
        "up": (upsample(x), resample(x, up=2, pad=(2, 1), gain=4.0)),
        "down": (downsample(x), resample(x, down=2, pad=(1, 1))),
        "blur": (blur(x, padding=2), resample(x, pad=(2, 2))),
        "blur, gain": (blur(x, padding=1, gain=4.0), resample(x, pad=(1, 1), gain=4.0)),
    }
    for name, (ours, reference) in pairs.items():
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5, msg=name)


def test_upsampling_keeps_the_mean_of_a_constant() -> None:
    inside = upsample(torch.ones(1, 1, 8, 8))[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keeps_the_dtype_and_the_taps_are_exact(dtype: torch.dtype) -> None:
    x = torch.ones(1, 2, 8, 8, dtype=dtype)
    assert upsample(x).dtype == dtype
    # 1, 3, 9 over 64 are exact in both types, and so is the sum of all taps
    assert torch.equal(blur(x, padding=0), torch.ones(1, 2, 5, 5, dtype=dtype))
