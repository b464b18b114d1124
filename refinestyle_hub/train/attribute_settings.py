"""What decides a training run of the attribute network."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..boundary.fields import check_fields, setting
from ..boundary.numbers import check_seed
from ..errors import ConfigError


__all__ = ["AttributeTraining"]


@dataclass(frozen=True)
class AttributeTraining:
    """Everything that decides a run. Lengths are counted in pictures, over all processes."""

    data: str = field(metadata={"help": "A folder or zip of pictures with labels.jsonl and parameters.npz."})
    out: str = field(metadata={"help": "The folder of the run: its state and log, and then the network."})
    resolution: int = setting(128, "Height and width of what the network looks at, in pixels.")
    widths: tuple[int, ...] = setting((32, 64, 128, 192), "Feature maps at 1/4, 1/8, 1/16 and 1/32 of the resolution.")
    parameter_weight: float = setting(0.5, "The weight of the rendering parameters, where that of attributes is 1.")
    hair_weight: float = setting(0.2, "The weight of the cross-entropy of the hair style.")
    degrade: float = setting(1.0, "The strength of blur, noise, JPEG and colour changes; 0 is none.")
    pictures: int = setting(225_000, "The length of the run.")
    batch: int = setting(64, "Pictures per step, over all processes.")
    learning_rate: float = setting(2e-3, "The peak learning rate of AdamW.")
    weight_decay: float = setting(0.02, "The weight decay of AdamW.")
    warmup: float = setting(0.05, "The share of the run in which the learning rate rises; then it falls by a cosine.")
    seed: int = setting(0, "The same seed gives the same run.")
    validate_every: int = setting(22_500, "The number of pictures between measurements on the validation split.")
    save_every: int = setting(22_500, "The number of pictures between saves of the state.")

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.pictures, self.batch, self.validate_every, self.save_every) < 1 or self.learning_rate <= 0:
            raise ConfigError("pictures, batch, the intervals and learning_rate must be positive.")
        check_seed(self.seed)
