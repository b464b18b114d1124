"""How like one another two faces are, to a differentiable copy of dlib's identity network.

The network is the ResNet with 29 convolutions of dlib (King, dlib.net, CC0). Its embedding says whether two faces are
one person: distances are on dlib's scale, where under 0.6 it is likely. Its maps say how a face differs in features
that tell people apart: compared as LPIPS compares maps of AlexNet, they are what an inversion descends.

Crops are aligned as FFHQ's, so the face chip that dlib cuts by landmarks is nearly the same in all of them, and a
fixed one is taken. Chips that are off at random keep a picture from being right for one chip alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..faces.dlib_models import default_models
from ..runtime.defaults import standard_defaults
from .identity_weights import read_weights


__all__ = ["IdentityDistance"]

MEAN = (122.782, 117.001, 104.298)  # of the network's pictures, of 255
CHIP = 150  # pixels
# Places in the chip -> places in a crop of 256 px: the median over 290 aligned photos
CHIP_TO_CROP = ((1.19866, -0.00836, 39.00717), (0.00836, 1.19866, 64.98621))
JITTER = (0.05, 0.04, 2.5, 2.5)  # deviations of a random chip: log scale, radians, pixels across and down
CHIPS = 8  # that an inversion sees in turn
# Residual blocks in order: convolutions' inputs and outputs, and whether the block halves the map
BLOCKS = (
    *[(32, 32, False)] * 3,
    (32, 64, True),
    *[(64, 64, False)] * 3,
    (64, 128, True),
    *[(128, 128, False)] * 2,
    (128, 256, True),
    *[(256, 256, False)] * 2,
    (256, 256, True),
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

    fc: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        self.blocks = nn.ModuleList(Block(*sizes) for sizes in BLOCKS)
        self.register_buffer("fc", torch.zeros(256, 128))
        self.requires_grad_(False)

    @classmethod
    @standard_defaults()
    def load(cls, device: torch.device | str = "cpu") -> IdentityDistance:
        """dlib's network, from where ``faces`` takes dlib's models. It is read once, and all who ask share it.

        Raises:
            MissingDependencyError, ModelNotFoundError: There are no models of dlib.
            ModelFileError: The file is damaged, or is another network.
        """
        return _network(default_models().identity_file, torch.device(device))

    def chips(self, crops: Tensor, jitter: Tensor | None = None) -> Tensor:
        """Face chips [N, 3, 150, 150] of crops [N, 3, R, R].

        Args:
            jitter: [N, 4], how each chip is off: log scale, radians, and pixels across and down.
        """
        n = len(crops)
        to_crop = crops.new_tensor(CHIP_TO_CROP).expand(n, 2, 3)
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
        chips = F.grid_sample(crops, grid, padding_mode="border", align_corners=False)
        return chips.clamp(-1.2, 1.2)  # what is drawn may leave [-1, 1]

    def maps(self, chips: Tensor) -> list[Tensor]:
        """Maps [N, C, h, w] of face chips [N, 3, 150, 150] in [-1, 1]: before each halving, and the last."""
        x = ((chips + 1) * 127.5 - chips.new_tensor(MEAN)[:, None, None]) / 256
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        found = []
        for block, (_, _, halved) in zip(self.blocks, BLOCKS, strict=True):
            if halved:
                found.append(x)
            x = block(x)
        return [*found, x]

    def embed(self, chips: Tensor) -> Tensor:
        """Embeddings [N, 128] of face chips [N, 3, 150, 150] in [-1, 1]."""
        return self.maps(chips)[-1].float().mean(dim=(2, 3)) @ self.fc

    def forward(self, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Distance [N]. With ``rng`` (on the same device) the chips are off at random, in both crops alike."""
        jitter = None
        if rng is not None:
            jitter = torch.randn(len(x), 4, generator=rng, device=x.device) * x.new_tensor(JITTER)
        a, b = (self.embed(self.chips(crops, jitter)) for crops in (x, y))
        distance: Tensor = (a.float() - b.float()).norm(dim=1)
        return distance

    def reference(self, crops: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Distance of (step, pictures [N, 3, S, S]) from ``crops`` [N, 3, R, R] by all maps -> [N].

        Squared differences of unit vectors, averaged over the plane and summed over the maps. Eight chips take turns,
        and the maps of the crops are computed once for each.
        """
        rng = torch.Generator().manual_seed(0)
        jitters = (torch.randn(CHIPS, 1, 4, generator=rng) * torch.tensor(JITTER)).to(crops.device)

        def unit(pictures: Tensor, chip: int) -> list[Tensor]:
            maps = self.maps(self.chips(pictures, jitters[chip].expand(len(pictures), 4)))
            return [x * (x.square().sum(dim=1, keepdim=True) + 1e-6).rsqrt() for x in maps]

        @cache
        @torch.no_grad()
        def wanted(chip: int) -> list[Tensor]:
            return unit(crops, chip)

        def distance(step: int, pictures: Tensor) -> Tensor:
            pairs = zip(unit(pictures, step % CHIPS), wanted(step % CHIPS), strict=True)
            return torch.stack([(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]).sum(dim=0)

        return distance


@lru_cache(maxsize=1)
def _network(path: Path, device: torch.device) -> IdentityDistance:
    weights = read_weights(path)
    with torch.device("meta"):  # no numbers are drawn that the weights would replace
        network = IdentityDistance()
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval().to(device)
