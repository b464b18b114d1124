"""Weights, rates and numbers of steps of an inversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..boundary.fields import check_fields
from ..boundary.numbers import flag, real, whole
from ..errors import ConfigError


__all__ = ["InversionSettings", "planned_steps"]

MAX_TOKENS = 64  # for a layer; more than any kernel here has ranks
STEPS, STEPS_AFTER_ENCODER = 270, 50  # of both phases, from the mean latent and from an encoder's answer
W_SHARE = 0.4  # of the steps from the mean latent, for w+


@dataclass(frozen=True)
class InversionSettings:
    """Weights and rates of the optimisation; the mean squared error of the pixels has weight 1.

    Published weights (0.8 for the perceptual distance, next to no prior) suit generators of photos. Where a picture
    lies outside of the generator's domain they buy distance with scratches that no face has, and codes far from each
    other that draw no face at all; these do not.
    """

    perceptual: float = 0.1  # on the perceptual distance, where tokens are sought
    w_perceptual: float = 0.3  # the same where w+ is
    identity: float = 0.0  # on features of faces aligned as FFHQ's, where tokens are sought: ``identity_network``
    w_identity: float = 0.0  # the same where w+ is
    w_rate: float = 0.2  # Adam's, in standard deviations of w, from the mean latent
    near_rate: float = 0.03  # the same from a start that was given: what an encoder found is not to be lost
    w_warmup: float = 0.05  # share of the steps in which it rises
    w_noise: float = 0.05  # on w at first, in standard deviations; gone after half of the steps
    prior: float = 0.2  # on the squared distance from the mean latent, in standard deviations, per number
    spread: float = 10.0  # the same for the codes' distance from each other
    token_rate: float = 0.01  # Adam's, in the unit of ``TokenParameters``
    code_rate: float = 0.0  # Adam's on w+ beneath the tokens, in standard deviations of w; 0 keeps w+ as it is
    momentum: float = 0.9  # Adam's, from 0 to less than 1; in few steps it carries on what the first ones got wrong
    token_warmup: float = 0.3  # share of the steps in which it rises; Adam's first steps are nearly random
    from_tokens: bool = True  # steps begin with the tokens of an encoder, and not with its w+ alone
    norm: float = 1e-2  # on the squared norm of the residuals relative to the kernels', mean over layers
    rank: int = 8  # T
    layers: str | tuple[str, ...] = "*.conv*"  # that get tokens
    patience: int = 40  # steps; a phase ends when that many gain less than 1 % together
    scales: int = 2  # at which tokens see the perceptual distance, in turn: up to 256 px, and (2) at half of it
    size: int = 1024  # pixels, at most: of the pictures that are drawn and compared
    precision: Literal["fp32", "bf16"] = "fp32"  # of the maps while steps are taken; bf16 where the processor has it

    def __post_init__(self) -> None:
        check_fields(self)
        weights = ("perceptual", "w_perceptual", "identity", "w_identity", "prior", "spread", "norm")
        for name in (*weights, "w_rate", "near_rate", "token_rate", "code_rate"):
            real(getattr(self, name), name, 0)
        if not 0 <= real(self.momentum, "momentum") < 1:
            raise ConfigError(f"momentum must be from 0 to less than 1, not {self.momentum}.")
        whole(self.rank, "rank", 1, MAX_TOKENS)
        whole(self.patience, "patience", 1)
        if self.scales not in (1, 2):
            raise ConfigError(f"scales must be 1 or 2, not {self.scales}.")
        if self.size < 32 or self.size & (self.size - 1):
            raise ConfigError(f"size must be a power of two from 32, not {self.size}.")


def planned_steps(
    steps: int | None, w_steps: int | None, *, tokens: bool = True, started: bool = False
) -> tuple[int, int]:
    """Return how many steps go to w+ and how many to tokens.

    Args:
        steps: The number of both together. None means 270, or 50 where the search has ``started`` from an encoder's
            answer.
        w_steps: The number of steps for w+. None means 40 %, or none where the search has started, or all of them
            without ``tokens``.
        tokens: Whether tokens are sought at all.
        started: Whether the search starts from an encoder's answer.

    Raises:
        ConfigError: The numbers do not add up.
    """
    tokens = flag(tokens, "tokens")
    steps = None if steps is None else whole(steps, "steps", 0)
    w_steps = None if w_steps is None else whole(w_steps, "w_steps", 0)
    if not tokens and steps is None:
        steps = w_steps
    steps = (STEPS_AFTER_ENCODER if started else STEPS) if steps is None else steps
    if w_steps is None:
        w_steps = steps if not tokens else 0 if started else round(steps * W_SHARE)
    if not tokens and w_steps != steps:
        raise ConfigError(f"Without tokens all steps move w+: w_steps cannot be {w_steps} of {steps}.")
    if steps < w_steps:
        raise ConfigError(f"w_steps are a part of the steps: {w_steps} of {steps} cannot be.")
    return w_steps, steps - w_steps
