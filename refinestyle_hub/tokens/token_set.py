"""Token sets: values that refine a frozen generator, with an exact algebra.

A set holds, for each layer that it refines, tokens P, Q and A whose product is the kernel residual (see
``modulated_conv``). Sets of one generator add by concatenation along the tokens, so any weighted mix of inverted faces
and domains is a set as well. A set is an argument of a drawing, and is never written into a generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..boundary.numbers import whole
from ..config import Fingerprint, TokenLayerConfig, TokenSetConfig
from ..errors import ConfigError, ModelFileError, ShapeError, printable
from ..hub.pretrained import Pretrained
from ..hub.push import Pushable
from ..storage.fingerprint import youngest
from .compress import compress_layer
from .layer_tokens import LayerTokens, checked, match_layers


__all__ = ["TokenSet"]


@dataclass(frozen=True, eq=False)
class TokenSet(Pretrained, Pushable):
    """Kernel residuals and bias offsets for some layers of one generator: an inverted face, a domain, or a mix.

    An immutable value; compared and hashed by identity, so that a set can be the key of a mix.
    """

    layers: Mapping[str, LayerTokens]  # by layer name, such as "b64.conv0"
    base: Fingerprint | None = None  # the generator it was made for; None: unknown
    metadata: Mapping[str, Any] = field(default_factory=dict)  # anything that JSON holds

    stem = "tokens"
    config_class = TokenSetConfig

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        for name, tokens in self.layers.items():
            if tokens.p.ndim != 2:
                raise ShapeError(
                    f"{name}: P of a set is [T, O], not {list(tokens.p.shape)}. TokenBatch is for batches."
                )

    def __reduce__(self) -> tuple[type[TokenSet], tuple[Any, ...]]:  # for copies: a mapping proxy has none
        return TokenSet, (dict(self.layers), self.base, dict(self.metadata))

    # --- What it is ---

    @property
    def num_values(self) -> int:
        """Numbers that a file of this set holds, flags apart."""
        return sum(t.numel() for x in self.layers.values() for name, t in x.tensors().items() if name != "pre")

    @property
    def nbytes(self) -> int:
        """Size of all tensors in memory."""
        return sum(t.numel() * t.element_size() for x in self.layers.values() for t in x.tensors().values())

    # --- Algebra: exact, on the residuals ---

    @staticmethod
    def mix(
        sets: Mapping[TokenSet, float | Tensor] | Iterable[tuple[TokenSet, float | Tensor]],
        *,
        keep_zeros: bool = False,
    ) -> TokenSet:
        """Weighted sum of sets, exactly, by concatenation. Strengths are any real numbers.

        A set of strength 0 is left out; of one set that remains the metadata stay, and at strength 1 it is returned as
        it is. The metadata of a mix have those of its parts, as a list "mixed_from". Sets of a generator and of those
        that were fine-tuned from it, one from the other, mix into a set of the last.

        Args:
            keep_zeros: Whether tokens of sets of strength 0 are kept: their number then depends on the sets alone.

        Raises:
            BaseMismatchError: The sets were made for different generators.
            ConfigError: A strength is not finite, or something is no set.
        """
        pairs = [(t, checked(s)) for t, s in (sets.items() if isinstance(sets, Mapping) else sets)]
        if other := [t for t, _ in pairs if not isinstance(t, TokenSet)]:
            what = printable(repr(other[0]))
            raise ConfigError(f"Token sets are mixed, not {what}. A pipeline's own are pipe.domains[name].")
        base = youngest(tokens.base for tokens, _ in pairs)
        pairs = [(t, s) for t, s in pairs if keep_zeros or isinstance(s, Tensor) or s != 0]
        if len(pairs) == 1 and not isinstance(pairs[0][1], Tensor) and pairs[0][1] == 1:
            return pairs[0][0]
        parts: dict[str, list[LayerTokens]] = {}
        for tokens, strength in pairs:
            for name, layer in tokens.layers.items():
                parts.setdefault(name, []).append(layer.scale(strength))
        layers = {name: LayerTokens.concatenate(found) for name, found in parts.items()}
        made = [dict(tokens.metadata) for tokens, _ in pairs if tokens.metadata]
        return TokenSet(layers, base, made[0] if len(pairs) == 1 and made else {"mixed_from": made} if made else {})

    def __add__(self, other: TokenSet) -> TokenSet:
        return TokenSet.mix([(self, 1.0), (other, 1.0)])

    def lerp(self, other: TokenSet, t: float) -> TokenSet:
        """(1 - t) self + t other, on the residuals; the ends are the sets themselves. Raises what ``mix`` raises."""
        checked(t)
        return TokenSet.mix([(self, 1.0 - t), (other, t)])

    def scale(self, strength: float | Tensor | Mapping[str, float | Tensor]) -> TokenSet:
        """Residuals times ``strength``; or a strength for each layer name or glob, the last match counts, others stay.

        Raises:
            LayerError: A name or glob selects no layer of this set.
            ConfigError: A strength is not finite.
        """
        each: dict[str, float | Tensor] = {}
        if isinstance(strength, Mapping):
            for pattern, names in match_layers(strength, self.layers).items():
                each.update(dict.fromkeys(names, checked(strength[pattern])))
        else:
            each = dict.fromkeys(self.layers, checked(strength))
        return replace(self, layers={n: x.scale(each[n]) if n in each else x for n, x in self.layers.items()})

    def select(self, layers: str | Iterable[str]) -> TokenSet:
        """Keep only the layers that names or globs select.

        Raises:
            LayerError: A name or glob selects no layer of this set.
        """
        chosen = {name for names in match_layers(layers, self.layers).values() for name in names}
        return replace(self, layers={name: x for name, x in self.layers.items() if name in chosen})

    def compress(self, rank: int) -> tuple[TokenSet, dict[str, float]]:
        """At most ``rank`` tokens in each layer, and the relative error |dW' - dW| / |dW| that this costs, by layer.

        Exact where the residual's own rank suffices; ``scaled`` sets are fitted by least squares.

        Raises:
            ConfigError: ``rank`` is below 1.
        """
        rank = whole(rank, "rank", 1)
        layers, errors = {}, {}
        for name, x in self.layers.items():
            p, q, a, pre, errors[name] = compress_layer(x.p, x.q, x.a, x.pre, rank)
            layers[name] = LayerTokens(p, q, a, pre, x.bias)
        return replace(self, layers=layers), errors

    # --- Where it lives ---

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TokenSet:
        """Move the set to another device or floating type (flags stay)."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        return replace(self, layers={name: x.map(move) for name, x in self.layers.items()})

    def detach(self) -> TokenSet:
        """The set without its graph, in memory of its own."""
        return replace(self, layers={name: x.map(lambda t: t.detach().clone()) for name, x in self.layers.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """``<layer>.p``, ``.q``, ``.a``, ``.pre`` and ``.bias``, those there are."""
        return {
            f"{name}.{key}": tensor.detach().contiguous()
            for name, x in self.layers.items()
            for key, tensor in x.tensors().items()
        }

    @staticmethod
    def from_state_dict(
        state: Mapping[str, Tensor], base: Fingerprint | None = None, metadata: Mapping[str, Any] | None = None
    ) -> TokenSet:
        """Inverse of ``state_dict``.

        Raises:
            ModelFileError: A tensor is missing, unknown or misshapen.
        """
        grouped: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            layer, _, name = key.rpartition(".")
            if not layer or name not in ("p", "q", "a", "pre", "bias"):
                raise ModelFileError(
                    f"{key!r} is not a tensor of a token set: these are <layer>.p, .q, .a, .pre, .bias."
                )
            grouped.setdefault(layer, {})[name] = tensor
        layers = {}
        for layer, found in grouped.items():
            missing = [f"{layer}.{name}" for name in ("p", "q", "pre") if name not in found]
            if missing:
                raise ModelFileError(f"The token set lacks {', '.join(missing)}.")
            try:
                layers[layer] = LayerTokens(**{"a": None, **found})  # type: ignore[arg-type]
            except ShapeError as error:
                raise ModelFileError(f"{layer}: {error}") from error
        return TokenSet(layers, base, metadata or {})

    @property
    def config(self) -> TokenSetConfig:
        """What ``config.json`` of a saved set holds."""
        layers = {}
        for name, x in self.layers.items():
            taps = x.q if x.spatial == "full" else x.a
            kernel = None if taps is None else taps.shape[-1]
            layers[name] = TokenLayerConfig(x.rank, x.inputs, x.outputs, x.spatial, kernel, x.bias is not None)
        return TokenSetConfig(layers, self.base, dict(self.metadata))

    @classmethod
    def template(cls, config: TokenSetConfig) -> dict[str, Tensor]:
        """Shapes of the tensors that belong to ``config``."""
        shapes: dict[str, Tensor] = {}
        for name, x in config.layers.items():
            taps = () if x.kernel is None else (x.kernel, x.kernel)
            shapes[f"{name}.p"] = torch.empty(x.tokens, x.outputs, device="meta")
            shapes[f"{name}.q"] = torch.empty(
                x.tokens, x.inputs, *(taps if x.spatial == "full" else ()), device="meta"
            )
            shapes[f"{name}.pre"] = torch.empty(x.tokens, dtype=torch.bool, device="meta")
            if x.spatial == "scaled":
                shapes[f"{name}.a"] = torch.empty(x.tokens, *taps, device="meta")
            if x.bias:
                shapes[f"{name}.bias"] = torch.empty(x.outputs, device="meta")
        return shapes

    @classmethod
    def from_state(cls, config: TokenSetConfig, tensors: Mapping[str, Tensor]) -> TokenSet:
        """Make a set from a checked config and its tensors."""
        return cls.from_state_dict(tensors, config.base, config.metadata)
