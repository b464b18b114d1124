"""Train the attribute network (``evaluation.attributes``) on labelled portraits: about 20 minutes of CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boundary.paths import user_path
from ..evaluation.attributes import BINARY, AttributeConfig, AttributeNet, AttributeOutput, standardisation
from ..images import from_uint8
from ..runtime.optim import set_learning_rate, warmup_cosine
from ..storage.atomic import write_folder
from . import runlog
from .attribute_settings import AttributeTraining
from .dataset import Batch, Pictures, open_pictures
from .degrade import degrade
from .labels import Labels, mirror, open_labels
from .loop import Progress, Run


__all__ = ["AttributeTrainer", "AttributeTraining", "measure_errors", "train_attributes"]


class AttributeTrainer(Run):
    """All randomness of a step is derived from (seed, pictures seen, process): only tensors and counters are saved."""

    def __init__(self, config: AttributeTraining, accelerator: Any = None) -> None:
        """Open the splits "train", "val" and "test" of ``config.data``."""
        super().__init__(config, accelerator, config.pictures)
        self.config = config
        self.splits: dict[str, tuple[Pictures, Labels]] = {}
        for split in ("train", "val", "test"):
            pictures = open_pictures(config.data, config.resolution, split)
            self.splits[split] = pictures, open_labels(config.data, pictures.names)
        labels = self.splits["train"][1]
        mean, std = standardisation(labels.values)
        shape = AttributeConfig(
            names=labels.names,
            num_attributes=labels.num_attributes,
            mean=mean,
            std=std,
            hair_styles=labels.hair_styles,
            resolution=config.resolution,
            widths=config.widths,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = self.to_device(AttributeNet(shape))
        self.targets = _Targets(shape, labels)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.optimizers = {"net": optimizer}
        self.report: dict[str, Any] = {}  # of the finished run, in the main process

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network."""
        return {"net": self.net}

    def pictures_from(self, seen: int) -> Iterator[Batch]:
        """Portraits of the split "train"."""
        return self.batches_of(self.splits["train"][0], self.config.batch // self.world, seen)

    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """One step of AdamW on degraded pictures."""
        config, batch = self.config, next(stream)
        rng = np.random.default_rng((config.seed, self.seen, self.accelerator.process_index))
        self.net.train()
        self.mid_step = True  # the statistics of the batch normalisation move with the forward pass
        output = self.net(degrade(from_uint8(batch.pictures), config.degrade, rng).to(self.device))
        loss = self.targets.loss(output, batch.indices, batch.flipped, config)
        loss.backward()
        progress = min(1.0, (self.seen + config.batch) / self.total)
        optimizer = self.optimizers["net"]
        set_learning_rate(optimizer, warmup_cosine(progress, config.warmup))
        self.apply_gradients(optimizer)
        self.seen += config.batch
        return {"loss": float(loss.detach())}

    def validate(self, facts: Mapping[str, Any]) -> None:
        """How well the validation split is read, where it is time."""
        if self.due(self.config.validate_every):
            found = measure_errors(self.net, *self.splits["val"])
            metrics = {name: value.get("r2", value.get("accuracy")) for name, value in found["attributes"].items()}
            metrics |= {"hair_style": found["hair_style"]["accuracy"], "parameters_r2": found["parameters_r2"]}
            runlog.append(self.out, {**facts, "seen": self.seen, **metrics})

    def finish(self) -> None:
        """Save the network, rounded to fp16, and the errors of what was saved."""
        config, out = self.config, self.out
        self.net.save_pretrained(out, variant="fp16")
        saved = AttributeNet.from_pretrained(out)
        self.report = {
            "training": asdict(config) | {"data": user_path(config.data).name, "out": out.name},
            "parameters": sum(p.numel() for p in saved.parameters()),
            **{split: measure_errors(saved, *self.splits[split]) for split in ("val", "test")},
        }
        write_folder(out, {"errors.json": (json.dumps(self.report, indent=1) + "\n").encode()})


def train_attributes(config: AttributeTraining, progress: Progress | None = None) -> AttributeTrainer:
    """Train on ``config.data``; a run found in ``config.out`` is continued.

    Returns:
        The trainer; in the main process its ``report`` has the held-out errors that are also in ``errors.json``.

    Raises:
        ConfigError: The data have no labels, or not the splits train, val and test.
        MissingDependencyError: accelerate is not installed.
        ModelFileError: The state in ``config.out`` is damaged or of another network.
    """
    trainer = AttributeTrainer(config)
    trainer.resume()
    trainer.run(progress)
    return trainer


class _Targets:
    """Standardised labels of the training pictures, mirrored where the picture was."""

    def __init__(self, config: AttributeConfig, labels: Labels) -> None:
        self.values, self.hair = labels.values, labels.hair
        self.order, self.sign = mirror(labels.names)
        self.mean, self.std = torch.tensor(config.mean), torch.tensor(config.std)
        self.binary = torch.tensor(config.binary)
        attributes = torch.arange(len(labels.names)) < labels.num_attributes
        self.regressed = attributes & ~self.binary
        self.parameters = ~attributes

    def loss(self, output: AttributeOutput, indices: Tensor, flipped: Tensor, config: AttributeTraining) -> Tensor:
        """Mean error of a batch; ``indices`` and ``flipped`` as in ``Batch``."""
        values = self.values[indices]  # [N, K]
        values = torch.where(flipped[:, None], values[:, self.order] * self.sign, values)
        device = output.values.device
        target = ((values - self.mean) / self.std).to(device)
        squares = F.smooth_l1_loss(output.values, target, reduction="none").mean(dim=0)  # [K]
        return (
            squares[self.regressed].mean()
            + config.parameter_weight * squares[self.parameters].mean()
            + F.binary_cross_entropy_with_logits(output.values[:, self.binary], values[:, self.binary].to(device))
            + config.hair_weight * F.cross_entropy(output.hair, self.hair[indices].to(device))
        )


@torch.no_grad()
def measure_errors(net: AttributeNet, pictures: Pictures, labels: Labels, batch: int = 100) -> dict[str, Any]:
    """Errors of the network on labelled pictures.

    Returns:
        ``attributes``: name -> mean absolute error and R2 (share of the variance explained), or accuracy where binary;
        ``hair_style``: accuracy; ``parameters``: R2 of each, ``parameters_r2``: their mean.
    """
    net.eval()
    device = net.head.weight.device
    outputs = [
        net(from_uint8(pictures.take(range(i, min(i + batch, len(pictures))))).to(device))
        for i in range(0, len(pictures), batch)
    ]
    read = net.to_units(torch.cat([o.values for o in outputs])).cpu()
    styles = torch.cat([o.hair for o in outputs]).argmax(dim=1).cpu()
    wrong = read - labels.values
    mae = wrong.abs().mean(dim=0)
    r2 = 1 - wrong.square().mean(dim=0) / labels.values.var(dim=0, correction=0).clamp(min=1e-12)
    accuracy = ((read > 0.5) == (labels.values > 0.5)).float().mean(dim=0)
    attributes = {
        name: {"accuracy": _round(accuracy[k])} if name in BINARY else {"mae": _round(mae[k]), "r2": _round(r2[k])}
        for k, name in enumerate(net.config.attributes)
    }
    return {
        "pictures": len(pictures),
        "attributes": attributes,
        "hair_style": {"accuracy": _round((styles == labels.hair).float().mean())},
        "parameters_r2": _round(r2[labels.num_attributes :].mean()),
        "parameters": {n: _round(v) for n, v in zip(net.config.parameters, r2[labels.num_attributes :], strict=True)},
    }


def _round(value: Tensor) -> float:
    return round(float(value), 4)
