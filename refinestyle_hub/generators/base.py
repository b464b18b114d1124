"""What every generator can do: the one class that everything outside this folder knows.

A network becomes a generator with a config (``config.GeneratorConfig``, listed in ``GENERATOR_CONFIGS``), its
refinable convolutions, and ``synthesise``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boundary.numbers import real, whole
from ..boundary.paths import AnyPath
from ..config import Fingerprint, GeneratorConfig, LayerSpec
from ..errors import BaseMismatchError, ConfigError, LayerError, MergeError, ModelFileError, ShapeError, printable
from ..hub.pretrained import Pretrained
from ..hub.push import Pushable
from ..runtime.compiled import wanted
from ..storage.fingerprint import check_base, fingerprint
from ..tokens.batch import Strength, TokensLike, residuals_of
from ..tokens.modulated_conv import Demodulation, Residual, residual_kernel
from ..tokens.parameters import KernelStats
from ..tokens.token_set import TokenSet
from .buckets import synthesise_compiled
from .layers import MappingNetwork


__all__ = ["GENERATORS", "Generator", "NoiseMaps", "NoisyConv", "RefinableConv", "Residuals", "Window"]

G = TypeVar("G", bound="Generator")
Window: TypeAlias = tuple[int, int, int]  # a square of a picture: top, left, side, in pixels
NoiseMaps: TypeAlias = Sequence[Tensor | None]  # for each convolution a map [N, 1, H, W] or [H, W], or None
Residuals: TypeAlias = Mapping[str, Sequence[Residual]]  # what tokens add, by layer; layers without any may be missing

GENERATORS: dict[str, type[Generator]] = {}  # by the class that config.json names


class RefinableConv(Protocol):
    """A modulated convolution whose kernel tokens can refine."""

    spec: LayerSpec
    weight: nn.Parameter  # [O, I, k, k]
    bias: nn.Parameter  # [O]

    @property
    def demodulation(self) -> Demodulation:
        """How outputs are demodulated: by the norm of the kernel, not at all, or by given factors [O]."""

    def style(self, w: Tensor) -> Tensor:
        """Codes [N, D] -> one factor for each input channel, [N, I]."""


class NoisyConv(RefinableConv, Protocol):
    """One of role "conv": it also takes noise, and has some of its own."""

    noise_const: Tensor  # [H, W]


class Generator(Pretrained, Pushable, nn.Module, ABC):
    """Mapping and synthesis. Drawing changes no state, and tokens are arguments: threads may share one generator.

    ``Generator.from_pretrained`` loads any of them: ``config.json`` says which.
    """

    part = "generator"
    config_class = GeneratorConfig

    config: GeneratorConfig
    layers: Mapping[str, LayerSpec]  # coarse to fine

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        GENERATORS[cls.__name__] = cls

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.compiled = False
        self.mapping = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers)

    def _set_layers(self, convs: Iterable[RefinableConv]) -> None:
        """Set the convolutions in the order of ``config.layers``; a subclass calls it once."""
        self._convs = {conv.spec.name: conv for conv in convs}
        self.layers = {name: conv.spec for name, conv in self._convs.items()}
        assert tuple(self.layers.values()) == self.config.layers

    @classmethod
    def class_named(cls: type[G], name: object, where: object) -> type[G]:
        """The class of a generator in a file."""
        if cls is not Generator:
            return super().class_named(name, where)
        if name not in GENERATORS:
            known = ", ".join(sorted(GENERATORS))
            raise ModelFileError(f"{where} is of class '{printable(name)}', and no generator. Those are: {known}.")
        return GENERATORS[str(name)]  # type: ignore[return-value]

    @classmethod
    def from_pretrained(cls: type[G], name_or_path: AnyPath, *, compile: bool | None = None, **options: Any) -> G:
        """Load a generator, see ``Pretrained.from_pretrained``.

        Args:
            compile: Whether to ``compile`` it; None does as REFINESTYLE_COMPILE says, which is 1 or 0.
        """
        made = super().from_pretrained(name_or_path, **options)
        if wanted(compile):
            made.compile()
        return made

    def compile(self, *_: Any, **__: Any) -> None:
        """Draw by graphs that torch.compile makes from now on: the same pictures to rounding, in less time.

        Each kind of drawing is compiled when it first occurs, which takes up to a minute or two and is kept on disk.
        Kinds differ in size, gradients, precision, which layers have tokens, and 8, 16, 32, ... of these; a batch is
        drawn in parts of 8, 4, 2 and 1. Where it fails a warning says so, and pictures are drawn as ever.
        """
        self.compiled = True

    @abstractmethod
    def synthesise(self, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, resolution: int) -> Tensor:
        """Draw checked codes [N, L, D] as [N, 3, H, W]; what is larger than ``resolution`` is averaged afterwards."""

    def synthesise_window(self, w_plus: Tensor, noise: NoiseMaps, residuals: Residuals, window: Window) -> Tensor:
        """Draw a square (top, left, side) of the full picture. A subclass may do it at less cost."""
        top, left, side = window
        whole = self.synthesise(w_plus, noise, residuals, self.config.resolution)
        return whole[..., top : top + side, left : left + side]

    # --- Latent space ---

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mapping.w_avg.device

    @property
    def mean_latent(self) -> Tensor:
        """Mean of w, [D]."""
        return self.mapping.w_avg

    @property
    def num_ws(self) -> int:
        """Number L of w+ codes."""
        return self.config.num_ws

    def map(self, z: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """z [N, z_dim] -> w+ [N, L, w_dim].

        ``truncation`` pulls the first ``cutoff`` codes (None: all) towards the mean latent: 1 as drawn, 0 the mean.

        Raises:
            ShapeError: z is not [N, z_dim].
            ConfigError: ``truncation`` is not a finite number.
        """
        if z.ndim != 2 or z.shape[1] != self.config.z_dim:
            raise ShapeError(f"z must be [N, {self.config.z_dim}], not {list(z.shape)}.")
        truncation = real(truncation, "The truncation")
        cutoff = None if cutoff is None else whole(cutoff, "cutoff")
        w: Tensor = self.mapping(z)[:, None].expand(-1, self.num_ws, -1)
        if truncation == 1.0:
            return w
        pulled = self.mean_latent.float().lerp(w[:, :cutoff], truncation)
        return pulled if cutoff is None else torch.cat([pulled, w[:, cutoff:]], dim=1)

    def sample(self, n: int, rng: torch.Generator | None = None, truncation: float = 1.0) -> Tensor:
        """w+ [n, L, w_dim] of random latents, each with one code for all layers.

        ``rng`` may live on another device than the weights, such as the CPU for the same codes everywhere.
        """
        n, source = whole(n, "The number of samples", 0), self.device if rng is None else rng.device
        z = torch.randn(n, self.config.z_dim, generator=rng, device=source)
        return self.map(z.to(self.device), truncation)

    # --- Layers ---

    def layer(self, name: str) -> RefinableConv:
        """A convolution, such as ``"b64.conv0"``.

        Raises:
            LayerError: There is no such layer.
        """
        if name not in self._convs:
            raise LayerError(f"This generator has no layer {name!r}. Layers: {', '.join(self._convs)}.")
        return self._convs[name]

    def recoloured(self, matrix: Tensor, offset: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """What recolours all pictures: a colour c becomes ``matrix`` c + ``offset``, [3, 3] and [3].

        A subclass may know it. Adaptations then begin with the hues of their pictures.

        Returns:
            For each toRGB layer a change [O, I] of its kernel before the modulation, and one of its bias, [O].
        """
        return {}

    def convs(self) -> list[NoisyConv]:
        """Convolutions that take noise, coarse to fine."""
        return [conv for conv in self._convs.values() if conv.spec.role == "conv"]  # type: ignore[misc]

    def noise(self, n: int, generator: torch.Generator | None = None) -> list[Tensor | None]:
        """Fresh noise maps for ``n`` pictures, one [N, 1, H, W] per convolution.

        ``generator`` may live on another device than the weights, such as the CPU for the same maps everywhere.
        """
        shapes = [(n, 1, *conv.noise_const.shape) for conv in self.convs()]
        source = self.device if generator is None else generator.device
        return [torch.randn(shape, device=source, generator=generator).to(self.device) for shape in shapes]

    def fingerprint(self) -> Fingerprint:
        """What identifies the generator; hashing takes about 0.1 s for 30 M weights, so keep the result."""
        return fingerprint(self.config, self.state_dict())

    def synthesis_parameters(self) -> list[nn.Parameter]:
        """All parameters but those of the mapping network."""
        return [x for name, x in self.named_parameters() if not name.startswith("mapping.")]

    def kernel_stats(self) -> dict[str, KernelStats]:
        """Style and norm of every kernel at the mean latent, by layer: the scale on which tokens are learnt."""
        stats = {}
        with torch.no_grad():
            for name, conv in self._convs.items():
                style = conv.style(self.mean_latent[None])[0]
                stats[name] = KernelStats(conv.spec, style, (conv.weight.float() * style[:, None, None]).norm())
        return stats

    # --- Pictures ---

    def forward(
        self,
        w_plus: Tensor,
        tokens: TokensLike | None = None,
        strength: Strength = 1.0,
        noise: NoiseMaps | None = None,
        resolution: int | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """Draw w+ [N, L, w_dim] as pictures [N, 3, R, R], about [-1, 1].

        Args:
            tokens: One set for all samples, a list with a set or None for each, or a ``TokenBatch``.
            strength: Scales the tokens; one real number, or one for each sample. Strength 0 is the plain picture.
            noise: For each convolution a map [N, 1, H, W] or [H, W], or None for no noise there. Without the list, the
                stored constant noise.
            resolution: R, full unless given: smaller by a power of two, it is the mean of the full picture.
            window: (top, left, side) in pixels of a square of the full picture, which alone is drawn; not with
                ``resolution``.

        Raises:
            ShapeError: w+, a list of sets or of strengths, the noise or the window does not fit.
            LayerError: The tokens name a layer that this generator does not have.
            BaseMismatchError: The tokens were made for other layer widths.
            ConfigError: The resolution is not the full one over a power of two.
        """
        if not isinstance(w_plus, Tensor):
            raise ShapeError(f"w+ is a tensor [N, {self.num_ws}, {self.config.w_dim}], not a {type(w_plus).__name__}.")
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.num_ws, self.config.w_dim):
            raise ShapeError(
                f"w+ must be [N, {self.num_ws}, {self.config.w_dim}], not {list(w_plus.shape)}. "
                "Generator.map makes it from z."
            )
        full = self.config.resolution
        asked = full if resolution is None else resolution
        if not torch.compiler.is_compiling():  # which knows plain numbers only
            asked = whole(asked, "resolution")
        if asked < 1 or full % asked or (full // asked) & (full // asked - 1):
            raise ConfigError(f"resolution must be {full} over a power of two, not {asked}.")
        if w_plus.dtype == torch.float64:  # as numpy has it
            w_plus = w_plus.float()
        residuals = residuals_of(tokens, strength, w_plus.shape[0], w_plus.device)
        for name, found in residuals.items():
            self._check(name, found)
        convs = self.convs()
        maps = [conv.noise_const for conv in convs] if noise is None else noise
        if len(maps) != len(convs):
            raise ShapeError(f"{len(convs)} noise maps are needed, not {len(maps)}.")
        for conv, x in zip(convs, maps, strict=True):
            size = conv.noise_const.shape
            if x is not None and x.shape not in (size, (1, 1, *size), (w_plus.shape[0], 1, *size)):
                raise ShapeError(f"Noise of a layer of {size[0]} px is [N, 1, H, W] or [H, W], not {list(x.shape)}.")
        if window is not None:
            if asked != full or min(window) < 0 or window[2] < 1 or max(window[:2]) + window[2] > full:
                raise ShapeError(f"A window is (top, left, side) within {full} px at full resolution, not {window}.")
            return self.synthesise_window(w_plus, maps, residuals, window)
        if self.compiled and not torch.compiler.is_compiling():
            picture = synthesise_compiled(self, w_plus, maps, residuals, asked)
        else:
            picture = self.synthesise(w_plus, maps, residuals, asked)
        return F.avg_pool2d(picture, picture.shape[-1] // asked) if picture.shape[-1] > asked else picture

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

    def merge(
        self: G,
        tokens: TokenSet | Mapping[TokenSet, float] | Iterable[tuple[TokenSet, float]],
        strength: float = 1.0,
        *,
        allow_base_mismatch: bool = False,
    ) -> G:
        """A new generator with the tokens in its weights, exactly; this one stays as it is.

        It counts as a descendant of this one: what was made for this one is taken with a warning.

        Args:
            allow_base_mismatch: Whether tokens that were made for other weights are accepted.

        Raises:
            MergeError: A token enters after the modulation: its share of the kernel differs from image to image.
            BaseMismatchError: The tokens were made for another generator.
            ConfigError: A strength is not finite.
        """
        sets = {tokens: 1.0} if isinstance(tokens, TokenSet) else tokens
        pairs = sets.items() if isinstance(sets, Mapping) else sets
        whole = TokenSet.mix([(one.to(self.device), share) for one, share in pairs]).scale(strength)
        here = self.fingerprint()
        if whole.base is not None:
            check_base(whole.base, here, allow_base_mismatch=allow_base_mismatch)
        if late := [name for name, x in whole.layers.items() if not bool(x.pre.all())]:
            raise MergeError(
                f"Post-modulation tokens cannot be merged: their kernel depends on the image ({', '.join(late)}).\n"
                "Draw with generator(w, tokens), or train the domain with pre-modulation tokens."
            )
        merged = copy.deepcopy(self)
        merged.config = replace(self.config, parents=(here.digest, *self.config.parents))
        with torch.no_grad():
            for name, x in whole.layers.items():
                self._check(name, [x.shared()])
                conv = merged.layer(name)
                conv.weight.add_(residual_kernel(x.shared(), conv.spec.kernel)[0])
                if x.bias is not None:
                    conv.bias.add_(x.bias)
        return merged
