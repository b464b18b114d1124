"""Train an encoder for a frozen generator, in one stage or two, as one run that can be stopped and continued.

Half of the pictures are portraits, half are samples of the generator, whose w+ is known. Where tokens are learnt, a
share of both comes from out of the domain (``augment.py``), and on every third step the encoder must undo a random
edit of what it found (``tasks.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..boundary.paths import user_path
from ..encoder.encoder import Encoder
from ..encoder.stage import EncoderStage
from ..errors import ConfigError
from ..evaluation.attributes import AttributeNet
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..images import from_uint8
from ..losses import gan
from ..losses.perceptual import Perceptual
from ..runtime import processes
from ..runtime.optim import ema_decay, set_learning_rate, update_average, warmup_cosine
from . import runlog
from .dataset import Batch, Pictures, open_held_out, open_pictures
from .encoder_objective import Features, Objective
from .encoder_settings import SMALLEST, EncoderTraining
from .encoder_start import check_same_run, take_coordinates, take_over
from .loop import STATE, Progress, Run
from .tasks import Task, Tasks, pair_rngs
from .validation import measure_encoder, save_encoder_grid, validation_pictures


__all__ = ["EncoderTrainer", "EncoderTraining", "Progress", "train_encoder"]


class EncoderTrainer(Run):
    """All randomness of a step is derived from the seed and the pictures seen: only tensors and counters are saved."""

    def __init__(
        self,
        config: EncoderTraining,
        generator: Generator,
        pictures: Pictures,
        held_out: Pictures | None = None,
        *,
        perceptual: Perceptual | None = None,
        features: Features | None = None,
        discriminator: Discriminator | None = None,
        accelerator: Any = None,
        continued: bool = False,
    ) -> None:
        """The networks are taken over: moved to the device, and frozen but for the discriminator.

        ``continued``: a state is loaded next, which has the weights of a backbone that was published.
        """
        super().__init__(config, accelerator, config.total, parts=2 * config.accumulate)
        if config.perceptual and generator.config.resolution < SMALLEST:
            raise ConfigError(f"The perceptual distance needs {SMALLEST} pixels or more: set perceptual to 0.")
        self.config, self.pictures, self.held_out = config, pictures, held_out
        self.generator = self.to_device(generator).requires_grad_(False).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network, pretrained = vars(config.network), config.pretrained and not continued
            self.encoder = self.to_device(Encoder.for_generator(self.generator, pretrained=pretrained, **network))
            self.average = self.to_device(Encoder.for_generator(self.generator, **network))
        self.average.load_state_dict(self.encoder.state_dict())
        self.average.eval().requires_grad_(False)
        self.distance_of_encoder = self.encoder.load_distance()
        self.objective = Objective(self.generator, perceptual, features, config.perceptual_size)
        self.tasks = Tasks(self.generator, self.objective.stats, config.ood_fraction, config.mixing)
        self.learning: dict[str, nn.Module] = dict(self.encoder.named_children())  # "first", "second"
        if config.adversarial:
            if discriminator is None:
                raise ConfigError("The adversarial term needs a model that has a discriminator.")
            self.learning["discriminator"] = self.to_device(discriminator).train()
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
            for name, net in self.learning.items()
        }

    def autocast(self) -> torch.autocast:
        """The precision of the networks; losses and norms are taken outside, in full precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    # -- one step ---------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Literal["codes", "tokens", "both"]:
        """What is being learnt now."""
        if self.config.network.stages == "one":
            return "both"
        return "codes" if self.seen < self.config.w_pictures else "tokens"

    @property
    def span(self) -> tuple[int, int]:
        """Where the present stage begins and ends."""
        config = self.config
        return (0, config.w_pictures) if self.stage == "codes" else (config.total - config.pictures, config.total)

    @property
    def latent_only(self) -> bool:
        """Whether w+ is learnt from samples by the latent loss alone, before anything is rendered."""
        return self.stage == "codes" and self.seen < self.config.latent_only

    def rng(self, purpose: int) -> torch.Generator:
        """The random generator of this step, the same in all processes, for one of two purposes."""
        return torch.Generator().manual_seed((self.config.seed * 1_000_000_007 + self.seen) * 2 + purpose)

    def num_iters(self) -> int:
        """Refinement iterations of this step, of which the last one learns."""
        return 1 + int(torch.randint(self.config.network.num_iters, (), generator=self.rng(0)))

    def crop(self) -> torch.Generator | None:
        """The source of the random crop that the perceptual distance takes in this step, if it takes one."""
        rng = self.rng(1)
        return rng if float(torch.rand((), generator=rng)) < self.config.crop_prob else None

    def pairs(self, part: int) -> range:
        """Places in the run of the pairs that this process has in a part of the step."""
        size = self.config.batch // (2 * self.config.accumulate * self.world)
        first = self.seen // 2 + (part * self.world + self.accelerator.process_index) * size
        return range(first, first + size)

    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """Gradients of all parts of a batch, then an update."""
        parts, moving = self.config.accumulate, "second" if self.stage == "tokens" else "first"
        discriminator = None if self.stage == "codes" else self.learning.get("discriminator")
        self.prepare(moving)
        sums: dict[str, float] = {}
        for part in range(parts):
            task = self.task(from_uint8(next(stream).pictures), self.pairs(part))
            terms, drawn = self.terms(task, discriminator)
            weights: Mapping[str, float] = vars(self.config)
            loss = sum((weights[name] * term for name, term in terms.items()), drawn.new_zeros([]))
            (loss / parts).backward()
            if discriminator is not None:
                terms |= self.discriminator_step(discriminator, drawn.detach(), task.target)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.detach()) / parts
        for name in (moving,) if discriminator is None else (moving, "discriminator"):
            self.update(name)
        self.move_average(moving)
        self.seen += self.config.batch
        return sums

    def prepare(self, moving: str) -> None:
        """Gradients for the stage that moves. The second starts from the first's average, which stays."""
        if moving == "second" and self.seen - self.span[0] < self.config.batch:
            self.encoder.first.load_state_dict(self.average.first.state_dict())
            if not self.config.start_whole:
                for own in (self.encoder, self.average):
                    cast(EncoderStage, own.second).init_from(own.first)
        for name, net in self.encoder.named_children():
            net.requires_grad_(name == moving).train(name == moving)

    def task(self, portraits: Tensor, pairs: range) -> Task:
        """The task that the pairs of a part make."""
        portraits = portraits.to(self.device, memory_format=torch.channels_last)
        rngs = pair_rngs(self.config.seed, pairs)
        if self.latent_only:
            return self.tasks.samples(rngs)
        if self.stage == "codes":
            return self.tasks.in_domain(portraits, rngs)
        task = self.tasks.out_of_domain(portraits, rngs)
        if not self.every(self.config.cycle_every):
            return task
        with self.autocast():
            return self.tasks.cycle(task, rngs, lambda x: self.encoder(x, self.generator, self.distance_of_encoder))

    def terms(self, task: Task, discriminator: nn.Module | None) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of the loss by the names of their weights, and the pictures rendered [N, 3, R, R]."""
        if self.latent_only:
            with self.autocast():
                w_plus = self.encoder.codes(task.images)
            return _means(self.objective.code_losses(w_plus, task)), task.target
        tokens = None
        with self.autocast():
            if self.stage == "codes":
                w_plus = self.encoder.codes(task.images)
            else:
                w_plus, tokens = self.encoder(task.images, self.generator, self.distance_of_encoder, self.num_iters())
            drawn = self.generator(w_plus if task.move is None else w_plus + task.move, tokens)
        losses = self.objective.image_losses(drawn, task.target, self.crop())
        if self.stage != "tokens":
            losses |= self.objective.code_losses(w_plus, task)
        if tokens is not None and tokens.own:
            losses |= self.objective.residual_loss(tokens)
        terms = _means(losses)
        if discriminator is not None:
            discriminator.requires_grad_(False)
            terms["adversarial"] = gan.generator_loss(discriminator(drawn))
        return terms, drawn

    def discriminator_step(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Gradients of the discriminator, which tells pictures [N, 3, R, R] from their reconstructions."""
        discriminator.requires_grad_(True)
        loss = gan.discriminator_loss(discriminator(fake), discriminator(real))
        report = {"discriminator": loss}
        if self.every(self.config.r1_every):
            report["r1"] = gan.r1(discriminator, real)
            loss = loss + report["r1"] * (self.config.r1_gamma / 2 * self.config.r1_every)
        (loss / self.config.accumulate).backward()
        return report

    def update(self, which: str) -> None:
        """One step of Adam at the rate of this moment."""
        config, optimizer = self.config, self.optimizers[which]
        start, end = self.span
        progress = min(1.0, (self.seen - start + config.batch / 2) / (end - start))
        set_learning_rate(optimizer, warmup_cosine(progress, config.warmup))
        self.apply_gradients(optimizer, config.clip)

    def move_average(self, moving: str) -> None:
        """Move the average towards the encoder; its half-life grows with the stage."""
        config = self.config
        decay = ema_decay(config.batch, self.seen - self.span[0], config.ema_halflife, config.ema_ramp)
        update_average(self.average.get_submodule(moving), self.learning[moving], decay)

    # -- the run ----------------------------------------------------------------------------------------------------

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Everything that has a state."""
        return {**self.learning, "average": self.average}

    def state(self) -> dict[str, Any]:
        """The generator and the networks that the run learns by."""
        perceptual = self.objective.perceptual
        return {
            "base": self.generator.fingerprint().digest,
            "perceptual": None if perceptual is None else perceptual.name,
            "features": self.objective.features is not None,
        }

    def load(self, path: Path) -> None:
        """Continue the run saved at ``path``; raises as ``Run.load`` does."""
        super().load(path)
        take_coordinates(self.encoder, self.average)

    def restore(self, path: Path, state: Mapping[str, Any]) -> set[str]:
        """Check that it is the same run; the adversarial term may join later. Raises as ``check_same_run`` does."""
        check_same_run(self.config, self.state(), path, state)
        return set() if state["config"]["adversarial"] else {"discriminator"}

    def start_from(self, encoder: Encoder) -> None:
        """Take over the first stage of an encoder; a one-stage run may begin with one that reads codes alone.

        With ``start_whole`` all of it, which then learns on; the number of iterations may be another.

        Raises:
            ConfigError: The whole encoder is asked for, and it has other settings of the network.
            ModelFileError: It is another network.
            BaseMismatchError: It reads codes of another generator, and would stay as it is.
        """
        whole, stays = self.config.start_whole, self.config.network.stages == "two" and not self.config.w_pictures
        for own in (self.encoder, self.average):
            take_over(own, encoder, self.generator, whole=whole, first_stays=stays)

    def pictures_from(self, seen: int) -> Iterator[Batch]:
        """Portraits, which are half of what is seen."""
        return self.batches_of(self.pictures, len(self.pairs(0)), seen // 2, self.config.flip)

    def facts(self) -> dict[str, Any]:
        """Which stage learns."""
        return {"stage": self.stage}

    def validate(self, facts: Mapping[str, Any]) -> None:
        """Metrics and an image grid, where they are due."""
        config, nets = self.config, (self.average, self.generator, self.distance_of_encoder)
        if self.held_out is not None and config.validation and self.due(config.validate_every):
            pictures = validation_pictures(self.held_out, config.validation).to(self.device)
            found = measure_encoder(*nets, pictures, self.objective)
            runlog.append(self.out, {**facts, "seen": self.seen, **found})
        if self.due(config.grid_every):
            pictures = validation_pictures(self.held_out or self.pictures, 8).to(self.device)
            save_encoder_grid(*nets, pictures, self.out / "grids" / f"{self.seen:08d}.png")

    def finish(self) -> None:
        """The average, without a second stage that has learnt nothing."""
        config = self.config
        untrained = config.network.stages == "two" and not (config.pictures or config.start_whole)
        done = self.average.without_tokens() if untrained else self.average
        done.save_pretrained(self.out / "encoder")


def train_encoder(
    config: EncoderTraining, progress: Progress | None = None, *, features: Features | None = None
) -> EncoderTrainer:
    """Train for the generator of ``config.model`` on ``config.data``; a run found in ``config.out`` is continued.

    Several processes under ``accelerate launch`` or ``torchrun`` share each batch.

    Args:
        features: Any network of yours, such as one that recognises people: pictures [N, 3, H, W] in [-1, 1] -> [N, F],
            through which gradients pass. None takes the attribute network at ``config.feature_model``, if one is
            named.

    Raises:
        ModelNotFoundError: There is no generator, no discriminator where the adversarial term needs one, or LPIPS,
            asked for by name, cannot be had.
        PictureError: There are no pictures at ``config.data``.
        ConfigError: The batch cannot be divided, or there is no first stage to start a second one from.
        MissingDependencyError: accelerate, timm or the perceptual distance is not installed.
        ModelFileError: The state in ``config.out`` is damaged or of another network.
    """
    accelerator = processes.accelerator()
    generator = Generator.from_pretrained(config.model)
    # without the fp16 blocks of a GPU, in which the gradient of a mean of pixels vanishes
    generator = type(generator).from_state(generator.config.full_precision(), generator.state_dict())
    size, state = generator.config.resolution, user_path(config.out) / STATE
    if config.network.stages == "two" and not (config.w_pictures or config.start_from or state.exists()):
        raise ConfigError("With w_pictures 0 the first stage is not learnt: name an encoder that has one, start_from.")
    trainer = EncoderTrainer(
        config,
        generator,
        open_pictures(config.data, size),
        open_held_out(config.data, config.validate, size),
        perceptual=Perceptual.load(config.perceptual_backend).to(accelerator.device) if config.perceptual else None,
        features=features or _features(config, accelerator.device),
        discriminator=Discriminator.from_pretrained(config.model) if config.adversarial else None,
        accelerator=accelerator,
        continued=state.exists(),
    )
    if not trainer.resume() and config.start_from:
        trainer.start_from(Encoder.from_pretrained(config.start_from))
    trainer.run(progress)
    return trainer


def _means(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.mean() for name, values in losses.items()}


def _features(config: EncoderTraining, device: torch.device) -> Features | None:
    if not config.features or not config.feature_model:
        return None
    return AttributeNet.from_pretrained(config.feature_model).requires_grad_(False).to(device).features
