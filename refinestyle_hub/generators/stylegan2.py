"""StyleGAN2 generator (Karras et al. 2020, arXiv 1912.04958): mapping z -> w, synthesis w+ -> picture.

The parameter names are those of the published PyTorch networks, so conversion is a copy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import GeneratorConfig, LayerSpec
from ..errors import BaseMismatchError, ConfigError, LayerError, MergeError, ShapeError
from ..hub.pretrained import Pretrained
from ..hub.push import Pushable
from ..storage.fingerprint import check_base, fingerprint
from ..tokens.batch import Strength, TokensLike, residuals_of
from ..tokens.modulated_conv import Residual, bias_offset, cross_terms, modulated_conv, residual_kernel
from ..tokens.parameters import KernelStats
from ..tokens.resample import upsample
from ..tokens.token_set import TokenSet


__all__ = ["Generator"]

SQRT2 = math.sqrt(2.0)


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate: the stored weights have unit variance over ``lr``.

    Always in fp32, as in the published networks: it costs nothing, and styles set the size of everything that follows.
    """

    def __init__(self, inputs: int, outputs: int, lr: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr))
        self.lr = lr
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs] -> [N, outputs]
        gain = self.lr / math.sqrt(self.weight.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            x = F.linear(x.float(), self.weight.float() * gain, self.bias.float() * self.lr)
            return F.leaky_relu(x, 0.2) * SQRT2 if self.activate else x


class MappingNetwork(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.depth = config.mapping_layers
        for i in range(self.depth):
            inputs = config.z_dim if i == 0 else config.w_dim
            setattr(self, f"fc{i}", Dense(inputs, config.w_dim, lr=0.01, activate=True))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor) -> Tensor:
        z = z.float()
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x


class StyledConv(nn.Module):
    """3x3 modulated convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(self, spec: LayerSpec, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(spec.outputs, spec.inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(spec.outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.affine = Dense(w_dim, spec.inputs, bias=1.0)
        self.register_buffer("noise_const", torch.randn(spec.resolution, spec.resolution))
        self.resolution = spec.resolution
        self.up = spec.up
        self.clamp = clamp

    def style(self, w: Tensor) -> Tensor:  # [N, w_dim] -> [N, I]
        style: Tensor = self.affine(w)
        return style

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, residuals: Sequence[Residual] = ()) -> Tensor:
        y = modulated_conv(x, self.weight, self.style(w), residuals, up=self.up)
        if noise is not None:
            y = y + (noise * self.noise_strength).to(y.dtype)
        y = F.leaky_relu(y + total_bias(self.bias, residuals).to(y.dtype), 0.2) * SQRT2
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """1x1 modulated convolution without demodulation."""

    def __init__(self, spec: LayerSpec, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, spec.inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Dense(w_dim, spec.inputs, bias=1.0)
        self.clamp = clamp

    def style(self, w: Tensor) -> Tensor:  # [N, w_dim] -> [N, I]
        style: Tensor = self.affine(w) / math.sqrt(self.weight.shape[1])
        return style

    def forward(self, x: Tensor, w: Tensor, residuals: Sequence[Residual] = ()) -> Tensor:
        y = modulated_conv(x, self.weight, self.style(w), residuals, demodulate=False)
        y = y + total_bias(self.bias, residuals).to(y.dtype)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def total_bias(bias: Tensor, residuals: Sequence[Residual]) -> Tensor:  # [O] -> [1 or N, O, 1, 1]
    offset = bias_offset(residuals)
    return (bias[None] if offset is None else bias + offset)[:, :, None, None]


class Block(nn.Module):
    """One resolution: conv0 (up-sampling; absent at 4 px), conv1, and a toRGB into the running picture."""

    const: nn.Parameter  # [C, 4, 4], at 4 px only
    conv0: StyledConv
    conv1: StyledConv
    torgb: ToRGB

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(config.channels[4], 4, 4))
        for spec in config.layers:
            block, name = spec.name.split(".")
            if block == f"b{resolution}":
                kind = StyledConv if spec.kind == "conv" else ToRGB
                setattr(self, name, kind(spec, config.w_dim, config.conv_clamp))


class Synthesis(nn.Module):
    """w+ [N, L, w_dim] -> picture [N, 3, H, W], about [-1, 1]."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        for resolution in config.channels:
            setattr(self, f"b{resolution}", Block(config, resolution))
        self.resolutions = tuple(config.channels)
        self.fp16_from = config.fp16_from

    def blocks(self) -> Iterator[Block]:
        for resolution in self.resolutions:
            yield getattr(self, f"b{resolution}")

    def forward(
        self, w: Tensor, noise: Sequence[Tensor | None], residuals: Mapping[str, Sequence[Residual]] | None = None
    ) -> Tensor:
        n, extra = w.shape[0], residuals or {}
        # fp16 blocks as published: on a GPU only, unless autocast decides
        half = w.device.type == "cuda" and not torch.is_autocast_enabled("cuda")
        maps, codes = iter(noise), iter(w.unbind(dim=1))
        x, picture = None, None
        code = next(codes)
        for block in self.blocks():
            name = f"b{block.resolution}"
            if x is None:
                x = block.const.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
            else:
                x = x.half() if half and block.resolution >= self.fp16_from else x
                x = block.conv0(x, code, next(maps), extra.get(f"{name}.conv0", ()))
                code = next(codes)
            x = block.conv1(x, code, next(maps), extra.get(f"{name}.conv1", ()))
            code = next(codes)  # toRGB shares its code with the next block's first convolution
            rgb: Tensor = block.torgb(x, code, extra.get(f"{name}.torgb", ())).float()
            with torch.autocast(w.device.type, enabled=False):
                picture = rgb if picture is None else upsample(picture) + rgb
        assert picture is not None
        return picture


class Generator(Pretrained, Pushable, nn.Module):
    """Mapping and synthesis. Drawing changes no state, and tokens are arguments: threads may share one generator."""

    part = "generator"
    config_class = GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = Synthesis(config)
        self.layers: Mapping[str, LayerSpec] = {spec.name: spec for spec in config.layers}

    def layer(self, name: str) -> StyledConv | ToRGB:
        """The module of a layer, such as ``"b64.conv0"``.

        Raises:
            LayerError: There is no such layer.
        """
        if name not in self.layers:
            raise LayerError(f"This generator has no layer {name!r}. Layers: {', '.join(self.layers)}.")
        block, kind = name.split(".")
        module: StyledConv | ToRGB = getattr(getattr(self.synthesis, block), kind)
        return module

    def map(self, z: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """z [N, z_dim] -> w+ [N, L, w_dim].

        ``truncation`` pulls the first ``cutoff`` codes (None: all) towards the mean latent: 1 as drawn, 0 the mean.

        Raises:
            ShapeError: z is not [N, z_dim].
            ConfigError: ``truncation`` is not a finite number.
        """
        if z.ndim != 2 or z.shape[1] != self.config.z_dim:
            raise ShapeError(f"z must be [N, {self.config.z_dim}], not {list(z.shape)}.")
        if not math.isfinite(truncation):
            raise ConfigError(f"The truncation must be a finite number, not {truncation}.")
        w: Tensor = self.mapping(z)[:, None].expand(-1, self.config.num_layers, -1)
        if truncation == 1.0:
            return w
        pulled = self.mapping.w_avg.float().lerp(w[:, :cutoff], truncation)
        return pulled if cutoff is None else torch.cat([pulled, w[:, cutoff:]], dim=1)

    def convs(self) -> Iterator[StyledConv]:
        """Convolutions that take noise, coarse to fine."""
        for name, spec in self.layers.items():
            if spec.kind == "conv":
                yield self.layer(name)  # type: ignore[misc]

    def noise(self, n: int, generator: torch.Generator | None = None) -> list[Tensor | None]:
        """Fresh noise maps for ``n`` pictures, one [N, 1, H, W] per convolution.

        ``generator`` may live on another device than the weights, such as the CPU for the same maps everywhere.
        """
        shapes = [(n, 1, conv.resolution, conv.resolution) for conv in self.convs()]
        device = self.mapping.w_avg.device
        source = device if generator is None else generator.device
        return [torch.randn(shape, device=source, generator=generator).to(device) for shape in shapes]

    def forward(
        self,
        w: Tensor,
        tokens: TokensLike | None = None,
        strength: Strength = 1.0,
        noise: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Draw w+ [N, L, w_dim] as pictures [N, 3, H, W], about [-1, 1].

        Args:
            tokens: One set for all samples, a list with a set or None for each, or a ``TokenBatch``.
            strength: Scales the tokens; one real number, or one for each sample. Strength 0 is the plain picture.
            noise: For each convolution a map [N, 1, H, W] or [H, W], or None for no noise there. Without the list, the
                stored constant noise.

        Raises:
            ShapeError: w+, a list of sets or of strengths, or the noise does not fit.
            LayerError: The tokens name a layer that this generator does not have.
            BaseMismatchError: The tokens were made for other layer widths.
        """
        if w.ndim != 3 or w.shape[1:] != (self.config.num_layers, self.config.w_dim):
            raise ShapeError(
                f"w+ must be [N, {self.config.num_layers}, {self.config.w_dim}], not {list(w.shape)}. "
                "Generator.map makes it from z."
            )
        residuals = residuals_of(tokens, strength, w.shape[0], w.device)
        for name, found in residuals.items():
            self._check(name, found)
        maps = [conv.noise_const for conv in self.convs()] if noise is None else noise
        if len(maps) != self.config.num_layers - 1:
            raise ShapeError(f"{len(maps)} noise maps for {self.config.num_layers - 1} convolutions.")
        for conv, x in zip(self.convs(), maps, strict=True):
            size = (conv.resolution, conv.resolution)
            if x is not None and x.shape not in (size, (1, 1, *size), (w.shape[0], 1, *size)):
                raise ShapeError(f"Noise of a layer of {size[0]} px is [N, 1, H, W] or [H, W], not {list(x.shape)}.")
        picture: Tensor = self.synthesis(w, maps, residuals)
        return picture

    def _check(self, name: str, residuals: Sequence[Residual]) -> None:
        weight = self.layer(name).weight
        for r in residuals:
            taps = r.q if r.q.ndim == 5 else r.a
            if taps is not None and taps.shape[-2:] != weight.shape[2:]:
                raise BaseMismatchError(
                    f"The token set was made for another generator: the kernels of {name} are "
                    f"{list(weight.shape[2:])} here, those of the tokens {list(taps.shape[-2:])}."
                )
            if (r.p.shape[2], r.q.shape[2]) != weight.shape[:2]:
                raise BaseMismatchError(
                    f"The token set was made for another generator: {name} is {weight.shape[1]} -> {weight.shape[0]} "
                    f"channels here, the tokens are {r.q.shape[2]} -> {r.p.shape[2]}."
                )

    def kernel_stats(self) -> dict[str, KernelStats]:
        """Style and norm of every kernel at the mean latent, by layer: the scale on which tokens are learnt."""
        stats = {}
        with torch.no_grad():
            for name, spec in self.layers.items():
                module = self.layer(name)
                style = module.style(self.mapping.w_avg[None])[0]
                stats[name] = KernelStats(spec, style, (module.weight.float() * style[:, None, None]).norm())
        return stats

    def cross_terms(self, tokens: TokenSet) -> dict[str, Tensor]:
        """What the norms of refined kernels need of a set and no image changes, [2, O, I] by layer.

        Worth keeping for a domain that is drawn often: pass it to ``TokenBatch.collate`` with the set.
        """
        terms = {}
        for name, x in tokens.layers.items():
            self._check(name, [x.shared()])
            if self.layers[name].kind == "conv":
                terms[name] = cross_terms(self.layer(name).weight, x.shared())
        return terms

    def merge(
        self,
        tokens: TokenSet | Mapping[TokenSet, float] | Iterable[tuple[TokenSet, float]],
        strength: float = 1.0,
        *,
        allow_base_mismatch: bool = False,
    ) -> Generator:
        """A new generator with the tokens in its weights, exactly; this one stays as it is.

        It counts as a descendant of this one: what was made for this one is taken with a warning.

        Args:
            allow_base_mismatch: accept tokens that were made for other weights.

        Raises:
            MergeError: A token enters after the modulation: its share of the kernel differs from image to image.
            BaseMismatchError: The tokens were made for another generator.
            ConfigError: A strength is not finite.
        """
        whole = (tokens if isinstance(tokens, TokenSet) else TokenSet.mix(tokens)).scale(strength)
        here = fingerprint(self)
        if whole.base is not None:
            check_base(whole.base, here, allow_base_mismatch=allow_base_mismatch)
        late = [name for name, x in whole.layers.items() if not bool(x.pre.all())]
        if late:
            raise MergeError(
                f"Post-modulation tokens cannot be merged: their kernel depends on the image ({', '.join(late)}).\n"
                "Draw with generator(w, tokens), or train the domain with pre-modulation tokens."
            )
        merged = copy.deepcopy(self)
        merged.config = replace(self.config, parents=(here.digest, *self.config.parents))
        with torch.no_grad():
            for name, x in whole.layers.items():
                self._check(name, [x.shared()])
                module = merged.layer(name)
                module.weight.add_(residual_kernel(x.shared(), self.layers[name].kernel)[0])
                if x.bias is not None:
                    module.bias.add_(x.bias)
        return merged
