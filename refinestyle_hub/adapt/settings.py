"""Weights and rates of an adaptation, and what suits how many pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..boundary.fields import check_fields
from ..boundary.numbers import real, whole
from ..config import LayerSpec
from ..errors import ConfigError


__all__ = ["MAX_PICTURES", "AdaptSettings", "preset"]

MAX_PICTURES = 20
MAX_TOKENS = 64  # for a layer
COARSE, FINE = 32, 256  # pixels of a layer, up to and from which rates have factors of their own
FEATURE_TERMS = ("sliced_features", "layout", "between", "within")  # terms that compare features
OTHER_TERMS = ("sliced_pictures", "adversarial", "patches", "reconstruction", "lattice", "norm")


@dataclass(frozen=True)
class AdaptSettings:
    """The defaults are for 5 to 20 pictures; ``preset`` knows the others. A weight of 0 leaves a term out."""

    tokens: int = 4  # T, and no more than a toRGB layer has outputs
    layers: tuple[str, ...] = ("*",)  # names or globs of the layers that tokens refine
    bias: bool = True  # whether the biases get offsets too
    batch: int = 4  # samples per step
    rate: float = 0.01  # Adam's rate for tokens of convolutions, in the unit of `TokenParameters`
    colour_rate: float = 0.02  # Adam's rate for tokens of toRGB layers and for biases
    coarse: float = 1.0  # factor of both rates in convolutions of up to COARSE pixels, which draw the person
    fine: float = 1.0  # factor of both in those of FINE pixels and more, which draw strokes and grain
    truncation: float = 1.0  # of the samples
    window: int = 0  # pixels, side of the square of all pictures that a step sees; 0 for the whole
    whole_every: int = 0  # one turn in so many sees the whole pictures all the same; 0 for none
    alternate: bool = False  # whether reconstruction has every other step, and the other terms those between
    mixing: float = 1.0  # share of reconstructions whose fine codes are a sample's, not the picture's own
    palette: bool = (
        False  # whether toRGB layers get the hues of the pictures in closed form, before and after the steps
    )
    average: float = 0.96  # decay of the tokens' running average, which is the result
    reach: float = 1.0  # factor of the average's tokens and offsets in convolutions, in the result
    slack: float = 1.2  # times its smallest distance from the pictures, within which a later average is the result

    # weights of the terms
    sliced_pictures: float = 1.0  # sliced Wasserstein distance of pixels
    sliced_features: float = 2.0  # sliced Wasserstein distance of the discriminator's features
    layout: float = 1.0  # the move from the generator's mean features to those of the pictures, place by place
    adversarial: float = 0.2  # the discriminator's verdict on whole pictures
    patches: float = 0.6  # its verdict on patches
    between: float = 0.3  # correspondence between samples
    within: float = 1.0  # correspondence between the places of a sample
    reconstruction: float = 0.0  # the pictures, redrawn from their inversions
    lattice: float = 0.0  # a weave over the whole picture, which generators of wavelet bands come to draw
    norm: float = 0.02  # squared norm of the residuals, relative to the kernels

    discriminator_start: float = 0.25  # share of the steps before the discriminator starts
    discriminator_min_steps: int = 100  # steps before it and with it, at least; a shorter run has no discriminator
    discriminator_rate: float = 0.001  # Adam's rate for the discriminator
    frozen_above: int = 16  # pixels; blocks of the discriminator that see larger maps stay as they are
    penalty: float = 1.0  # weight of the squared gradient of the discriminator's logits
    inversion_steps: int = 60  # steps that find w+ of each picture, where reconstruction counts
    check_every: int = 25  # steps between measurements of the distance of fixed samples

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("tokens", "inversion_steps", "check_every"):
            whole(getattr(self, name), name, 1, MAX_TOKENS if name == "tokens" else None)
        for name in ("window", "whole_every", "frozen_above", "discriminator_min_steps"):
            whole(getattr(self, name), name, 0)
        for name in (*FEATURE_TERMS, *OTHER_TERMS, "truncation", "penalty", "reach"):
            real(getattr(self, name), name, 0)
        real(self.slack, "slack", 1)
        for name in ("mixing", "discriminator_start"):
            real(getattr(self, name), name, 0, 1)
        if self.batch < (2 if self.between or self.layout else 1):
            raise ConfigError(f"batch must be at least 2, not {self.batch}: samples are compared with each other.")
        if (
            min(self.rate, self.colour_rate, self.coarse, self.fine, self.discriminator_rate) <= 0
            or not 0 <= self.average < 1
        ):
            raise ConfigError("rates must be above 0, and average from 0 to less than 1.")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON reads them back: lists, not tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def rate_of(self, layer: LayerSpec, tensor: str) -> float:
        """Adam's rate for the tokens or the ``"bias"`` of a layer. Those of colours have further to go."""
        if layer.role == "rgb":
            return self.colour_rate
        rate = self.colour_rate if tensor == "bias" else self.rate
        return rate * (self.coarse if layer.resolution <= COARSE else self.fine if layer.resolution >= FINE else 1)

    def reached(self, layers: Iterable[LayerSpec]) -> dict[str, float]:
        """The strength of each layer in the result. Colours begin as those of the pictures, and go no farther."""
        return {layer.name: self.reach for layer in layers if layer.role == "conv"}

    @property
    def turn_steps(self) -> int:
        """Steps until each term has had its turn."""
        return 2 if self.alternate else 1

    @property
    def round_steps(self) -> int:
        """Steps until windows and whole pictures have had their turns."""
        return self.turn_steps * max(1, self.whole_every)

    def sees_whole(self, step: int) -> bool:
        """Whether a step sees whole pictures, and not a window of them."""
        return self.window == 0 or (
            self.whole_every > 0 and step % self.round_steps >= self.round_steps - self.turn_steps
        )

    def adversarial_start(self, steps: int) -> float:
        """Share of a run of ``steps`` before the adversarial term starts; 1 means that it never does.

        The discriminator's new head is random at first: for some tens of steps it takes half of the time in vain.
        """
        share = max(self.discriminator_start, self.discriminator_min_steps / steps)
        return share if steps * (1 - share) >= self.discriminator_min_steps else 1.0


