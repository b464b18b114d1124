"""Tokens as parameters: what inversion and adaptation optimise, on one scale for all layers.

A token of unit P changes a kernel by the kernel's own norm at the mean style, in every layer; so one learning rate and
one regulariser serve all of them. The scale is folded into P by ``token_set``: a ``TokenSet`` holds plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..config import Fingerprint, LayerSpec
from ..errors import BaseMismatchError, ConfigError, ShapeError, listed
from .layer_tokens import LayerTokens, match_layers
from .modulated_conv import squared_residual_norm
from .token_set import TokenSet


__all__ = ["KernelStats", "TokenParameters", "factors"]


class KernelStats(NamedTuple):
    """A layer of a generator at its mean latent, from ``Generator.kernel_stats``."""

    spec: LayerSpec
    style: Tensor  # [I]
    norm: Tensor  # []: |s W| over the whole layer

    def unit(self, pre: Tensor) -> Tensor:
        """Size of P [...] at which a token with |Q| = 1, A = 1 changes the kernel by its norm; ``pre`` [...] bool."""
        after = self.norm / (math.sqrt(self.spec.outputs) * self.spec.kernel)
        return torch.where(pre, after / self.style.square().mean().sqrt(), after)


class LayerParameters(nn.Module):
    """Leaves of one layer; P is in units of ``KernelStats.unit``. Beside them tokens that are not learnt may stand."""

    fixed_p: Tensor  # [F, O]
    fixed_q: Tensor  # [F, I]
    pre: Tensor
    unit: Tensor
    style: Tensor
    norm: Tensor

    def __init__(self, stats: KernelStats, tokens: LayerTokens) -> None:
        super().__init__()
        if (tokens.inputs, tokens.outputs) != (stats.spec.inputs, stats.spec.outputs):
            raise BaseMismatchError(
                f"The token set was made for another generator: {stats.spec.name} is {stats.spec.inputs} -> "
                f"{stats.spec.outputs} channels here, the tokens are {tokens.inputs} -> {tokens.outputs}."
            )
        tokens = tokens.map(lambda x: x.detach().to(stats.style.device, copy=True))
        self.spec = stats.spec
        self.register_buffer("pre", tokens.pre)
        self.register_buffer("unit", stats.unit(tokens.pre)[:, None])  # [T, 1]
        self.register_buffer("style", stats.style)
        self.register_buffer("norm", stats.norm)
        self.p = nn.Parameter(tokens.p / self.unit)
        self.q = nn.Parameter(tokens.q)
        self.a = None if tokens.a is None else nn.Parameter(tokens.a)
        self.bias = None if tokens.bias is None else nn.Parameter(tokens.bias)
        self.register_buffer("fixed_p", tokens.p[:0])
        self.register_buffer("fixed_q", tokens.q[:0].flatten(1))

    @torch.no_grad()
    def begin(self, change: Tensor, offset: Tensor) -> None:
        """Fix a change [O, I] of a pointwise kernel, and start the bias from an offset [O]."""
        self.fix(*factors(change.to(self.p), self.norm))
        if self.bias is not None:
            self.bias.copy_(offset)

    def fix(self, p: Tensor, q: Tensor) -> None:
        """Fix tokens [F, O] and [F, I] of a pointwise kernel, which enter before the modulation."""
        if (p.ndim, *p.shape[1:], *q.shape) != (2, self.spec.outputs, len(p), self.spec.inputs):
            raise ShapeError(
                f"Fixed tokens of {self.spec.name} are {list(p.shape)} and {list(q.shape)}, "
                f"not [F, {self.spec.outputs}] and [F, {self.spec.inputs}]."
            )
        self.fixed_p, self.fixed_q = p.detach().to(self.p, copy=True), q.detach().to(self.q, copy=True)

    def tokens(self) -> LayerTokens:
        learnt = LayerTokens(self.p * self.unit, self.q, self.a, self.pre, self.bias)
        if not len(self.fixed_p):
            return learnt
        p, q = torch.cat([learnt.p, self.fixed_p]), torch.cat([learnt.q, self.fixed_q])
        pre = torch.cat([self.pre, self.pre.new_ones(len(self.fixed_p))])
        return LayerTokens(p, q, None, pre, self.bias)

    def relative_norm(self) -> Tensor:
        # the root of zero has no gradient
        square = squared_residual_norm(self.tokens().shared(), self.spec.kernel, self.style)[0]
        return (square + 1e-12 * self.norm.square()).sqrt() / self.norm


def factors(change: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [F, O] and [F, I] that are a change [O, I] of a pointwise kernel of this ``norm`` []; F is its rank."""
    u, size, v = torch.linalg.svd(change, full_matrices=False)
    count = int((size > 1e-6 * norm).sum())
    return (u * size).mT[:count], v[:count]


