"""A small CNN that reads attributes off a portrait: the measure of edits, and the features of the set distances.

``train.attribute_trainer`` trains it on rendered portraits, whose attributes are known exactly. It says nothing about
real people: on a photo its readings say which rendered portrait looks alike, nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..hub.pretrained import Pretrained


__all__ = ["BINARY", "AttributeConfig", "AttributeNet", "AttributeOutput", "standardisation"]

BINARY = ("glasses",)  # read as a probability; all others are numbers


@dataclass(frozen=True)
class AttributeConfig:
    """What the network reads, in which units, and its sizes."""

    names: tuple[str, ...]  # first the attributes, then the rendering parameters
    num_attributes: int
    mean: tuple[float, ...]  # of each column over the training pictures
    std: tuple[float, ...]
    hair_styles: tuple[str, ...]
    resolution: int = 128  # what it looks at; other sizes are resampled
    widths: tuple[int, ...] = (32, 64, 128, 192)  # at 1/4, 1/8, 1/16 and 1/32 of the resolution
    features: int = 256

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.mean) == len(self.std):
            raise ConfigError("names, mean and std must be of the same length.")
        if len(self.widths) != 4 or self.resolution % 32:
            raise ConfigError("The network has four widths, and a resolution that 32 divides.")

    @property
    def attributes(self) -> tuple[str, ...]:
        """The named attributes."""
        return self.names[: self.num_attributes]

    @property
    def binary(self) -> tuple[bool, ...]:
        """Which columns are yes or no."""
        return tuple(name in BINARY for name in self.names)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The rendering parameters: shapes of the parts of the face, and expression units."""
        return self.names[self.num_attributes :]


@dataclass(frozen=True)
class AttributeOutput:
    """Raw output: ``values`` ``[N, K]`` standardised (logits where binary), ``hair`` logits ``[N, S]``."""

    values: Tensor
    hair: Tensor


class Conv(nn.Module):
    """3x3 convolution, batch norm, ReLU; a residual connection where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        return x + y if self.residual else y


class AttributeNet(Pretrained, nn.Module):
    """Pictures ``[N, 3, H, W]`` in [-1, 1] -> attributes, or 256 features."""

    part = "attributes"
    config_class = AttributeConfig

    def __init__(self, config: AttributeConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.widths
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),  # [N, 12, R/2, R/2]: the first convolution sees 6x6 pixels at a fourth of the cost
            Conv(12, a, 2),
            Conv(a, b, 2),
            Conv(b, b),
            Conv(b, c, 2),
            Conv(c, c),
            Conv(c, d, 2),  # [N, d, R/32, R/32]
        )
        self.embed = nn.Linear(d * (config.resolution // 32) ** 2, config.features)
        self.head = nn.Linear(config.features, len(config.names) + len(config.hair_styles))

    def features(self, x: Tensor) -> Tensor:
        """Pictures ``[N, 3, H, W]`` in [-1, 1], any size -> features ``[N, 256]``, at least 0.

        Raises:
            ShapeError: It is not a batch of RGB pictures.
        """
        if x.dim() != 4 or x.shape[1] != 3:
            raise ShapeError(f"The attribute network reads pictures [N, 3, H, W], not {list(x.shape)}.")
        size = (self.config.resolution, self.config.resolution)
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))
        return F.relu(self.embed(x.flatten(1)))

    def forward(self, x: Tensor) -> AttributeOutput:
        """Pictures ``[N, 3, H, W]`` in [-1, 1] -> standardised values and hair logits."""
        values, hair = self.head(self.features(x)).split([len(self.config.names), len(self.config.hair_styles)], dim=1)
        return AttributeOutput(values, hair)

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """Named attributes of pictures ``[N, 3, H, W]`` in [-1, 1], each ``[N]``, in the units of the labels.

        Angles (yaw, pitch, gaze, light) in degrees; glasses as a probability; colours and shares 0..1. Differentiable.
        """
        values = self.to_units(self(x).values)
        return {name: values[:, place] for place, name in enumerate(self.config.attributes)}

    def to_units(self, values: Tensor) -> Tensor:
        """Standardised values ``[N, K]`` -> the units of the labels; logits -> probabilities."""
        mean, std = (values.new_tensor(numbers) for numbers in (self.config.mean, self.config.std))
        binary = torch.tensor(self.config.binary, device=values.device)
        return torch.where(binary, values.sigmoid(), values * std + mean)


def standardisation(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column of ``[N, K]``; columns that never change keep their scale."""
    std = values.double().std(dim=0)
    mean, std = values.double().mean(dim=0), torch.where(std > 1e-6, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
