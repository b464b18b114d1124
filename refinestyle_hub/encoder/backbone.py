"""Convolutional backbones of the encoder: three feature maps, fine to coarse.

The compact one is plain convolutions, quick on a CPU. Any other is a model of the package ``timm``, by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderNetwork
from ..errors import ConfigError


__all__ = ["Backbone", "CompactBackbone", "TimmBackbone", "open_backbone"]

BLOCKS = (1, 1, 2)  # residual blocks of the compact backbone at each of its strides


class Backbone(nn.Module):
    """Pictures [N, C, S, S] -> three maps [N, C_i, S_i, S_i], fine to coarse."""

    channels: tuple[int, ...]  # C_i


def open_backbone(network: EncoderNetwork, inputs: int, pretrained: bool = False) -> Backbone:
    """The backbone that a config names.

    Args:
        inputs: Channels of what it sees.
        pretrained: Start from timm's published weights, which are fetched when they are not cached.

    Raises:
        ConfigError: timm has no such model, or none with maps of these strides for images of this size; the compact
            backbone has no published weights.
    """
    if network.backbone != "compact":
        return TimmBackbone(network.backbone, inputs, network.size, network.strides, pretrained)
    if pretrained:
        raise ConfigError("The compact backbone has no published weights; name a timm model.")
    return CompactBackbone(inputs, network.widths)


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation of each picture alone, so that no answer depends on the batch."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, activations first (He et al. 2016, arXiv 1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = normalisation(channels), normalisation(channels)
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv0(F.relu(self.norm0(x)))
        y = self.conv1(F.relu(self.norm1(y)))
        return x + y


class CompactBackbone(Backbone):
    """A stem at half the size, then at 1/4, 1/8 and 1/16 a strided convolution and residual blocks."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(widths[1:])
        self.stem = nn.Conv2d(inputs, widths[0], 3, stride=2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                normalisation(before),
                nn.ReLU(),
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                *(ResidualBlock(after) for _ in range(blocks)),
            )
            for before, after, blocks in zip(widths, widths[1:], BLOCKS, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class TimmBackbone(Backbone):
    """Three feature maps of a timm model, at the strides that the config names.

    It sees images as it was made to: with the mean and deviation that timm states for it, three channels at a time.
    Batch normalisation keeps the statistics it comes with, so that no answer depends on the batch, on how it is shared
    among processes, or on whether the network is being trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, inputs: int, size: int, strides: Sequence[int], pretrained: bool = False) -> None:
        super().__init__()
        info = _timm(name, inputs, pretrained=False).feature_info
        maps = _last_maps(info.reduction(), strides)
        if maps is None:
            raise ConfigError(
                f"The timm model {name!r} has maps of the strides {info.reduction()}, not {list(strides)}."
            )
        # once more, without the layers that no map needs
        self.body = _timm(name, inputs, pretrained, out_indices=[info.out_indices[i] for i in maps])
        self.channels = tuple(self.body.feature_info.channels())
        known = self.body.pretrained_cfg
        for part in ("mean", "std"):
            values = torch.tensor(known[part]).repeat(inputs)[:inputs, None, None]
            self.register_buffer(part, values)  # of the model as it was when it learnt
        self.train()
        self._probe(name, inputs, size)

    @torch.no_grad()
    def _probe(self, name: str, inputs: int, size: int) -> None:
        """Check that it takes pictures of this size and gives maps, and note whether channels come last."""
        try:
            shapes = [x.shape for x in self.eval().body(torch.zeros(1, inputs, size, size))]
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"The timm model {name!r} does not take pictures of {size} pixels: {reason}") from error
        finally:
            self.train()
        found = {axis: tuple(shape[axis] for shape in shapes if len(shape) == 4) for axis in (1, 3)}
        if self.channels not in found.values():
            raise ConfigError(f"The timm model {name!r} gives no maps [N, C, H, W]: {[list(s) for s in shapes]}.")
        self.channels_last = found[1] != self.channels

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode as for all modules, but keep the statistics of batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(((x + 1) / 2 - self.mean) / self.std)
        return [y.permute(0, 3, 1, 2) for y in maps] if self.channels_last else maps


def _last_maps(reduction: Sequence[int], strides: Sequence[int]) -> list[int] | None:
    """Which maps of a model have these strides, fine to coarse, each the last there is; None where one is missing."""
    left, found = list(enumerate(reduction)), []
    for stride in reversed(strides):
        while left and left[-1][1] != stride:
            left.pop()
        if not left:
            return None
        found.append(left.pop()[0])
    return found[::-1]


def _timm(name: str, inputs: int, pretrained: bool, **options: Any) -> Any:
    import timm  # takes seconds

    if not re.fullmatch(r"[a-z0-9_.]+", name):  # timm would take a name with a scheme for a place to fetch from
        raise ConfigError(f"{name[:60]!r} is not the name of a timm model.")
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=inputs, **options)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ConfigError(f"timm has no model {name!r} with feature maps: {error}") from error
