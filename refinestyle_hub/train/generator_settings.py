"""What decides a generator's training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..boundary.fields import check_fields, setting
from ..boundary.numbers import check_seed
from ..errors import ConfigError


__all__ = ["GeneratorTraining"]


@dataclass(frozen=True)
class GeneratorTraining:
    """Everything that decides a run. Lengths are counted in pictures, over all processes."""

    data: str = field(metadata={"help": "A folder or zip of pictures, or the id of a dataset."})
    out: str = field(
        metadata={"help": "The folder of the run: its state, log and image grids, and then its networks."}
    )
    start_from: str = setting("", "A model to start from: a bundled name, a folder, or a Hub id. Its size may differ.")
    # the networks
    resolution: int = setting(128, "Height and width of the pictures, in pixels.")
    channels: Mapping[int, int] = field(
        default_factory=dict, metadata={"help": "Feature maps by resolution. Without them, those of config-f."}
    )
    z_dim: int = setting(256, "The size of z and of w.")
    mapping_layers: int = setting(4, "The number of layers of the mapping network.")
    # the objective
    mixing: float = setting(0.9, "The probability of style mixing.")
    r1_gamma: float = setting(0.5, "The weight of the R1 penalty.")
    r1_every: int = setting(16, "The number of steps between R1 penalties.")
    path_weight: float = setting(0.0, "The weight of path length regularisation. The published weight is 2.")
    path_every: int = setting(8, "The number of steps between path length regularisations.")
    path_from: int = setting(0, "The number of pictures before path length regularisation begins.")
    flip: bool = setting(True, "Mirror half of the pictures.")
    translate: float = setting(
        0.0, "The largest random shift of what the discriminator sees, as a share of the side. It helps small sets."
    )
    # the optimisation
    pictures: int = setting(600_000, "The length of the run.")
    batch: int = setting(32, "Pictures per step, over all processes.")
    learning_rate: float = setting(2.5e-3, "The learning rate of Adam.")
    mapping_boost: float = setting(
        1.0, "A factor on the mapping network's published learning rate, which all but freezes it in a short run."
    )
    warmup: int = setting(2_000, "The number of pictures over which the learning rate rises linearly.")
    cooldown: int = setting(80_000, "The number of pictures at the end that have a fifth of the learning rate.")
    ema_halflife: int = setting(10_000, "The half-life of the averaged weights.")
    ema_ramp: float = setting(0.1, "The half-life is at most this share of the pictures seen.")
    seed: int = setting(0, "The same seed gives the same run.")
    compile: bool = setting(False, "Compile the synthesis: 1.5 times as fast on a CPU, but minutes to start.")
    precision: Literal["no", "bf16", "fp16"] = setting("no", "The precision of the networks; no is float32.")
    grid_every: int = setting(10_000, "The number of pictures between image grids.")
    save_every: int = setting(10_000, "The number of pictures between saves of the state.")

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.pictures, self.batch, self.grid_every, self.save_every, self.r1_every, self.path_every) < 1:
            raise ConfigError("pictures, batch and the intervals must be at least 1.")
        check_seed(self.seed)
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be positive, not {self.learning_rate}.")
