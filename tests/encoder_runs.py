"""What the tests of the encoder's training share: a tiny model, pictures that it drew, and a run of a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import MILD, mild_generator
from torch import Tensor

from refinestyle_hub.config import DiscriminatorConfig, EncoderNetwork
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.images import to_image
from refinestyle_hub.train import checkpoint
from refinestyle_hub.train.dataset import open_pictures
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.encoder_trainer import EncoderTrainer


def make_model(folder: Path) -> Path:
    """A generator and a discriminator of 16 px."""
    torch.manual_seed(0)
    mild_generator().save_pretrained(folder / "generator")
    Discriminator(DiscriminatorConfig(16, MILD)).save_pretrained(folder / "discriminator")
    return folder


def make_pictures(folder: Path, model: Path) -> Path:
    """Twenty pictures that the generator drew, of the splits train, val and test; those of test are damaged."""
    folder.mkdir()
    generator = Generator.from_pretrained(model)
    with torch.no_grad():
        drawn = generator(generator.map(torch.randn(20, 8, generator=torch.Generator().manual_seed(3))))
    rows = []
    for i, picture in enumerate(drawn.clamp(-1, 1)):
        to_image(picture).save(folder / f"{i:03d}.png")
        rows.append({"id": i, "split": "train" if i < 12 else "val" if i < 16 else "test"})
        if i >= 16:
            (folder / f"{i:03d}.png").write_bytes(b"nothing that could be trained on")
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def settings(model: Path, pictures: Path, out: Path) -> EncoderTraining:
    """Of both stages, 32 pictures each, in steps of eight."""
    return EncoderTraining(
        data=str(pictures),
        out=str(out),
        model=str(model),
        w_pictures=32,
        pictures=32,
        network=EncoderNetwork(widths=(8, 8, 8, 16), width=16, depth=1, heads=2, rank=2),
        perceptual=0.0,
        batch=8,
        grid_every=32,
        save_every=16,
        validate_every=32,
        validation=3,
    )


def varied(config: EncoderTraining, **changes: Any) -> EncoderTraining:
    """``replace``, which knows the fields of the network too."""
    network = {name: value for name, value in changes.items() if name in EncoderNetwork.__dataclass_fields__}
    others = {name: value for name, value in changes.items() if name not in network}
    return replace(config, network=replace(config.network, **network), **others)


def state(run: str) -> dict[str, Tensor]:
    return checkpoint.read(Path(run) / "state.safetensors")[0]


def trainer_of(config: EncoderTraining, **networks: Any) -> EncoderTrainer:
    generator = Generator.from_pretrained(config.model)
    return EncoderTrainer(config, generator, open_pictures(config.data, generator.config.resolution), **networks)


def log(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
