"""What decides an encoder's training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..config import EncoderNetwork, check_choices
from ..errors import ConfigError


__all__ = ["EncoderTraining"]

SMALLEST = 32  # pixels that the perceptual distance needs


@dataclass(frozen=True)
class EncoderTraining:
    """Everything that decides a run. Lengths are counted in pictures, over all processes."""

    data: str  # folder or zip of pictures, or a datasets id
    out: str  # folder for state.safetensors, log.jsonl, grids/ and, at the end, encoder/
    model: str  # that has the generator: bundled name, folder or Hub id
    stages: Literal["one", "two"] = "two"  # w+ and tokens together, or w+ first and then, with w+ frozen, tokens
    w_pictures: int = 200_000  # of the first of two stages
    blind: int = 0  # of those, the first learn w+ from samples by the latent loss alone: nothing is drawn
    pictures: int = 200_000  # of the stage that learns tokens; 0: w+ alone
    start_from: str = ""  # encoder whose first stage is taken over; with w_pictures 0 it stays as it is
    start_whole: bool = False  # take over all of that encoder, and learn on what it has learnt
    validate: str = ""  # pictures to validate on, their split "val"; empty: that of data, where there is one
    # the network, see EncoderNetwork
    size: int = 0  # of what it looks at, pixels; 0: the generator's, at most 256
    backbone: str = "compact"  # or a timm model
    strides: tuple[int, ...] = (4, 8, 16)  # of the three feature maps of a timm backbone
    pretrained: bool = False  # start a timm backbone from its published weights
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of the compact backbone
    width: int = 384  # of the transformer blocks
    depth: int = 2  # transformer blocks per group of layers
    heads: int = 6  # of the attention
    rank: int = 8  # tokens T per layer
    residual: Literal["post", "pre"] = "post"  # where the tokens enter
    spatial: Literal["scaled", "broadcast", "full"] = "scaled"  # part of the tokens
    layers: tuple[str, ...] = ("*.conv*",)  # names or globs of those that get tokens
    num_iters: int = 1  # refinement iterations of a second stage; each step learns one of them, chosen at random
    gradient_feedback: bool = False  # the second stage takes the gradients of its render by the tokens
    # the loss: weights of its terms
    l2: float = 1.0  # weight of the squared error of the pixels
    perceptual: float = 0.8  # weight of the perceptual distance
    perceptual_backend: Literal["auto", "lpips-alex", "st-lpips-alex"] = "auto"  # auto: LPIPS where it can be had
    features: float = 0.1  # weight of the angle between features, where there is a feature model
    latent: float = 0.5  # weight of the squared error of a sample's w+, by how much of it shows
    delta: float = 2e-4  # weight of the codes' squared distance from their mean, in deviations
    norm: float = 1e-2  # weight of the residuals' squared norm relative to the kernels'
    adversarial: float = 0.0  # weight of the discriminator's verdict, which the model must have; HyperInverter: 0.005
    feature_model: str = ""  # attribute network, a folder; empty: none
    perceptual_size: int = 256  # pixels; larger pictures are averaged down before perceptual distance and features
    windows: float = 0.0  # share of the steps whose perceptual distance takes a window of that size, in full detail
    r1_gamma: float = 10.0
    r1_every: int = 16  # steps
    # what it sees
    foreign: float = 0.5  # share from outside the domain, where tokens are learnt
    cycle_every: int = 3  # steps between two that undo an edit; 0: none does
    mixing: float = 0.5  # probability that a sample's w+ mixes two
    flip: bool = True
    # how
    batch: int = 16
    accumulate: int = 1  # parts that a batch is worked off in
    learning_rate: float = 5e-4
    warmup: float = 0.05  # share of a stage; the rest is a cosine to 0
    clip: float = 1.0  # largest norm of the gradient
    ema_halflife: int = 10_000
    ema_ramp: float = 0.1
    seed: int = 0
    precision: Literal["no", "bf16"] = "no"
    grid_every: int = 10_000
    save_every: int = 10_000
    validate_every: int = 10_000
    validation: int = 64  # pictures; as many foreign ones are made of them

    def __post_init__(self) -> None:
        check_choices(self)
        intervals = (self.grid_every, self.save_every, self.validate_every, self.r1_every, self.accumulate)
        counts = (self.w_pictures, self.blind, self.pictures, self.validation, self.cycle_every)
        if min(intervals) < 1 or min(counts) < 0:
            raise ConfigError("The intervals must be at least 1, and no number of pictures negative.")
        if self.start_whole and not self.start_from:
            raise ConfigError("start_whole learns on from an encoder: name it, start_from.")
        shares = (self.foreign, self.windows, self.mixing)
        if self.blind and self.stages == "one":
            raise ConfigError("A blind start is for the first of two stages; of one stage all is drawn.")
        if self.batch < 2 or self.batch % (2 * self.accumulate):
            raise ConfigError(f"batch {self.batch} must be divisible by 2 x accumulate: half of it are portraits.")
        if not 0 <= self.warmup < 1 or not all(0 <= x <= 1 for x in shares):
            raise ConfigError("foreign, windows, mixing and warmup are shares, from 0 to 1.")
        if not all(0 < x < math.inf for x in (self.learning_rate, self.clip)):
            raise ConfigError("learning_rate and clip must be positive numbers; a large clip does not clip.")
        if self.perceptual_size < SMALLEST:
            raise ConfigError(f"perceptual_size must be at least {SMALLEST}, not {self.perceptual_size}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"A seed is a whole number from 0 to {2**32 - 1}, not {self.seed}.")
        if self.total < 1:
            raise ConfigError("The run has no pictures to learn from: pictures, and for two stages w_pictures, are 0.")

    @property
    def total(self) -> int:
        """Pictures of the whole run."""
        return self.pictures + (self.w_pictures if self.stages == "two" else 0)

    def network(self) -> EncoderNetwork:
        """The settings of the network."""
        return EncoderNetwork(**{name: getattr(self, name) for name in EncoderNetwork.__dataclass_fields__})