class TokenParameters(nn.Module):
    """Leaves P = 0, Q ~ N(0, 1 / C_in), A = 1 for each layer: no residual yet, and a gradient from the first step.

    Args:
        stats: The kernels, from ``generator.kernel_stats()``.
        rank: Tokens T of each layer, or T by layer name or glob; a pointwise kernel gets at most one for each output.
        layers: Names or globs; ``"*"`` also takes toRGB.
        residual: Whether tokens enter before the modulation ("pre", domains) or after it ("post", images).
        spatial: ``"scaled"``: A for each token; ``"broadcast"``: A = 1; ``"full"``: Q [T, I, k, k].
        bias: Also learn an offset to the bias of each of these layers.
        rng: Source of Q.

    Raises:
        LayerError: A name or glob selects no layer.
        ConfigError: ``rank`` leaves out a layer, or is below 1.
    """

    def __init__(
        self,
        stats: Mapping[str, KernelStats],
        rank: int | Mapping[str, int] = 4,
        layers: str | Iterable[str] = "*.conv*",
        residual: Literal["pre", "post"] = "pre",
        spatial: Literal["scaled", "broadcast", "full"] = "scaled",
        bias: bool = False,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        chosen = {name for names in match_layers(layers, stats).values() for name in names}
        ranks = dict.fromkeys(stats, rank) if isinstance(rank, int) else {}
        if isinstance(rank, Mapping):
            for pattern, names in match_layers(rank, stats).items():
                ranks.update(dict.fromkeys(names, rank[pattern]))
        modules = {}
        for name in [name for name in stats if name in chosen]:
            if ranks.get(name, 0) < 1:
                raise ConfigError(f"rank must give at least 1 token to {name}, not {ranks.get(name)}.")
            modules[name] = LayerParameters(
                stats[name], _fresh(stats[name].spec, ranks[name], residual == "pre", spatial, bias, rng)
            )
        self._adopt(modules)

    def _adopt(self, modules: Mapping[str, LayerParameters]) -> None:
        self.names = tuple(modules)
        self.specs = tuple(module.spec for module in modules.values())
        self.layers = nn.ModuleList(modules.values())

    @classmethod
    def from_token_set(cls, stats: Mapping[str, KernelStats], tokens: TokenSet) -> TokenParameters:
        """Start from a set, such as what an encoder found.

        Raises:
            LayerError: The set has a layer that is not in ``stats``.
            BaseMismatchError: The set was made for other layer widths.
        """
        match_layers(tokens.layers, stats)
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new._adopt({name: LayerParameters(stats[name], x) for name, x in tokens.layers.items()})
        return new

    def token_set(self, base: Fingerprint | None = None, metadata: Mapping[str, Any] | None = None) -> TokenSet:
        """The tokens as a value; gradients flow through it to the leaves."""
        layers = {name: x.tokens() for name, x in zip(self.names, self._layers(), strict=True)}
        return TokenSet(layers, base, metadata or {})

    def begin(self, name: str, change: Tensor, offset: Tensor) -> None:
        """Fix a change of a layer with a pointwise kernel, beside the tokens that are learnt, and start its bias.

        Args:
            name: The layer.
            change: [O, I], before the modulation. The token set has as many tokens more as its rank.
            offset: [O], of the bias, which is learnt further; left out where none is learnt.
        """
        self._layers()[self.names.index(name)].begin(change, offset)

    def fixed(self) -> dict[str, Tensor]:
        """What ``begin`` fixed: ``<layer>.p`` [F, O] and ``<layer>.q`` [F, I] of each pointwise layer, F being 0 where
        nothing is.
        """
        pairs = zip(self.names, self._layers(), strict=True)
        layers = {name: {"p": x.fixed_p, "q": x.fixed_q} for name, x in pairs if x.spec.kernel == 1}
        return {f"{name}.{part}": tensor for name, parts in layers.items() for part, tensor in parts.items()}

    def fix(self, tokens: Mapping[str, Tensor]) -> None:
        """Take over what ``fixed`` gave. Raises KeyError where names differ, ShapeError where sizes do."""
        if different := sorted(self.fixed().keys() ^ tokens.keys()):
            raise KeyError(f"fixed tokens are missing or unexpected: {listed(different)}")
        for name, layer in zip(self.names, self._layers(), strict=True):
            if layer.spec.kernel == 1:
                layer.fix(tokens[f"{name}.p"], tokens[f"{name}.q"])

    def residual_norm(self) -> Tensor:
        """|dW| / |s W| of each layer at the mean style, [layers]; what a regulariser should hold down.

        From Gram matrices of the tokens. The factors' own norms say nothing, since P and Q may trade size.
        """
        return torch.stack([x.relative_norm() for x in self._layers()])

    def _layers(self) -> list[LayerParameters]:
        return list(self.layers)  # type: ignore[arg-type]


def _fresh(
    spec: LayerSpec, rank: int, pre: bool, spatial: str, bias: bool, rng: torch.Generator | None
) -> LayerTokens:
    rank = spec.useful(rank)
    taps = (spec.kernel, spec.kernel)
    shape = (rank, spec.inputs, *(taps if spatial == "full" else ()))
    return LayerTokens(
        p=torch.zeros(rank, spec.outputs),
        q=torch.randn(shape, generator=rng) / math.sqrt(spec.inputs),
        a=torch.ones(rank, *taps) if spatial == "scaled" and spec.kernel > 1 else None,
        pre=torch.full((rank,), pre),
        bias=torch.zeros(spec.outputs) if bias else None,
    )
