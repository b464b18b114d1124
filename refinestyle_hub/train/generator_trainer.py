"""Train a generator and its discriminator (Karras et al. 2020), alone or led by anchors (``anchors.py``).

One generator batch serves both steps: its pictures are judged once; the gradient with respect to the pictures goes on
into the generator, the gradient with respect to the weights moves the discriminator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import DiscriminatorConfig, GeneratorConfig
from ..errors import ConfigError
from ..generators.discriminator import Discriminator
from ..generators.stylegan2 import Generator
from ..images import contact_sheet, save_png, to_images
from ..losses import gan
from ..losses.diffaugment import translate
from ..runtime import processes
from . import checkpoint, latents
from .anchors import Scenes, couple, scenes_of
from .data import Batch, Pictures, batches, open_pictures, to_float
from .generator_settings import GeneratorTraining
from .loop import STATE, Progress, Run
from .teach import SceneReader, refit_styles, teach_mapping


__all__ = ["GeneratorTraining", "Progress", "Trainer", "train_generator"]


def adam(*groups: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": list(g.parameters())} for g in groups], lr=0.0, betas=(0.0, 0.99), eps=1e-8)


class Trainer(Run):
    """All randomness of a step is derived from (seed, step, process): only tensors and counters are saved."""

    def __init__(
        self,
        config: GeneratorTraining,
        pictures: Pictures,
        anchors: tuple[Tensor, Scenes] | None = None,
        accelerator: Any = None,
    ) -> None:
        """``anchors``: codes [2 N, K] of the N pictures, then of their mirror images, and the scenes."""
        if accelerator is None:
            accelerator = processes.accelerator(mixed_precision=config.precision)
        if config.batch % accelerator.num_processes:
            raise ConfigError(f"batch {config.batch} must be divisible by the {accelerator.num_processes} processes.")
        super().__init__(config, accelerator, config.pictures)
        self.config, self.pictures = config, pictures
        self.codes: Tensor | None = None if anchors is None else anchors[0]
        self.scenes: Scenes | None = None if anchors is None else anchors[1]
        self.local_batch = config.batch // self.world
        shape = GeneratorConfig(
            resolution=config.resolution,
            z_dim=config.z_dim,
            w_dim=config.z_dim,
            mapping_layers=config.mapping_layers,
            channels=dict(config.channels),
        )
        self.reader: SceneReader | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator, self.average = self.place(Generator(shape)), self.place(Generator(shape)).eval()
            self.discriminator = self.place(
                Discriminator(DiscriminatorConfig(config.resolution, channels=shape.channels))
            )
            if self.scenes is not None and config.scene_weight:
                self.reader = SceneReader(16 * shape.channels[4], self.scenes).to(self.device)
        self.average.load_state_dict(self.generator.state_dict())
        self.networks: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }
        self.optimizers = {
            "generator": adam(self.generator.synthesis, self.generator.mapping),
            "discriminator": adam(self.discriminator),
        }
        if self.reader is not None:
            self.networks["reader"], self.optimizers["reader"] = self.reader, adam(self.reader)
        self.synthesis: Callable[..., Tensor] = self.generator.synthesis
        if config.compile:
            self.synthesis = torch.compile(self.generator.synthesis)
        self.cold = dict.fromkeys(self.optimizers, 0)  # where each optimiser last started without moments
        self.path_mean = torch.zeros([], device=self.device)

    # -- one step ---------------------------------------------------------------------------------------------------

    def rng(self, purpose: int) -> torch.Generator:
        step = self.seen // self.config.batch
        return torch.Generator().manual_seed(
            ((self.config.seed * 1_000_003 + step) * 1024 + self.accelerator.process_index) * 8 + purpose
        )

    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """Both networks learn from a batch."""
        batch = next(stream)
        real = to_float(batch.pictures).to(self.device, memory_format=torch.channels_last)
        return self.learn(real, batch.indices + batch.flipped.long() * len(self.pictures))

    def learn(self, real: Tensor, rows: Tensor) -> dict[str, float]:
        """One step on pictures [n, 3, H, W] in [-1, 1], which are the anchors ``rows`` [n]."""
        config, report, n = self.config, {}, len(real)
        playing = self.seen >= config.adversarial_from
        anchors = 0 if self.codes is None else round(config.anchored * n) if playing else n
        rng = self.rng(0)
        parts = (
            [latents.of_anchors(self.generator, self.codes[rows[:anchors]], rng)]
            if self.codes is not None and anchors
            else []
        )
        if anchors < n:
            parts.append(latents.prior(self.generator, n - anchors, config.mixing, rng))
        w = torch.cat(parts)
        noise = [None if m is None else m.to(self.device) for m in self.generator.noise(n, rng)]
        with self.accelerator.autocast():
            fake = self.synthesis(w, noise)

        picture = fake.detach().requires_grad_()
        wanted = picture.new_zeros([])
        if anchors:
            redrawn = gan.pyramid(picture[:anchors], real[:anchors])
            wanted = wanted + config.pyramid_weight * redrawn
            report["pyramid"] = redrawn.item()
        if playing:
            with self.accelerator.autocast():
                fake_maps = self.discriminator.features(self.moved(picture, 1))
                real_maps = self.discriminator.features(self.moved(real, 2))
                fake_logits, real_logits = (self.discriminator.b4(m[-1].float()) for m in (fake_maps, real_maps))
            wanted = wanted + gan.generator_loss(fake_logits)
            if anchors and config.feature_weight and not config.translate:
                matching = gan.feature_matching([m[:anchors] for m in fake_maps], [m[:anchors] for m in real_maps])
                wanted = wanted + config.feature_weight * matching
                report["features"] = matching.item()
            if self.reader is not None and self.scenes is not None and anchors:
                scenes = self.scenes.vectors[rows].to(self.device)
                read = self.reader.losses(real_maps[-1].flatten(1).float(), scenes)
                shown = self.reader.losses(fake_maps[-1][:anchors].flatten(1).float(), scenes[:anchors])
                wanted = wanted + config.scene_weight * torch.stack([*shown.values()]).sum()
                report |= {f"read_{key}": value.item() for key, value in read.items()}
                report |= {f"shown_{key}": value.item() for key, value in shown.items()}
            report["sign_real"] = real_logits.detach().sign().mean().item()
            report["sign_fake"] = fake_logits.detach().sign().mean().item()
        (gradient,) = torch.autograd.grad(wanted, picture, retain_graph=playing)
        fake.backward(gradient)
        if config.path_weight and playing and self.seen >= config.path_from and self.every(config.path_every):
            report["path"] = self.regularise_paths(rng)
        self.update("generator")

        if playing:
            loss = gan.discriminator_loss(fake_logits, real_logits)
            report["discriminator"] = loss.item()
            parameters = list(self.discriminator.parameters())
            if self.reader is not None and anchors:
                loss = loss + config.scene_weight * torch.stack([*read.values()]).sum()
                parameters += list(self.reader.parameters())
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = g
            if self.every(config.r1_every):
                penalty = gan.r1(self.discriminator, real[: max(1, n // 2)])
                (penalty * (config.r1_gamma / 2 * config.r1_every)).backward()
                report["r1"] = penalty.item()
            self.update("discriminator")
            if self.reader is not None and anchors:
                self.update("reader")

        with torch.no_grad():
            self.generator.mapping.w_avg.lerp_(self.mean_over_processes(w[:, 0].detach().float().mean(0)), 0.005)
        self.seen += config.batch
        self.track()
        return report

    def moved(self, pictures: Tensor, purpose: int) -> Tensor:
        """What the discriminator sees; small sets are shifted at random."""
        shift = self.config.translate
        return translate(pictures, self.rng(purpose), shift) if shift else pictures

    def regularise_paths(self, rng: torch.Generator) -> float:
        n = max(1, self.local_batch // 2)
        w = latents.prior(self.generator, n, self.config.mixing, rng)
        noise = [None if m is None else m.to(self.device) for m in self.generator.noise(n, rng)]
        lengths = gan.path_lengths(self.generator.synthesis(w, noise), w, rng)
        self.torn = True
        self.path_mean = self.path_mean.lerp(self.mean_over_processes(lengths.detach().mean()), 0.01)
        loss = (lengths - self.path_mean).square().mean()
        (loss * self.config.path_weight * self.config.path_every).backward()
        return loss.item()

    def update(self, which: str) -> None:
        """Average the gradients of all processes, then step."""
        config, optimizer = self.config, self.optimizers[which]
        begun = self.seen - self.cold[which]
        if which != "generator":
            begun = min(begun, self.seen - config.adversarial_from)
        lr = config.learning_rate * min(1.0, (begun + config.batch) / max(config.warmup, config.batch))
        if self.seen >= config.pictures - config.cooldown:
            lr *= 0.2
        # redrawing alone is plain regression, which likes momentum
        momentum = 0.9 if self.seen < config.adversarial_from else 0.0
        for group, boost in zip(optimizer.param_groups, (1.0, config.mapping_boost), strict=False):
            group["lr"], group["betas"] = lr * boost, (momentum, 0.99)
        grads = {p: p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        flat = self.mean_over_processes(torch.cat([g.flatten() for g in grads.values()]))
        torch.nan_to_num_(flat, nan=0.0, posinf=1e5, neginf=-1e5)
        for p, g in zip(grads, flat.split([p.numel() for p in grads]), strict=True):
            p.grad = g.view_as(p)
        self.torn = True
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def track(self) -> None:
        """Move the average towards the generator; its half-life grows with the run."""
        halflife = min(self.config.ema_halflife, self.config.ema_ramp * self.seen)
        decay = 0.5 ** (self.config.batch / max(halflife, 1e-8))
        for a, p in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            a.lerp_(p, 1.0 - decay)
        for a, p in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            a.copy_(p)

    # -- the run ----------------------------------------------------------------------------------------------------

    def save(self, path: Path, compact: bool = False) -> None:
        """Everything a run needs; ``compact``: in bf16 and without Adam's moments, which then warm up again."""
        state = {
            "seen": self.seen,
            "cold": self.cold,
            "path_mean": self.path_mean.item(),
            "config": asdict(self.config),
            "means": self.means.state(),
        }
        dtype = torch.bfloat16 if compact else torch.float32
        checkpoint.write(path, self.networks, {} if compact else self.optimizers, state, dtype)

    def load(self, path: Path) -> None:
        """Continue the run saved at ``path``."""
        tensors, state = checkpoint.read(path)
        checkpoint.load_networks(tensors, self.networks)
        self.seen = state["seen"]
        self.means.load(state.get("means", {}))
        self.path_mean.fill_(state["path_mean"])
        for part, optimizer in self.optimizers.items():
            warm = checkpoint.load_optimizer(tensors, part, self.networks[part], optimizer)
            self.cold[part] = state.get("cold", {}).get(part, 0) if warm else self.seen

    def start_from(self, path: Path) -> None:
        """Take what fits from another run, of a smaller generator say; toRGB layers that are new start at zero."""
        filled = checkpoint.load_networks(checkpoint.read(path)[0], self.networks, strict=False)
        for part in ("generator", "average"):
            for name, p in self.networks[part].named_parameters():
                if name.endswith("torgb.weight") and f"{part}.{name}" not in filled:
                    nn.init.zeros_(p)

    def teach(self) -> None:
        """Start the mapping over from the scenes of the anchors; the styles follow it as far as they can."""
        from accelerate.utils import broadcast

        assert self.codes is not None
        assert self.scenes is not None
        config, mapping = self.config, self.generator.mapping
        nets = (self.generator, self.average)
        before = [copy.deepcopy(net.mapping) for net in nets]
        codes = self.codes.to(self.device)
        teach_mapping(mapping, codes, self.scenes.to(self.device), config.teach_steps, config.seed)
        for tensor in (*mapping.parameters(), mapping.w_avg):
            broadcast(tensor.detach())
        self.average.mapping.load_state_dict(mapping.state_dict())
        rng = torch.Generator().manual_seed(config.seed)
        free = torch.randn(len(codes), config.z_dim - codes.shape[1], generator=rng)
        z = torch.cat([codes, free.to(self.device)], dim=1)
        for net, old in zip(nets, before, strict=True):
            refit_styles(net, old, z)

    @torch.no_grad()
    def grid(self, path: Path, truncation: float = 1.0, side: int = 8) -> None:
        """A sheet of ``side`` x ``side`` fixed latents; with anchors, the last rows are pictures and redrawings."""
        z = torch.randn(side * side, self.config.z_dim, generator=torch.Generator().manual_seed(1)).to(self.device)
        rows = [self.average(self.average.map(row, truncation)) for row in z.split(side)]
        if self.codes is not None:
            some = torch.arange(side) * (len(self.pictures) // side)
            codes = torch.cat([self.codes[some].to(self.device), z[:side, self.codes.shape[1] :]], dim=1)
            rows[-2:] = [to_float(self.pictures.take(some)), self.average(self.average.map(codes))]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(contact_sheet([image for row in rows for image in to_images(row.cpu())], columns=side), path)

    def pictures_from(self, seen: int) -> Iterator[Batch]:
        """Portraits alone."""
        return batches(
            self.pictures,
            self.local_batch,
            seed=self.config.seed,
            position=seen,
            rank=self.accelerator.process_index,
            world=self.world,
            flip=self.config.flip,
        )

    def look(self, facts: Mapping[str, Any]) -> None:
        """A sheet, where it is due."""
        if self.due(self.config.grid_every):
            self.grid(Path(self.config.out) / "grids" / f"{self.seen:08d}.png")

    def finish(self) -> None:
        """The average, and the discriminator."""
        self.average.save_pretrained(Path(self.config.out) / "generator")
        self.discriminator.save_pretrained(Path(self.config.out) / "discriminator")


def train_generator(config: GeneratorTraining, progress: Progress | None = None) -> Trainer:
    """Train on ``config.data``; a run found in ``config.out`` is continued.

    Several processes under ``accelerate launch`` or ``torchrun`` share each batch.

    Raises:
        PictureError: no pictures at ``config.data``.
        ConfigError: a value that cannot be; anchors without labels.
        MissingDependencyError: accelerate is not installed.
        ModelFileError: the state in ``config.out`` or ``config.start_from`` is damaged or of another network.
    """
    accelerator = processes.accelerator(mixed_precision=config.precision)
    pictures = open_pictures(config.data, config.resolution)
    out = Path(config.out)
    anchors = _anchors(config, pictures, accelerator) if config.anchors else None
    trainer = Trainer(config, pictures, anchors, accelerator)
    if (out / STATE).exists():
        trainer.load(out / STATE)
    else:
        if config.start_from:
            trainer.start_from(Path(config.start_from))
        if anchors is not None and config.teach_steps:
            trainer.teach()
    trainer.run(progress)
    return trainer


def _anchors(config: GeneratorTraining, pictures: Pictures, accelerator: Any) -> tuple[Tensor, Scenes]:
    """The scenes of the pictures, and their codes: these are computed once a run and kept beside its state."""
    from safetensors.torch import load_file, save_file

    scenes, path = scenes_of(config.data, pictures), Path(config.out) / "anchors.safetensors"
    if accelerator.is_main_process and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({"codes": couple(scenes.vectors, config.anchor_steps, seed=config.seed)}, temporary)
        temporary.replace(path)
    accelerator.wait_for_everyone()
    return load_file(path)["codes"], scenes
