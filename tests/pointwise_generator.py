"""A second generator for tests, as unlike StyleGAN2 as the interface allows: pointwise kernels, given demodulation,
names and numbers of layers of its own, and colours that hold four pixels each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tiny import randomise
from torch import Tensor, nn

from refinestyle_hub.config import GENERATOR_CONFIGS, GeneratorConfig, LayerSpec
from refinestyle_hub.generators.base import Generator, NoiseMaps, Residuals
from refinestyle_hub.generators.layers import FullyConnected
from refinestyle_hub.tokens.modulated_conv import Residual, bias_offset, modulated_conv


@dataclass(frozen=True)
class PointwiseConfig(GeneratorConfig):
    """Maps of one width; the picture has twice the size of the last one."""

    network = "Pointwise"

    width: int = 16

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the maps."""
        return tuple(2**k for k in range(2, self.resolution.bit_length() - 1))

    @property
    def num_ws(self) -> int:
        """One code for each layer."""
        return 2 * len(self.sides)

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """One convolution at 4 px, two at each larger size, and colours."""
        names = [(f"{letter}{side}", side) for side in self.sides for letter in ("ab" if side > 4 else "a")]
        convs = [
            LayerSpec(f"{name}.conv", "conv", self.width, self.width, 1, side, False, code)
            for code, (name, side) in enumerate(names)
        ]
        return (*convs, LayerSpec("colours", "rgb", self.width, 12, 1, self.sides[-1], False, len(convs)))

    @property
    def architecture(self) -> str:
        """Such as "pointwise-32-w16"."""
        return f"pointwise-{self.resolution}-w{self.width}"


class Pointwise(nn.Module):
    """A modulated pointwise convolution with given demodulation, and noise where it is of role "conv"."""

    demodulation: Tensor
    noise_const: Tensor

    def __init__(self, spec: LayerSpec, w_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.randn(spec.outputs, spec.inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(spec.outputs))
        self.affine = FullyConnected(w_dim, spec.inputs, bias=1.0)
        self.register_buffer("demodulation", torch.full((spec.outputs,), 0.7 / spec.inputs**0.5))
        if spec.role == "conv":
            self.register_buffer("noise_const", torch.randn(spec.resolution, spec.resolution))

    def style(self, w: Tensor) -> Tensor:  # [N, D] -> [N, I]
        style: Tensor = self.affine(w)
        return style

    def forward(self, x: Tensor, w: Tensor, residuals: Sequence[Residual]) -> Tensor:
        y = modulated_conv(x, self.weight, self.style(w), residuals, demodulation=self.demodulation)
        offset = bias_offset(residuals)
        return y + (self.bias[None] if offset is None else self.bias + offset)[:, :, None, None]


class PointwiseGenerator(Generator):
    """Pointwise convolutions between nearest-neighbour steps."""

    config_class = PointwiseConfig

    config: PointwiseConfig

    def __init__(self, config: PointwiseConfig) -> None:
        super().__init__(config)
        self.start = nn.Parameter(torch.randn(config.width, 4, 4))
        self.body = nn.ModuleList(Pointwise(spec, config.w_dim) for spec in config.layers)
        self._set_layers(self.body)  # type: ignore[arg-type]

    def synthesise(self, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, resolution: int) -> Tensor:
        x = self.start.expand(len(w_plus), -1, -1, -1)
        for conv, w, extra in zip(self.body, w_plus.unbind(1), [*noise, None], strict=True):
            x = F.interpolate(x, size=(conv.spec.resolution,) * 2)
            x = conv(x, w, residuals.get(conv.spec.name, ()))
            if conv.spec.role == "conv":
                x = F.leaky_relu(x if extra is None else x + 0.1 * extra, 0.2)
        return F.pixel_shuffle(0.3 * x, 2)


GENERATOR_CONFIGS["PointwiseGenerator"] = PointwiseConfig


def pointwise_generator(seed: int = 0, resolution: int = 32) -> PointwiseGenerator:
    """With random weights, frozen, and a mean latent that is one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = PointwiseConfig(resolution, z_dim=8, w_dim=8, mapping_layers=2)
        generator = PointwiseGenerator(config).eval().requires_grad_(False)
    randomise(generator, seed)
    generator.mean_latent.copy_(generator.sample(500, torch.Generator().manual_seed(1))[:, 0].mean(dim=0))
    return generator
