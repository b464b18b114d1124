"""Train a StyleGAN2 generator and its discriminator (Karras et al. 2020).

One batch of the generator serves both networks. The discriminator sees it once: the gradient by the pictures moves
the generator, the gradient by the weights moves the discriminator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import DiscriminatorConfig, StyleGAN2Config
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..generators.stylegan2 import StyleGAN2Generator
from ..images import contact_sheet, from_uint8, save_png, to_images
from ..losses import gan
from ..losses.diffaugment import translate
from ..runtime import processes
from ..runtime.optim import ema_decay, set_learning_rate, update_average
from .dataset import Batch, Pictures, open_pictures
from .generator_settings import GeneratorTraining
from .latents import mixed_latents
from .loop import Progress, Run


__all__ = ["GeneratorTrainer", "GeneratorTraining", "Progress", "train_generator"]


class Logits(NamedTuple):
    """What the discriminator says of a batch, each [n, 1]."""

    fake: Tensor
    real: Tensor


class GeneratorTrainer(Run):
    """All randomness of a step is derived from (seed, step, process): only tensors and counters are saved."""

    def __init__(self, config: GeneratorTraining, pictures: Pictures, accelerator: Any = None) -> None:
        """Make networks with random weights; ``pictures`` are of the resolution of ``config``."""
        if accelerator is None:
            accelerator = processes.accelerator(mixed_precision=config.precision)
        super().__init__(config, accelerator, config.pictures)
        self.config, self.pictures = config, pictures
        self.local_batch = config.batch // self.world
        shape = StyleGAN2Config(
            resolution=config.resolution,
            z_dim=config.z_dim,
            w_dim=config.z_dim,
            mapping_layers=config.mapping_layers,
            channels=dict(config.channels),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = self.to_device(StyleGAN2Generator(shape))
            self.average = self.to_device(StyleGAN2Generator(shape)).eval()
            self.discriminator = self.to_device(
                Discriminator(DiscriminatorConfig(config.resolution, channels=shape.channels))
            )
        self.average.load_state_dict(self.generator.state_dict())
        rate = config.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": list(self.generator.synthesis.parameters())},
            {"params": list(self.generator.mapping.parameters()), "lr": rate * config.mapping_boost},
        ]
        self.optimizers = {
            "generator": torch.optim.Adam(groups, lr=rate, betas=(0.0, 0.99)),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=(0.0, 0.99)),
        }
        self.synthesis: Callable[..., Tensor] = self.generator.synthesis
        if config.compile:
            self.synthesis = torch.compile(self.generator.synthesis)
        self.path_mean = torch.zeros([], device=self.device)

    # -- one step ---------------------------------------------------------------------------------------------------

    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """Both networks learn from a batch."""
        real = from_uint8(next(stream).pictures).to(self.device, memory_format=torch.channels_last)  # [n, 3, R, R]
        rng = self.rng(0)
        w_plus = mixed_latents(self.generator, [rng] * len(real), self.config.mixing)  # [n, L, D]
        with self.accelerator.autocast():
            fake = self.synthesis(w_plus, self.generator.noise(len(real), rng))
        shown = fake.detach().requires_grad_()
        logits = self.discriminate(shown, real)
        metrics = self.generator_step(fake, shown, logits, rng) | self.discriminator_step(logits, real)
        self.move_average(w_plus.detach())
        self.seen += self.config.batch
        return metrics

    def discriminate(self, fake: Tensor, real: Tensor) -> Logits:
        """The discriminator's logits of pictures [n, 3, R, R], which it sees shifted where the set is small."""
        with self.accelerator.autocast():
            return Logits(self.discriminator(self.shifted(fake, 1)), self.discriminator(self.shifted(real, 2)))

    def generator_step(self, fake: Tensor, shown: Tensor, logits: Logits, rng: torch.Generator) -> dict[str, float]:
        """The non-saturating loss moves the generator; path lengths are regularised where it is time.

        Args:
            fake: Pictures [n, 3, R, R] with the generator's graph.
            shown: The same pictures as a leaf, from which ``logits`` were computed.
            logits: What the discriminator says of them.
            rng: The random generator of this step.
        """
        (gradient,) = torch.autograd.grad(gan.generator_loss(logits.fake), shown, retain_graph=True)
        fake.backward(gradient)
        metrics = {
            "sign_real": logits.real.detach().sign().mean().item(),
            "sign_fake": logits.fake.detach().sign().mean().item(),
        }
        config = self.config
        if config.path_weight and self.seen >= config.path_from and self.every(config.path_every):
            metrics["path"] = self.regularise_paths(rng)
        self.update("generator")
        return metrics

    def regularise_paths(self, rng: torch.Generator) -> float:
        """Gradients of path length regularisation (Karras et al. 2020, section 3.2), on half a batch."""
        n = max(1, self.local_batch // 2)
        w_plus = mixed_latents(self.generator, [rng] * n, self.config.mixing)
        lengths = gan.path_lengths(self.generator.synthesis(w_plus, self.generator.noise(n, rng)), w_plus, rng)
        self.mid_step = True
        self.path_mean = self.path_mean.lerp(self.mean_over_processes(lengths.detach().mean()), 0.01)
        loss = (lengths - self.path_mean).square().mean()
        (loss * self.config.path_weight * self.config.path_every).backward()
        return loss.item()

    def discriminator_step(self, logits: Logits, real: Tensor) -> dict[str, float]:
        """The logistic loss moves the discriminator; the R1 penalty joins where it is time."""
        loss = gan.discriminator_loss(logits.fake, logits.real)
        parameters = list(self.discriminator.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        metrics = {"discriminator": loss.item()}
        if self.every(self.config.r1_every):
            penalty = gan.r1(self.discriminator, real[: max(1, len(real) // 2)])
            (penalty * (self.config.r1_gamma / 2 * self.config.r1_every)).backward()
            metrics["r1"] = penalty.item()
        self.update("discriminator")
        return metrics

    def update(self, which: str) -> None:
        """One step of Adam at the rate of this moment."""
        config = self.config
        share = min(1.0, (self.seen + config.batch) / max(config.warmup, config.batch))
        if self.seen >= config.pictures - config.cooldown:
            share *= 0.2
        set_learning_rate(self.optimizers[which], share)
        self.apply_gradients(self.optimizers[which])

    @torch.no_grad()
    def move_average(self, w_plus: Tensor) -> None:
        """Move the mean latent, and the averaged generator, towards those of this step."""
        self.generator.mean_latent.lerp_(self.mean_over_processes(w_plus[:, 0].float().mean(0)), 0.005)
        config = self.config
        decay = ema_decay(config.batch, self.seen + config.batch, config.ema_halflife, config.ema_ramp)
        update_average(self.average, self.generator, decay)

    def rng(self, purpose: int) -> torch.Generator:
        """The random generator of this step and process for one of eight purposes."""
        step = self.seen // self.config.batch
        return torch.Generator().manual_seed(
            ((self.config.seed * 1_000_003 + step) * 1024 + self.accelerator.process_index) * 8 + purpose
        )

    def shifted(self, pictures: Tensor, purpose: int) -> Tensor:
        """Pictures as the discriminator sees them."""
        shift = self.config.translate
        return translate(pictures, self.rng(purpose), shift) if shift else pictures

    # -- the run ----------------------------------------------------------------------------------------------------

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Both networks, and the average of the generator."""
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}

    def state(self) -> dict[str, Any]:
        """The mean path length."""
        return {"path_mean": self.path_mean.item()}

    def restore(self, path: Path, state: Mapping[str, Any]) -> set[str]:
        """Take the mean path length."""
        self.path_mean.fill_(state["path_mean"])
        return set()

    def start_from(self, generator: Generator, discriminator: Discriminator) -> None:
        """Take the tensors that fit from other networks, such as smaller ones; new toRGB layers start at zero."""
        for own in (self.generator, self.average):
            taken = _take_fitting(own, generator)
            for name, spec in own.layers.items():
                if spec.role == "rgb" and f"synthesis.{name}.weight" not in taken:
                    nn.init.zeros_(own.layer(name).weight)
        _take_fitting(self.discriminator, discriminator)

    @torch.no_grad()
    def save_grid(self, path: Path, side: int = 8) -> None:
        """Draw ``side`` x ``side`` fixed latents with the averaged generator."""
        z = torch.randn(side * side, self.config.z_dim, generator=torch.Generator().manual_seed(1)).to(self.device)
        rows = [self.average(self.average.map(row)) for row in z.split(side)]
        save_png(contact_sheet([image for row in rows for image in to_images(row.cpu())], columns=side), path)

    def pictures_from(self, seen: int) -> Iterator[Batch]:
        """Real pictures alone."""
        return self.batches_of(self.pictures, self.local_batch, seen, self.config.flip)

    def validate(self, facts: Mapping[str, Any]) -> None:
        """An image grid, where it is due."""
        if self.due(self.config.grid_every):
            self.save_grid(self.out / "grids" / f"{self.seen:08d}.png")

    def finish(self) -> None:
        """Save the averaged generator, and the discriminator."""
        self.average.save_pretrained(self.out / "generator")
        self.discriminator.save_pretrained(self.out / "discriminator")


def _take_fitting(own: nn.Module, other: nn.Module) -> set[str]:
    """Load the tensors of ``other`` that have the same name and shape; returns their names."""
    mine, theirs = own.state_dict(), other.state_dict()
    fitting = {name: x for name, x in theirs.items() if name in mine and mine[name].shape == x.shape}
    own.load_state_dict({**mine, **fitting})
    return set(fitting)


def train_generator(config: GeneratorTraining, progress: Progress | None = None) -> GeneratorTrainer:
    """Train on ``config.data``; a run found in ``config.out`` is continued.

    Several processes under ``accelerate launch`` or ``torchrun`` share each batch.

    Raises:
        PictureError: There are no pictures at ``config.data``.
        ConfigError: The batch cannot be divided among the processes.
        ModelNotFoundError: There is no generator or no discriminator at ``config.start_from``.
        MissingDependencyError: accelerate is not installed.
        ModelFileError: The state in ``config.out`` is damaged or of another network.
    """
    accelerator = processes.accelerator(mixed_precision=config.precision)
    trainer = GeneratorTrainer(config, open_pictures(config.data, config.resolution), accelerator)
    if not trainer.resume() and config.start_from:
        trainer.start_from(
            Generator.from_pretrained(config.start_from), Discriminator.from_pretrained(config.start_from)
        )
    trainer.run(progress)
    return trainer
