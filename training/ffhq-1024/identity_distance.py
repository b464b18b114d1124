"""Whether two faces are one person, by a differentiable copy of dlib's identity network.

The network is the ResNet with 29 convolutions of dlib (King, dlib.net, CC0), whose weights other packages carry in
forms that need no dlib. Distances are on dlib's scale: under 0.6 it is likely one person. Crops are aligned as FFHQ's,
so the face chip that dlib cuts by landmarks is nearly the same in all of them, and a fixed one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


__all__ = ["IdentityDistance"]

MEAN = (122.782, 117.001, 104.298)  # of the network's pictures, of 255
CHIP = 150  # pixels
# Places in the chip -> places in a crop of 256 px: the median over 290 aligned photos
CHIP_TO_CROP = ((1.19866, -0.00836, 39.00717), (0.00836, 1.19866, 64.98621))
JITTER = (0.05, 0.04, 2.5, 2.5)  # deviations of a random chip: log scale, radians, pixels across and down
# Residual blocks in order: name, convolutions' inputs and outputs, and whether the block halves the map
BLOCKS = (
    *((f"conv32_{i}", 32, 32, False) for i in (1, 2, 3)),
    ("conv64_down", 32, 64, True),
    *((f"conv64_{i}", 64, 64, False) for i in (1, 2, 3)),
    ("conv128_down", 64, 128, True),
    *((f"conv128_{i}", 128, 128, False) for i in (1, 2)),
    ("conv256_down", 128, 256, True),
    *((f"conv256_{i}", 256, 256, False) for i in (1, 2)),
    ("conv256_down_out", 256, 256, True),
)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which averages where the map is halved, and has no more channels."""

    def __init__(self, inputs: int, outputs: int, halved: bool) -> None:
        super().__init__()
        self.halved = halved
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if halved else 1, padding=0 if halved else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.relu(self.conv1(x)))
        if not self.halved:
            return F.relu(x + y)
        x = F.avg_pool2d(x, 2)
        x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        height, width = (max(sides) for sides in zip(x.shape[2:], y.shape[2:], strict=True))
        x, y = (F.pad(z, (0, width - z.shape[3], 0, height - z.shape[2])) for z in (x, y))
        return F.relu(x + y)


class IdentityDistance(nn.Module):
    """Distance [N] of FFHQ-aligned crops [N, 3, R, R] in [-1, 1], on dlib's scale. Weights are frozen."""

    mean: Tensor
    fc: Tensor
    chip: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        self.blocks = nn.ModuleDict({name: Block(inputs, outputs, down) for name, inputs, outputs, down in BLOCKS})
        self.register_buffer("fc", torch.zeros(256, 128))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("chip", torch.tensor(CHIP_TO_CROP), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_face_api(cls, tensors: Mapping[str, Tensor]) -> IdentityDistance:
        """Load the weights of face-api's ``face_recognition_model``: names joined by ``_``, kernels [O, I, k, k].

        What dlib keeps as a scale and an offset behind each convolution is folded into it.
        """
        state = {"fc": tensors["fc"].float()}
        convs = {"stem": "conv32_down_conv"}
        convs |= {f"blocks.{name}.conv{i}": f"{name}_conv{i}_conv" for name, *_ in BLOCKS for i in (1, 2)}
        for own, theirs in convs.items():
            stem = theirs.removesuffix("_conv")
            scale, offset = (tensors[f"{stem}_scale_{part}"].float() for part in ("weights", "biases"))
            state[f"{own}.weight"] = tensors[f"{theirs}_filters"].float() * scale[:, None, None, None]
            state[f"{own}.bias"] = tensors[f"{theirs}_bias"].float() * scale + offset
        model = cls()
        model.load_state_dict(state)
        return model.eval()

    def chips(self, crops: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Face chips [N, 3, 150, 150] of crops [N, 3, R, R].

        Args:
            jitter: [N, 4], how each chip is off: log scale, radians, and pixels across and down.
        """
        n = len(crops)
        to_crop = self.chip.expand(n, 2, 3)
        if jitter is not None:
            cos, sin = (f(jitter[:, 1]) * jitter[:, 0].exp() for f in (torch.cos, torch.sin))
            turn = torch.stack([cos, -sin, sin, cos], dim=1).view(n, 2, 2)
            centre = to_crop.new_full((n, 2, 1), CHIP / 2)
            linear = to_crop[:, :, :2]
            shift = linear @ (centre - turn @ centre) + to_crop[:, :, 2:] + jitter[:, 2:, None]
            to_crop = torch.cat([linear @ turn, shift], dim=2)
        # from pixels to the units of affine_grid: a chip's are 75 (1 + u), a crop's (2 x + 1) / 256 - 1
        half = CHIP / 2
        offset = to_crop[:, :, :2].sum(dim=2, keepdim=True) * half + to_crop[:, :, 2:]
        theta = torch.cat([to_crop[:, :, :2] * CHIP / 256, (2 * offset + 1) / 256 - 1], dim=2)
        grid = F.affine_grid(theta, [n, 3, CHIP, CHIP], align_corners=False)
        return F.grid_sample(crops, grid, padding_mode="border", align_corners=False)

    def embed(self, chips: Tensor) -> Tensor:
        """Embeddings [N, 128] of face chips [N, 3, 150, 150] in [-1, 1]."""
        x = ((chips + 1) * 127.5 - self.mean) / 256
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        for block in self.blocks.values():
            x = block(x)
        return x.float().mean(dim=(2, 3)) @ self.fc

    def forward(self, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Distance [N]. With ``rng`` (on the same device) the chips are off at random, in both crops alike."""
        jitter = None
        if rng is not None:
            jitter = torch.randn(len(x), 4, generator=rng, device=x.device) * x.new_tensor(JITTER)
        a, b = (self.embed(self.chips(crops, jitter).clamp(-1.2, 1.2)) for crops in (x, y))
        distance: Tensor = (a.float() - b.float()).norm(dim=1)
        return distance
