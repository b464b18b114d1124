"""What token sets are compared with: other parameters of the same generator, learnt by the same terms.

``FineTuning`` is the run of ``refinestyle_hub.adapt`` with weights of the generator in place of tokens: all of the
synthesis network (the usual few-shot adaptation), or the biases of its style layers alone, which shift the style
vectors (StyleSpace: Wu et al. 2021; as a domain: Alanov et al. 2023, StyleDomain). ``one_shot`` follows JoJoGAN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from refinestyle_hub.adapt import Adaptation, References
from refinestyle_hub.adapt.best import Best
from refinestyle_hub.adapt.context import Features
from refinestyle_hub.adapt.palette import recolouring
from refinestyle_hub.evaluation.domain import Draw
from refinestyle_hub.generators.base import Generator


__all__ = ["EVERYTHING", "STYLES", "FineTuning", "Weights", "one_shot"]

EVERYTHING = ("synthesis.*",)
STYLES = ("synthesis.*.affine.bias",)
COARSE = 7 / 18  # of the codes, which JoJoGAN keeps from the reference; the others are drawn


class Weights(nn.Module):
    """Some of a generator's weights as parameters, with the methods that a run asks of tokens."""

    def __init__(self, generator: nn.Module, patterns: Sequence[str]) -> None:
        """``patterns``: globs of their names."""
        super().__init__()
        found = {
            name: p.detach().clone()
            for name, p in generator.named_parameters()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
        self.names = tuple(found)
        self.values = nn.ParameterList(found.values())
        self.start = [p.detach().clone() for p in found.values()]

    def token_set(self) -> dict[str, Tensor]:
        """By name; gradients flow to the parameters."""
        return dict(zip(self.names, self.values, strict=True))

    def residual_norm(self) -> Tensor:
        """Change of every tensor relative to its own norm, [tensors]."""
        changes = [
            ((now - then).square().sum() + 1e-12).sqrt() / then.norm().clamp(min=1e-6)
            for now, then in zip(self.values, self.start, strict=True)
        ]
        return torch.stack(changes)

    def numel(self) -> int:
        """How many numbers are learnt."""
        return sum(p.numel() for p in self.values)


class Tunable:
    """A generator that takes weights where it took tokens."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.config, self.device = generator, generator.config, generator.device
        self.sample, self.state_dict = generator.sample, generator.state_dict

    def __call__(self, w_plus: Tensor, weights: Mapping[str, Tensor] | None = None, **how: Any) -> Tensor:
        """w+ [N, L, D] -> pictures [N, 3, R, R]."""
        picture: Tensor = functional_call(self.generator, dict(weights or {}), (w_plus,), how)
        return picture


class FineTuning(Adaptation):
    """The run with weights in place of tokens."""

    def __init__(
        self, generator: Generator, references: References, patterns: Sequence[str], rate: float, **options: Any
    ) -> None:
        """``patterns``: globs of the weights' names; ``rate``: Adam's."""
        super().__init__(generator, references, **options)
        begun = self.generator.merge({self.parameters.token_set(): 1.0})  # with the colours that tokens begin with
        weights = Weights(begun, patterns)
        self.plain = dict(self.generator.named_parameters())
        self.parameters = weights  # type: ignore[assignment]
        self.best = Best(weights, self.settings.slack)  # type: ignore[arg-type]
        self.leaves = dict(weights.named_parameters())
        self.adam = torch.optim.Adam(self.leaves.values(), lr=rate, betas=(0.8, 0.99))
        self.generator = self.sampler.generator = Tunable(self.generator)  # type: ignore[assignment]

    def _result(self, weights: Weights) -> dict[str, Tensor]:  # type: ignore[override]
        """By the factor that tokens of convolutions have."""
        reach = self.settings.reach
        return {name: self.plain[name].lerp(now, reach) for name, now in weights.token_set().items()}

    @torch.no_grad()
    def draw(self, resolution: int | None = None) -> Draw:
        """Draws w+ with the best weights so far, in the hues of the pictures where they began with them."""
        weights = self._result(self.best.tokens)  # type: ignore[arg-type]
        if self.settings.palette:
            plain: Generator = self.generator.generator  # type: ignore[assignment]
            samples = self.sampler.palette_samples(weights)  # type: ignore[arg-type]
            tuned = type(plain).from_state(plain.config, {**plain.state_dict(), **weights})
            tuned = tuned.merge(recolouring(tuned, samples, self.references.pixels))
            weights = {name: tensor for name, tensor in tuned.state_dict().items() if name in weights}
        return drawn(self.generator, weights, resolution)  # type: ignore[arg-type]


def drawn(generator: Tunable, weights: Mapping[str, Tensor], resolution: int | None) -> Draw:
    """Draws w+ with the weights of now."""
    final = {name: p.detach().clone() for name, p in weights.items()}

    @torch.no_grad()
    def draw(w_plus: Tensor) -> Tensor:
        return generator(w_plus, final, resolution=resolution).clamp(-1, 1)

    return draw


def one_shot(
    generator: Generator,
    features: Features,
    reference: Tensor,
    w_plus: Tensor,
    *,
    steps: int = 200,
    rate: float = 2e-3,
    seed: int = 0,
    window: int = 0,
    resolution: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Draw:
    """All weights of the synthesis, from one picture (Chong and Forsyth 2022, JoJoGAN, arXiv 2112.11641, section 3).

    Many codes shall be drawn as the one reference: its inversion with the fine codes exchanged for random ones. Steps,
    rate, betas and the share of exchanged codes are those of the published script; the distance is L1 of frozen
    discriminator features, or of those that ``features`` gives.

    Args:
        reference: [1, 3, R, R]; ``w_plus``: of it, [1, L, D].
        window: Side of the square that a step sees of both; 0, or a large one, sees the whole.
        resolution: Of what is drawn afterwards.
        on_step: called after each.

    Returns:
        What draws w+ [N, L, D] with the tuned weights.
    """
    weights = Weights(generator, EVERYTHING)
    tuned = Tunable(generator)
    adam = torch.optim.Adam(weights.parameters(), lr=rate, betas=(0.0, 0.99))
    rng = torch.Generator().manual_seed(seed)
    kept = round(COARSE * w_plus.shape[1])
    for _ in range(steps):
        how: dict[str, Any] = {}
        part = reference
        if 0 < window < reference.shape[-1]:
            top, left = torch.randint(reference.shape[-1] - window + 1, (2,), generator=rng).tolist()
            how["window"], part = (top, left, window), reference[..., top : top + window, left : left + window]
        with torch.no_grad():
            wanted = features(part)
            other = generator.map(torch.randn(1, generator.config.z_dim, generator=rng).to(w_plus))
        mixed = torch.cat([w_plus[:, :kept], other[:, kept:]], dim=1)
        found = features(tuned(mixed, weights.token_set(), **how))
        loss = torch.stack([(f - w).abs().mean() for f, w in zip(found, wanted, strict=True)]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        on_step()
    return drawn(tuned, weights.token_set(), resolution)
