"""What decides a generator's training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError


__all__ = ["GeneratorTraining"]


@dataclass(frozen=True)
class GeneratorTraining:
    """Everything that decides a run. Lengths are counted in pictures, over all processes."""

    data: str  # folder or zip of pictures, or a datasets id
    out: str  # folder for state.safetensors, log.jsonl, grids/ and, at the end, generator/ and discriminator/
    resolution: int = 128
    channels: Mapping[int, int] = field(default_factory=dict)  # feature maps by resolution; empty: config-f
    z_dim: int = 256
    mapping_layers: int = 4
    pictures: int = 600_000
    batch: int = 32
    learning_rate: float = 2.5e-3
    mapping_boost: float = 1.0  # times the mapping's published rate, which all but freezes it in a short run
    warmup: int = 2_000  # linear ramp wherever Adam starts without moments
    cooldown: int = 80_000  # the last pictures, at a fifth of the learning rate
    mixing: float = 0.9  # probability of style mixing
    r1_gamma: float = 0.5
    r1_every: int = 16  # steps
    path_weight: float = 0.0  # of path length regularisation; the published weight is 2
    path_every: int = 8  # steps
    path_from: int = 0
    ema_halflife: int = 10_000
    ema_ramp: float = 0.1
    flip: bool = True
    translate: float = 0.0  # largest random shift of what the discriminator sees, share of the side; for small sets
    seed: int = 0
    start_from: str = ""  # state of another run: matching tensors are taken, new toRGB layers start at zero
    # pictures whose scene is known (labels.jsonl and parameters.npz) can lead the generator
    anchors: bool = False
    anchor_steps: int = 2_000  # of the flow that turns scenes into codes
    teach_steps: int = 4_000  # of the mapping alone, which learns to tell the scene before the run starts
    adversarial_from: int = 0  # before, the generator only redraws its anchors
    anchored: float = 0.5  # share of each batch that redraws anchors once the discriminator plays
    pyramid_weight: float = 10.0
    feature_weight: float = 1.0
    scene_weight: float = 0.5  # of the scene, which the discriminator reads off pictures and anchors must show
    # how
    compile: bool = False  # torch.compile the synthesis: 1.5 times as fast on a CPU, some minutes to start
    precision: str = "no"  # accelerate's: no, bf16, fp16
    grid_every: int = 10_000
    save_every: int = 10_000

    def __post_init__(self) -> None:
        if min(self.pictures, self.batch, self.grid_every, self.save_every, self.r1_every, self.path_every) < 1:
            raise ConfigError("pictures, batch and the intervals must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number from 0, not {self.seed}.")
        if self.learning_rate <= 0 or not 0 <= self.anchored <= 1:
            raise ConfigError("learning_rate must be positive and anchored a share between 0 and 1.")
