"""What decides an encoder's training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ..boundary.fields import check_fields, setting
from ..boundary.numbers import check_seed
from ..config import EncoderNetwork
from ..errors import ConfigError


__all__ = ["SMALLEST", "EncoderTraining"]

SMALLEST = 32  # pixels that the perceptual distance needs


@dataclass(frozen=True)
class EncoderTraining:
    """Everything that decides a run. Lengths are counted in pictures, over all processes."""

    data: str = field(metadata={"help": "A folder or zip of pictures, or the id of a dataset."})
    out: str = field(metadata={"help": "The folder of the run: its state, log and image grids, and then the encoder."})
    model: str = field(metadata={"help": "The model of the generator: a bundled name, a folder, or a Hub id."})
    network: EncoderNetwork = field(default_factory=EncoderNetwork)
    pretrained: bool = setting(False, "Start a timm backbone from its published weights.")
    start_from: str = setting(
        "", "An encoder whose first stage is taken over. With w_pictures 0 the first stage stays as it is."
    )
    start_whole: bool = setting(False, "Take over all of the encoder of start_from, and train it further.")
    # the objective
    l2: float = setting(1.0, "The weight of the squared error of the pixels.")
    perceptual: float = setting(0.8, "The weight of the perceptual distance.")
    perceptual_backend: Literal["auto", "lpips-alex", "st-lpips-alex"] = setting(
        "auto", "The perceptual distance. auto takes LPIPS where its weights can be had."
    )
    perceptual_size: int = setting(
        256, "The side in pixels to which larger pictures are averaged for perceptual distance and features."
    )
    crop_prob: float = setting(
        0.0, "The probability that a step's perceptual distance takes a random crop of that size in full detail."
    )
    features: float = setting(0.1, "The weight of the angle between features, where there is a feature model.")
    feature_model: str = setting("", "The folder of the attribute network that gives the features.")
    latent: float = setting(0.5, "The weight of the squared error of a sample's w+, by how much of it shows.")
    delta: float = setting(2e-4, "The weight of the squared distance of codes from their mean, in deviations.")
    norm: float = setting(1e-2, "The weight of the squared norm of the residuals relative to the kernels'.")
    adversarial: float = setting(0.0, "The weight of the adversarial loss. HyperInverter takes 0.005.")
    r1_gamma: float = setting(10.0, "The weight of the R1 penalty of the discriminator.")
    r1_every: int = setting(16, "The number of steps between R1 penalties.")
    # the pictures
    ood_fraction: float = setting(0.5, "The fraction of pictures from out of the domain, where tokens are learnt.")
    cycle_every: int = setting(3, "The number of steps between those that undo an edit. 0 is never.")
    mixing: float = setting(0.5, "The probability of style mixing in samples.")
    flip: bool = setting(True, "Mirror half of the pictures.")
    # the optimisation
    w_pictures: int = setting(200_000, "The length of the first of two stages.")
    latent_only: int = setting(0, "Pictures of the warm-up, which learns w+ from samples by the latent loss alone.")
    pictures: int = setting(200_000, "The length of the stage that learns tokens. 0 is w+ alone.")
    batch: int = setting(16, "Pictures per step, over all processes; half of them are samples.")
    accumulate: int = setting(1, "The number of parts of a batch whose gradients are added up.")
    learning_rate: float = setting(5e-4, "The peak learning rate of Adam.")
    warmup: float = setting(0.05, "The share of a stage in which the learning rate rises; then it falls by a cosine.")
    clip: float = setting(1.0, "The largest norm of the gradient.")
    ema_halflife: int = setting(10_000, "The half-life of the averaged weights.")
    ema_ramp: float = setting(0.1, "The half-life is at most this share of the stage's pictures seen.")
    seed: int = setting(0, "The same seed gives the same run.")
    precision: Literal["no", "bf16"] = setting("no", "The precision of the networks; no is float32.")
    # what is written
    validate: str = setting("", "Pictures to validate on, their split val. Without them, that of the data.")
    validation: int = setting(64, "The number of pictures to validate on. As many out of the domain are made of them.")
    validate_every: int = setting(10_000, "The number of pictures between measurements of the metrics.")
    grid_every: int = setting(10_000, "The number of pictures between image grids.")
    save_every: int = setting(10_000, "The number of pictures between saves of the state.")

    def __post_init__(self) -> None:
        check_fields(self)
        intervals = (self.grid_every, self.save_every, self.validate_every, self.r1_every, self.accumulate)
        counts = (self.w_pictures, self.latent_only, self.pictures, self.validation, self.cycle_every)
        if min(intervals) < 1 or min(counts) < 0:
            raise ConfigError("The intervals must be at least 1, and no number of pictures negative.")
        if self.start_whole and not self.start_from:
            raise ConfigError("start_whole trains an encoder further: name it by start_from.")
        if self.latent_only and self.network.stages == "one":
            raise ConfigError("latent_only belongs to the first of two stages.")
        if self.batch < 2 or self.batch % (2 * self.accumulate):
            raise ConfigError(f"batch {self.batch} must be divisible by 2 x accumulate: half of it are portraits.")
        shares = (self.ood_fraction, self.crop_prob, self.mixing)
        if not 0 <= self.warmup < 1 or not all(0 <= x <= 1 for x in shares):
            raise ConfigError("ood_fraction, crop_prob, mixing and warmup are shares, from 0 to 1.")
        if not all(0 < x < math.inf for x in (self.learning_rate, self.clip)):
            raise ConfigError("learning_rate and clip must be positive numbers; a large clip does not clip.")
        if self.perceptual_size < SMALLEST:
            raise ConfigError(f"perceptual_size must be at least {SMALLEST}, not {self.perceptual_size}.")
        check_seed(self.seed)
        if self.total < 1:
            raise ConfigError("The run has no pictures to learn from: pictures, and for two stages w_pictures, are 0.")

    @property
    def total(self) -> int:
        """Pictures of the whole run."""
        return self.pictures + (self.w_pictures if self.network.stages == "two" else 0)