WITHOUT_DISCRIMINATOR = AdaptSettings(  # of one token
    tokens=1,
    batch=1,
    rate=0.006,
    colour_rate=0.012,
    coarse=0.5,
    fine=2.0,
    truncation=0.8,
    window=384,
    whole_every=3,
    alternate=True,
    mixing=0.5,
    palette=True,
    average=0.9,
    reach=1.2,
    slack=3.0,  # features of few samples say little about strokes, which come late
    sliced_pictures=0.2,
    sliced_features=0.2,
    layout=0.0,
    adversarial=0.0,
    patches=0.0,
    between=0.0,
    within=1.0,
    reconstruction=2.0,
    lattice=1000.0,
    check_every=45,
)


def preset(pictures: int, tokens: int = 4, with_discriminator: bool = True) -> AdaptSettings:
    """Settings for a number of pictures.

    One picture does not show what a style leaves open, such as the shape of heads. So only patches are compared, and
    its own inversion pairs it with its source. The more pictures, the more their distribution counts.

    Without a discriminator the rates fall with the root of T, because T tokens that learn at one rate change a kernel
    by about its root as much as one does (Kalajdzievski 2023, "A rank stabilization scaling factor").

    Args:
        pictures: The number of pictures.
        tokens: T.
        with_discriminator: Whether the generator has a discriminator. Without it, the inversions of the pictures pair
            them with their sources: one is redrawn at every other step. At those between, one sample is compared with
            up to three of them.

    Raises:
        ConfigError: There are not 1 to 20 pictures, or ``tokens`` is below 1.
    """
    if not 1 <= pictures <= MAX_PICTURES:
        raise ConfigError(f"A domain is made from 1 to {MAX_PICTURES} pictures, not {pictures}.")
    if not with_discriminator:
        one = WITHOUT_DISCRIMINATOR
        root = whole(tokens, "tokens", 1) ** 0.5
        return replace(one, tokens=tokens, rate=one.rate / root, colour_rate=one.colour_rate / root)
    if pictures == 1:
        return AdaptSettings(
            tokens=tokens, sliced_pictures=0.3, sliced_features=0.5, layout=0.0, adversarial=0.0, reconstruction=0.2
        )
    if pictures < 5:
        return AdaptSettings(tokens=tokens, adversarial=0.1, reconstruction=0.5)
    return AdaptSettings(tokens=tokens)
