"""Train the attribute network (`..attributes`) on labelled portraits: one accelerate loop, about 20 minutes of CPU."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import ConfigError
from ..evaluation.attributes import BINARY, AttributeConfig, AttributeNet, AttributeOutput, standardisation
from ..runtime import processes
from ..storage.atomic import write_folder
from .data import Labels, Pictures, batches, mirror, open_labels, open_pictures, to_float


__all__ = ["AttributeTraining", "Progress", "errors", "train_attributes"]

Progress: TypeAlias = Callable[[int, int, dict[str, float]], None]  # step, steps, figures


@dataclass(frozen=True)
class AttributeTraining:
    """Settings of `train_attributes`."""

    data: str  # folder or zip with labels.jsonl and parameters.npz
    out: str  # folder for config.json, model.fp16.safetensors, errors.json and log.jsonl
    pictures: int = 225_000  # to see in all, every picture of the set ten times
    batch: int = 64  # per process
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: float = 0.05  # share of the steps
    parameter_weight: float = 0.5  # of the rendering parameters' error, beside 1 for the attributes'
    hair_weight: float = 0.2  # of the cross-entropy of the hair style
    augment: float = 1.0  # strength of blur, noise, JPEG and colour changes; 0 is none
    resolution: int = 128
    widths: tuple[int, ...] = (32, 64, 128, 192)
    checks: int = 10  # how often the validation split is read on the way
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.pictures, self.batch, self.checks) < 1 or self.lr <= 0 or self.seed < 0:
            raise ConfigError("pictures, batch, checks and lr must be positive, and seed not negative.")


def train_attributes(config: AttributeTraining, progress: Progress | None = None) -> dict[str, Any]:
    """Train, save into ``config.out``, and return the held-out errors that are also in its ``errors.json``.

    Args:
        config: settings.
        progress: called after each step with (step, steps, {"loss": ...}); an exception of its own stops the run.

    Raises:
        ConfigError: data without labels, or without the splits train, val and test.
        MissingDependencyError: accelerate is not installed.
    """
    accelerator = processes.accelerator()
    from accelerate.utils import set_seed

    pictures = open_pictures(config.data, config.resolution, "train")
    labels = open_labels(config.data, pictures)
    held_out = {}
    for split in ("val", "test"):
        some = open_pictures(config.data, config.resolution, split)
        held_out[split] = some, open_labels(config.data, some)
    set_seed(config.seed)
    net: Any = AttributeNet(_network_config(config, labels))
    net = net.to(memory_format=torch.channels_last)
    optimizer: Any = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    net, optimizer = accelerator.prepare(net, optimizer)
    raw: AttributeNet = accelerator.unwrap_model(net)

    world, rank = accelerator.num_processes, accelerator.process_index
    steps = max(config.pictures // (config.batch * world), 1)
    targets = _Targets(raw.config, labels)
    rng = np.random.default_rng((config.seed, rank))
    start = time.monotonic()
    stream = batches(pictures, config.batch, seed=config.seed, rank=rank, world=world)
    for step, batch in zip(range(1, steps + 1), stream, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(step / steps, config.warmup)
        x = augment(to_float(batch.pictures), config.augment, rng).to(accelerator.device)
        output = net(x)
        loss = targets.loss(output, batch.indices, batch.flipped, config)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        if progress is not None:
            progress(step, steps, {"loss": float(loss.detach())})
        if accelerator.is_main_process and step % max(steps // config.checks, 1) == 0:
            found = errors(raw, *held_out["val"])
            _log(config, step, float(loss.detach()), time.monotonic() - start, found)
            raw.train()
    accelerator.wait_for_everyone()

    if not accelerator.is_main_process:
        return {}
    raw.save_pretrained(config.out, variant="fp16")
    shipped = AttributeNet.from_pretrained(config.out)  # what is reported is what was saved, rounded to fp16
    report: dict[str, Any] = {
        "training": asdict(config) | {"data": Path(config.data).name, "out": Path(config.out).name},
        "seconds": round(time.monotonic() - start),
        "parameters": sum(p.numel() for p in shipped.parameters()),
    }
    report |= {split: errors(shipped, *known) for split, known in held_out.items()}
    write_folder(Path(config.out), {"errors.json": (json.dumps(report, indent=1) + "\n").encode()})
    return report


def schedule(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at `progress` (0..1): linear warm-up, then a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


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
        """Mean error of a batch; ``indices`` and ``flipped`` as in `Batch`."""
        values = self.values[indices]  # [N, K]
        values = torch.where(flipped[:, None], values[:, self.order] * self.sign, values)
        device = output.values.device
        wanted = ((values - self.mean) / self.std).to(device)
        squares = F.smooth_l1_loss(output.values, wanted, reduction="none").mean(dim=0)  # [K]
        return (
            squares[self.regressed].mean()
            + config.parameter_weight * squares[self.parameters].mean()
            + F.binary_cross_entropy_with_logits(output.values[:, self.binary], values[:, self.binary].to(device))
            + config.hair_weight * F.cross_entropy(output.hair, self.hair[indices].to(device))
        )


@torch.no_grad()
def errors(net: AttributeNet, pictures: Pictures, labels: Labels, batch: int = 100) -> dict[str, Any]:
    """Errors of the network on labelled pictures.

    Returns:
        ``attributes``: name -> mean absolute error and R2 (share of the variance explained), or accuracy where binary;
        ``hair_style``: accuracy; ``parameters``: R2 of each, ``parameters_r2``: their mean.
    """
    net.eval()
    device = net.head.weight.device
    outputs = [
        net(to_float(pictures.take(range(i, min(i + batch, len(pictures))))).to(device))
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


# --- augmentation: what generators and encoders do to pictures, so that the readings stand it ------------------------


def augment(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Pictures ``[N, 3, H, W]`` in [-1, 1]: slight colour changes for all, blur, noise or JPEG for some of them."""
    if strength == 0:
        return x
    n = len(x)
    gain = 1 + strength * torch.from_numpy(rng.normal(0, (0.06, 0.02, 0.02, 0.02), (n, 4))).float()
    shift = strength * torch.from_numpy(rng.normal(0, 0.04, n)).float()
    x = x * (gain[:, :1] * gain[:, 1:])[:, :, None, None] + shift[:, None, None, None]
    kind = rng.integers(0, 6, n)  # 0 blur, 1 noise, 2 JPEG, 3 blur then noise, others none
    some = torch.from_numpy(np.isin(kind, (0, 3)))
    if some.any():
        x[some] = blur(x[some], rng.uniform(0.3, 0.3 + 1.2 * strength))
    some = torch.from_numpy(np.isin(kind, (1, 3)))
    x[some] += strength * torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.1), x[some].shape)).float()
    for i in np.flatnonzero(kind == 2):
        x[i] = jpeg(x[i], int(rng.integers(100 - int(70 * strength), 96)))
    return x.clamp_(-1, 1)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``[N, C, H, W]``; `sigma` in pixels."""
    reach = max(math.ceil(3 * sigma), 1)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    channels = x.shape[1]
    for shape, padding in (((1, -1), (reach, reach, 0, 0)), ((-1, 1), (0, 0, reach, reach))):
        weight = kernel.view(1, 1, *shape).expand(channels, -1, -1, -1)
        x = F.conv2d(F.pad(x, padding, mode="reflect"), weight, groups=channels)
    return x


def jpeg(x: Tensor, quality: int) -> Tensor:
    """One picture ``[3, H, W]`` in [-1, 1] through a JPEG file of that quality (1..95)."""
    levels = x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=quality)
    return to_float(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))


def _network_config(config: AttributeTraining, labels: Labels) -> AttributeConfig:
    mean, std = standardisation(labels.values)
    return AttributeConfig(
        names=labels.names,
        num_attributes=labels.num_attributes,
        mean=mean,
        std=std,
        hair_styles=labels.hair_styles,
        resolution=config.resolution,
        widths=config.widths,
    )


def _log(config: AttributeTraining, step: int, loss: float, seconds: float, found: dict[str, Any]) -> None:
    file = Path(config.out) / "log.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    figures = {name: value.get("r2", value.get("accuracy")) for name, value in found["attributes"].items()}
    figures |= {"hair_style": found["hair_style"]["accuracy"], "parameters_r2": found["parameters_r2"]}
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"step": step, "loss": round(loss, 4), "seconds": round(seconds), **figures}) + "\n")


def _round(value: Tensor) -> float:
    return round(float(value), 4)
