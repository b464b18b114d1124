"""Perceptual distance between two pictures: LPIPS, or its shift-tolerant sibling where LPIPS cannot be had.

Both compare unit-normalised AlexNet activations after each of the five ReLUs, weighted per channel and averaged over
the plane: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
equation 1; Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022 (stride-1 first convolution,
blurred pooling).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ModelNotFoundError, ShapeError


__all__ = ["Perceptual"]

Backbone = Literal["auto", "lpips-alex", "st-lpips-alex"]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for [-1, 1]
MIN_SIDE = 32  # pixels; AlexNet's last maps are empty below


class Perceptual(nn.Module):
    """Distance of pictures [N, 3, H, W] in [-1, 1] -> [N], 0 for equal pictures, about 1 for unrelated ones.

    ``name`` says which distance it is: "lpips-alex" (LPIPS 0.1) or "st-lpips-alex". Figures of one must not be
    compared with figures of the other. Weights are frozen; gradients reach the pictures.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: Literal["lpips-alex", "st-lpips-alex"]) -> None:
        super().__init__()
        if name not in ("lpips-alex", "st-lpips-alex"):
            raise ConfigError(f"The perceptual distances are lpips-alex and st-lpips-alex, not {name!r}.")
        self.name = name
        self.shift_tolerant = name == "st-lpips-alex"
        convs = [
            nn.Conv2d(3, 64, 11, stride=1 if self.shift_tolerant else 4, padding=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.Conv2d(256, 256, 3, padding=1),
        ]
        self.convs = nn.ModuleList(convs)
        # How much a channel matters, [1, C, 1, 1], never negative (the papers' w_l).
        self.importance = nn.ParameterList(torch.ones(1, conv.out_channels, 1, 1) for conv in convs)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, backbone: Backbone = "auto") -> Perceptual:
        """With published weights; "auto" is LPIPS where torchvision has or can fetch AlexNet, else ST-LPIPS.

        Raises:
            MissingDependencyError: the wheel that holds the weights is not installed.
            ModelNotFoundError: LPIPS was asked for by name and its trunk cannot be had.
            ModelFileError: the weights are damaged.
        """
        from ..convert.perceptual import lpips_alex, st_lpips_alex

        if backbone != "st-lpips-alex":
            model = cls("lpips-alex")
            weights = lpips_alex(model.state_dict())
            if weights is not None:
                model.load_state_dict(weights)
                return model
            if backbone == "lpips-alex":
                raise ModelNotFoundError(
                    "LPIPS needs torchvision's AlexNet, which is not cached and could not be fetched.\n"
                    'Go online once, or use backbone="st-lpips-alex", whose weights are installed.'
                )
        model = cls("st-lpips-alex")
        model.load_state_dict(st_lpips_alex(model.state_dict()))
        return model

    def embed(self, picture: Tensor) -> list[Tensor]:
        """Five maps [N, C, h, w] whose squared differences, averaged over the plane and summed, are the distance."""
        if picture.dim() != 4 or picture.shape[1] != 3 or min(picture.shape[2:]) < MIN_SIDE:
            raise ShapeError(
                f"The perceptual distance needs [N, 3, H, W] of {MIN_SIDE} pixels or more, not {list(picture.shape)}."
            )
        x = (picture - self.shift) / self.scale
        maps = []
        for i, (conv, importance) in enumerate(zip(self.convs, self.importance, strict=True)):
            if i in (1, 2):
                x = self._pool(x)
            x = conv(x)
            if i == 0 and self.shift_tolerant:
                x = _blur(x)
            x = F.relu(x)
            maps.append(_unit(x) * importance.sqrt())
        return maps

    def _pool(self, x: Tensor) -> Tensor:
        return _blur(F.max_pool2d(x, 3, stride=1)) if self.shift_tolerant else F.max_pool2d(x, 3, stride=2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance [N] between pictures [N, 3, H, W] in [-1, 1]."""
        return _distance(self.embed(x), self.embed(y))

    def reference(self, picture: Tensor) -> Callable[[Tensor], Tensor]:
        """The distance to a fixed picture [N or 1, 3, H, W], whose own maps are computed once."""
        with torch.no_grad():
            maps = self.embed(picture)
        return lambda x: _distance(self.embed(x), maps)


def _blur(x: Tensor) -> Tensor:
    """Halve [N, C, H, W] behind a [1, 2, 1] low-pass, mirrored by 2 at the edges (Zhang 2019, blurred pooling)."""
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _unit(x: Tensor) -> Tensor:
    """Divide by the norm over channels. Where all channels are 0 so are the result and its gradient."""
    x = x.float()
    return x * (x.square().sum(dim=1, keepdim=True) + 1e-20).rsqrt()


def _distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(p - q).square().sum(dim=1).mean(dim=(1, 2)) for p, q in zip(a, b, strict=True)]).sum(dim=0)
