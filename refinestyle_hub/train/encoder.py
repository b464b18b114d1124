"""Train an encoder for a frozen generator, in one stage or two, as one run that can be stopped and continued.

Half of what it sees are portraits, half are samples of the generator, whose w+ is known. Where tokens are learnt, a
share of both comes from outside the domain (``augment.py``), and on every third step the encoder must undo a random
edit of what it found (``tasks.py``).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from .. import processes
from ..discriminator import Discriminator
from ..encoder import Encoder, Reader
from ..errors import ConfigError, ModelFileError
from ..fingerprint import check_base, fingerprint, is_related
from ..generator import Generator
from ..losses import Perceptual, gan
from . import checkpoint, runlog
from .attributes import schedule
from .data import Batch, Pictures, batches, open_pictures, to_float
from .encoder_settings import SMALLEST, EncoderTraining
from .redraw import Features, Objective, figures, save_sheet, sheet
from .tasks import Task, Tasks, sources


__all__ = ["EncoderTrainer", "EncoderTraining", "Progress", "train_encoder"]

ANEW = "Take what it had, or name another folder."
Progress: TypeAlias = Callable[[int, int, dict[str, float]], None]  # pictures seen, pictures in all, figures


class EncoderTrainer:
    """A run that can be stopped after any step and continued as if it had not been."""

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
    ) -> None:
        """The networks are taken over: moved to the device, and frozen but for the discriminator."""
        self.accelerator: Any = processes.accelerator() if accelerator is None else accelerator
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        if config.batch % (2 * config.accumulate * self.world):
            raise ConfigError(f"batch {config.batch} is not divisible by 2 x accumulate x {self.world} processes.")
        if config.perceptual and generator.config.resolution < SMALLEST:
            raise ConfigError(f"The perceptual distance needs {SMALLEST} pixels or more: set perceptual to 0.")
        self.config, self.pictures, self.held_out = config, pictures, held_out
        self.generator: Generator = self._place(generator).requires_grad_(False).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            options = config.network() | {"pretrained": config.pretrained}
            self.encoder: Encoder = self._place(Encoder.for_generator(self.generator, **options))
            self.average: Encoder = self._place(Encoder.for_generator(self.generator, **config.network()))
        self.average.load_state_dict(self.encoder.state_dict())
        self.average.eval().requires_grad_(False)
        self.objective = Objective(self.generator, perceptual, features, config.perceptual_size)
        self.tasks = Tasks(self.generator, self.objective.stats, config.foreign, config.mixing)
        self.learning: dict[str, nn.Module] = dict(self.encoder.named_children())  # "first", "second"
        if config.adversarial:
            if discriminator is None:
                raise ConfigError("The adversarial term needs a model that has a discriminator.")
            self.learning["discriminator"] = self._place(discriminator).train()
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=0.0, betas=(0.9, 0.99)) for name, net in self.learning.items()
        }
        self.seen = 0  # pictures, over all processes

    def autocast(self) -> torch.autocast:
        """Of the networks; losses and norms are taken outside, in full precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _place(self, net: Any) -> Any:
        return net.to(self.device, memory_format=torch.channels_last)

    # -- one step ---------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Literal["codes", "tokens", "both"]:
        """What is being learnt now."""
        if self.config.stages == "one":
            return "both"
        return "codes" if self.seen < self.config.w_pictures else "tokens"

    @property
    def span(self) -> tuple[int, int]:
        """Where the present stage begins and ends."""
        config = self.config
        return (0, config.w_pictures) if self.stage == "codes" else (config.total - config.pictures, config.total)

    @property
    def blind(self) -> bool:
        """Whether w+ is learnt from samples by the latent loss alone, before anything is drawn."""
        return self.stage == "codes" and self.seen < self.config.blind

    def every(self, steps: int) -> bool:
        return steps > 0 and (self.seen // self.config.batch) % steps == 0

    def chance(self, purpose: int) -> torch.Generator:
        """What is random about this step, and the same for all processes."""
        return torch.Generator().manual_seed((self.config.seed * 1_000_000_007 + self.seen) * 2 + purpose)

    def looks(self) -> int:
        """Of which the last learns in this step."""
        return 1 + int(torch.randint(self.config.looks, (), generator=self.chance(0)))

    def window(self) -> torch.Generator | None:
        """The source of the window that the perceptual distance takes in this step, if it takes one."""
        rng = self.chance(1)
        return rng if float(torch.rand((), generator=rng)) < self.config.windows else None

    def pairs(self, part: int) -> range:
        """Places in the run of the pairs that this process has in a part of the step."""
        size = self.config.batch // (2 * self.config.accumulate * self.world)
        first = self.seen // 2 + (part * self.world + self.accelerator.process_index) * size
        return range(first, first + size)

    def step(self, stream: Iterator[Batch]) -> dict[str, float]:
        """Gradients of all parts of a batch, then an update."""
        parts, moving = self.config.accumulate, "second" if self.stage == "tokens" else "first"
        judge = None if self.stage == "codes" else self.learning.get("discriminator")
        self.prepare(moving)
        sums: dict[str, float] = {}
        for part in range(parts):
            task = self.task(to_float(next(stream).pictures), self.pairs(part))
            terms, drawn = self.terms(task, judge)
            weights: Mapping[str, float] = vars(self.config)
            loss = sum((weights[name] * term for name, term in terms.items()), drawn.new_zeros([]))
            (loss / parts).backward()
            if judge is not None:
                terms |= self.judge(judge, drawn.detach(), task.wanted)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.detach()) / parts
        for name in (moving,) if judge is None else (moving, "discriminator"):
            self.update(name)
        self.track(moving)
        self.seen += self.config.batch
        return sums

    def prepare(self, moving: str) -> None:
        """Gradients for the stage that moves. The second starts from the first's average, which stays."""
        if moving == "second" and self.seen - self.span[0] < self.config.batch:
            self.encoder.first.load_state_dict(self.average.first.state_dict())
            for own in (self.encoder, self.average):
                cast(Reader, own.second).learn_from(own.first)
        for name, net in self.encoder.named_children():
            net.requires_grad_(name == moving).train(name == moving)

    def task(self, portraits: Tensor, pairs: range) -> Task:
        """What the pairs of a part are to teach."""
        portraits = portraits.to(self.device, memory_format=torch.channels_last)
        randoms = sources(self.config.seed, pairs)
        if self.blind:
            return self.tasks.samples(randoms)
        if self.stage == "codes":
            return self.tasks.domain(portraits, randoms)
        task = self.tasks.foreign(portraits, randoms)
        if not self.every(self.config.cycle_every):
            return task
        with self.autocast():
            return self.tasks.cycle(task, randoms, lambda pictures: self.encoder(pictures, self.generator))

    def terms(self, task: Task, judge: nn.Module | None) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of the loss by the names of their weights, and the pictures drawn [N, 3, R, R]."""
        tokens = None
        if self.blind:
            with self.autocast():
                w_plus = self.encoder.codes(task.seen)
            return {name: values.mean() for name, values in self.objective.codes(w_plus, task).items()}, task.wanted
        with self.autocast():
            if self.stage == "codes":
                w_plus = self.encoder.codes(task.seen)
            else:
                w_plus, tokens = self.encoder(task.seen, self.generator, self.looks())
            drawn = self.generator(w_plus if task.move is None else w_plus + task.move, tokens)
        found = self.objective.pictures(drawn, task.wanted, self.window())
        if self.stage != "tokens":
            found |= self.objective.codes(w_plus, task)
        if tokens is not None and tokens.own:
            found |= self.objective.residual(tokens)
        terms = {name: values.mean() for name, values in found.items()}
        if judge is not None:
            judge.requires_grad_(False)
            terms["adversarial"] = gan.generator_loss(judge(drawn))
        return terms, drawn

    def judge(self, judge: nn.Module, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Gradients of the discriminator, which tells pictures [N, 3, R, R] from what is drawn of them."""
        judge.requires_grad_(True)
        loss = gan.discriminator_loss(judge(fake), judge(real))
        report = {"discriminator": loss}
        if self.every(self.config.r1_every):
            report["r1"] = gan.r1(judge, real)
            loss = loss + report["r1"] * (self.config.r1_gamma / 2 * self.config.r1_every)
        (loss / self.config.accumulate).backward()
        return report

    def update(self, which: str) -> None:
        """Average the gradients of all processes, then step."""
        config, optimizer = self.config, self.optimizers[which]
        start, end = self.span
        progress = min(1.0, (self.seen - start + config.batch / 2) / (end - start))
        grads = {p: p.grad for p in self.learning[which].parameters() if p.grad is not None}
        flat = torch.cat([g.flatten() for g in grads.values()])
        if self.world > 1:
            flat = self.accelerator.reduce(flat, "mean")
        torch.nan_to_num_(flat, nan=0.0, posinf=0.0, neginf=0.0)
        flat *= config.clip / flat.norm().clamp_min(config.clip)
        for p, g in zip(grads, flat.split([p.numel() for p in grads]), strict=True):
            p.grad = g.view_as(p)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(progress, config.warmup)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def track(self, moving: str) -> None:
        """Move the average towards the encoder; its half-life grows with the stage."""
        halflife = min(self.config.ema_halflife, self.config.ema_ramp * (self.seen - self.span[0]))
        decay = 0.5 ** (self.config.batch / max(halflife, 1e-8))
        average, net = self.average.get_submodule(moving), self.learning[moving]
        for a, p in zip(average.parameters(), net.parameters(), strict=True):
            a.lerp_(p, 1.0 - decay)
        for own, new in zip(average.buffers(), net.buffers(), strict=True):
            own.copy_(new)

    # -- the run ----------------------------------------------------------------------------------------------------

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Everything that has a state."""
        return {**self.learning, "average": self.average}

    def save(self, path: Path) -> None:
        """Everything a run needs."""
        state = {"seen": self.seen, "config": asdict(self.config), "base": fingerprint(self.generator).digest}
        checkpoint.write(path, self.networks, self.optimizers, state)

    def load(self, path: Path) -> None:
        """Continue the run saved at ``path``.

        Raises:
            ConfigError: it trains another network, or one for another generator.
            ModelFileError: it is damaged.
        """
        tensors, state = checkpoint.read(path)
        own, saved = json.loads(json.dumps(self.config.network())), state.get("config", {})
        if other := [name for name, value in own.items() if saved.get(name, value) != value]:
            raise ConfigError(f"The run at {path} has other settings of the network: {', '.join(other)}. {ANEW}")
        if state.get("base", base := fingerprint(self.generator).digest) != base:
            raise ConfigError(f"The run at {path} is for another generator. {ANEW}")
        checkpoint.load_networks(tensors, self.networks)
        self._take_coordinates(self.average)
        self.seen = state["seen"]
        for name, optimizer in self.optimizers.items():
            checkpoint.load_optimizer(tensors, name, self.learning[name], optimizer)

    def start_from(self, encoder: Encoder) -> None:
        """Take over the first stage of an encoder; a one-stage run may begin with one that reads codes alone.

        Raises:
            ModelFileError: its first stage is another network.
            BaseMismatchError: it reads codes of another generator, and would stay as it is.
        """
        base = fingerprint(self.generator)
        if self.config.stages == "two" and not self.config.w_pictures and encoder.config.base is not None:
            check_base(encoder.config.base, base, what="The encoder to start from")
        try:
            for own in (self.encoder, self.average):
                own.first.load_state_dict(self._beside_tokens(own.first, encoder.first))
        except RuntimeError as error:
            text = " ".join(str(error).split())[:200]
            raise ModelFileError(f"The first stage of that encoder is another network: {text}") from error
        if encoder.config.base is None or is_related(encoder.config.base, base):
            self._take_coordinates(encoder)

    def _beside_tokens(self, own: Reader, first: Reader) -> dict[str, Tensor]:
        """The state of a first stage; where it has no tokens and its own has, these are those of the own."""
        if self.config.stages == "one" and not first.start(1):
            start = copy.deepcopy(own)
            start.learn_from(first)
            fresh = {name: x for name, x in start.state_dict().items() if ".tokens." in name or "queries" in name}
            return first.state_dict() | fresh  # what does not fit is told by whoever loads it
        return first.state_dict()

    def _take_coordinates(self, encoder: Encoder) -> None:
        """Those in which its codes are: where w varies alike in all directions, rounding decides which axes it has."""
        for own in (self.encoder, self.average):
            own.w_avg.copy_(encoder.w_avg)
            own.basis.copy_(encoder.basis)

    def run(self, progress: Progress | None = None) -> None:
        """Train to the end; an exception of ``progress`` stops the run after its state has been saved."""
        config, out, main = self.config, Path(self.config.out), self.accelerator.is_main_process
        out.mkdir(parents=True, exist_ok=True)
        if main:
            runlog.rewind(out, self.seen)
        stream = batches(
            self.pictures,
            len(self.pairs(0)),
            seed=config.seed,
            position=self.seen // 2,
            rank=self.accelerator.process_index,
            world=self.world,
            flip=config.flip,
        )
        sums: dict[str, list[float]] = {}
        last, saved = time.monotonic(), self.seen
        try:
            while self.seen < config.total:
                line: dict[str, Any] = {"stage": self.stage}
                report = self.step(stream)
                for key, value in report.items():
                    sums.setdefault(key, []).append(value)
                if main and self.every(50):
                    rate = round(50 * config.batch / (time.monotonic() - last), 2)
                    means = {key: round(sum(v) / len(v), 5) for key, v in sums.items()}
                    runlog.append(out, {**line, "seen": self.seen, "rate": rate, **means})
                    sums, last = {}, time.monotonic()
                if main:
                    self.look(line)
                if main and self.due(config.save_every):
                    self.save(out / "state.safetensors")
                    saved = self.seen
                if progress is not None:
                    progress(self.seen, config.total, report)
        finally:
            if main and saved != self.seen:
                self.save(out / "state.safetensors")
        self.accelerator.wait_for_everyone()
        if main:
            done = self.average.without_tokens() if config.stages == "two" and not config.pictures else self.average
            done.save_pretrained(out / "encoder")

    def look(self, line: Mapping[str, Any]) -> None:
        """Figures and a sheet, where they are due."""
        config, nets = self.config, (self.average, self.generator)
        if self.held_out is not None and config.validation and self.due(config.validate_every):
            pictures = sheet(self.held_out, config.validation).to(self.device)
            found = figures(*nets, pictures, self.objective)
            runlog.append(Path(config.out), {**line, "seen": self.seen, **found})
        if self.due(config.grid_every):
            pictures = sheet(self.held_out or self.pictures, 8).to(self.device)
            save_sheet(*nets, pictures, Path(config.out) / "grids" / f"{self.seen:08d}.png")

    def due(self, interval: int) -> bool:
        """Whether an interval has passed, or the run is over."""
        return self.seen % interval < self.config.batch or self.seen >= self.config.total


def train_encoder(config: EncoderTraining, progress: Progress | None = None) -> EncoderTrainer:
    """Train for the generator of ``config.model`` on ``config.data``; a run found in ``config.out`` is continued.

    Several processes under ``accelerate launch`` or ``torchrun`` share each batch.

    Raises:
        ModelNotFoundError: no generator there; or no discriminator, where the adversarial term needs one.
        PictureError: no pictures at ``config.data``.
        ConfigError: a value that cannot be.
        MissingDependencyError: accelerate, timm or the perceptual distance is not installed.
        ModelFileError: the state in ``config.out`` is damaged or of another network.
    """
    accelerator = processes.accelerator()
    generator = Generator.from_pretrained(config.model)
    size = generator.config.resolution
    trainer = EncoderTrainer(
        config,
        generator,
        open_pictures(config.data, size),
        _held_out(config, size),
        perceptual=Perceptual.load().to(accelerator.device) if config.perceptual else None,
        features=_features(config, accelerator.device),
        discriminator=Discriminator.from_pretrained(config.model) if config.adversarial else None,
        accelerator=accelerator,
    )
    state = Path(config.out) / "state.safetensors"
    if state.exists():
        trainer.load(state)
    elif config.start_from:
        trainer.start_from(Encoder.from_pretrained(config.start_from))
    trainer.run(progress)
    return trainer


def _features(config: EncoderTraining, device: torch.device) -> Features | None:
    if not config.features or not config.feature_model:
        return None
    from ..attributes import AttributeNet

    return AttributeNet.from_pretrained(config.feature_model).requires_grad_(False).to(device).features


def _held_out(config: EncoderTraining, size: int) -> Pictures | None:
    if config.validate:
        return _validation(config.validate, size)
    try:
        return open_pictures(config.data, size, "val")
    except ConfigError:  # these pictures know no splits
        return None


def _validation(source: str, size: int) -> Pictures:
    """The split "val"; everything, where the source knows no splits. Raises ConfigError if it has others alone."""
    try:
        return open_pictures(source, size, "val")
    except ConfigError:
        everything = open_pictures(source, size, None)
        if len(open_pictures(source, size, "train")) < len(everything):
            raise
        return everything
