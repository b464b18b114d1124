"""Train a generator and its discriminator (Karras et al. 2020), alone or with anchors (``anchors.py``).

One generator batch serves both steps: its pictures are judged once, the discriminator's gradient with respect to them
goes on into the generator, its gradient with respect to the weights moves the discriminator.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DiscriminatorConfig, GeneratorConfig
from ..discriminator import Discriminator
from ..generator import Generator


__all__ = ["GeneratorTraining", "Trainer"]


@dataclass(frozen=True)
class GeneratorTraining:
    """Everything that decides a run. Lengths of phases and half-lives are counted in pictures."""

    resolution: int = 128
    channels: Mapping[int, int] = field(default_factory=dict)
    z_dim: int = 256
    mapping_layers: int = 4
    pictures: int = 600_000  # how long to train
    batch: int = 32  # over all processes
    learning_rate: float = 2.5e-3
    cooldown: int = 80_000  # the last pictures, at a fifth of the learning rate
    warmup: int = 2_000  # linear ramp after every start, since a restarted optimiser has no moments
    mixing: float = 0.9  # probability of style mixing
    r1_gamma: float = 0.5
    r1_every: int = 16  # steps
    path_weight: float = 0.0  # path length regularisation; 0 leaves it out
    path_every: int = 8
    ema_halflife: int = 10_000
    ema_ramp: float = 0.1
    flip: bool = True
    translate: int = 0  # largest random translation in pixels, for small sets
    seed: int = 0
    # anchors: only with known scenes
    adversarial_from: int = 0  # before, the generator only redraws its anchors
    anchored: float = 0.0  # share of each batch that redraws anchors once the discriminator plays
    pyramid_weight: float = 10.0
    feature_weight: float = 1.0
    # how
    compile: bool = False
    precision: str = "no"  # accelerate's: no, bf16, fp16
    grid_every: int = 10_000
    save_every: int = 10_000


def pyramid_loss(x: Tensor, y: Tensor) -> Tensor:
    """L1 distance of Laplacian pyramids (Bojanowski et al. 2018, arXiv 1707.05776, eq. 3): sharper than plain L1."""
    loss, d = x.new_zeros([]), x - y  # the pyramid is linear, so the difference has the difference's pyramid
    while d.shape[-1] > 8:
        low = F.avg_pool2d(d, 2)
        loss = loss + (d - F.interpolate(low, scale_factor=2, mode="bilinear")).abs().mean()
        d = low
    return loss + d.abs().mean()


def translate(x: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """Shift each picture of [N, C, H, W] by up to ``pixels``, reflecting the border (DiffAugment, Zhao et al. 2020)."""
    if pixels == 0:
        return x
    h, w = x.shape[-2:]
    padded = F.pad(x, (pixels,) * 4, mode="reflect")
    at = torch.randint(0, 2 * pixels + 1, (len(x), 2), generator=rng).tolist()
    return torch.stack([p[:, i : i + h, j : j + w] for p, (i, j) in zip(padded, at, strict=True)])


class Trainer:
    """A run that can be stopped after any step and continued as if it had not been.

    All randomness of a step is derived from (seed, step, process), so nothing but tensors and counters is saved.
    """

    def __init__(
        self,
        config: GeneratorTraining,
        pictures: Tensor,  # uint8 [N, 3, H, W]
        out: str | Path,
        codes: Tensor | None = None,  # [2 N, K]: anchors of the pictures, then of their mirror images
        accelerator: Any = None,
    ) -> None:
        if accelerator is None:
            from accelerate import Accelerator

            accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=config.precision)
        self.accelerator, self.config, self.out = accelerator, config, Path(out)
        self.pictures, self.codes = pictures, codes
        torch.manual_seed(config.seed)
        shape = GeneratorConfig(
            config.resolution, config.z_dim, config.z_dim, config.mapping_layers, dict(config.channels)
        )
        device = accelerator.device
        self.generator = Generator(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Generator(shape).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.average.load_state_dict(self.generator.state_dict())
        self.discriminator = Discriminator(DiscriminatorConfig(config.resolution, shape.channels)).to(
            device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=0.0, betas=(0.0, 0.99), eps=1e-8),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), lr=0.0, betas=(0.0, 0.99), eps=1e-8),
        }
        self.synthesis: Callable[..., Tensor] = self.generator.synthesis
        if config.compile:
            self.synthesis = torch.compile(self.generator.synthesis)
        self.seen = 0  # pictures
        self.started_at = 0
        self.path_mean = torch.zeros([], device=device)
        self.local_batch = config.batch // accelerator.num_processes

    # -- one step ---------------------------------------------------------------------------------------------------

    def rng(self, purpose: int) -> torch.Generator:
        step = self.seen // self.config.batch
        seed = ((self.config.seed * 1_000_003 + step) * 64 + self.accelerator.process_index) * 8 + purpose
        return torch.Generator().manual_seed(seed)

    def reals(self) -> tuple[Tensor, Tensor | None]:
        """Pictures in [-1, 1] and the codes of their anchors, each picture once in every epoch."""
        n = len(self.pictures)
        first = self.seen + self.accelerator.process_index * self.local_batch
        order = [self.permutation((first + i) // n)[(first + i) % n] for i in range(self.local_batch)]
        index = torch.tensor(order)
        x = self.pictures[index]
        flip = torch.rand(len(x), generator=self.rng(1)) < (0.5 if self.config.flip else 0.0)
        x = torch.where(flip[:, None, None, None], x.flip(3), x).float().div_(127.5).sub_(1.0)
        if x.shape[-1] != self.config.resolution:
            x = F.interpolate(x, size=(self.config.resolution,) * 2, mode="area")
        codes = None if self.codes is None else self.codes[index + flip.long() * n]
        device = self.accelerator.device
        x = x.to(device, memory_format=torch.channels_last)
        return x, None if codes is None else codes.to(device)

    def permutation(self, epoch: int) -> list[int]:
        cached: tuple[int, list[int]] | None = getattr(self, "_permutation", None)
        if cached is None or cached[0] != epoch:
            rng = torch.Generator().manual_seed(self.config.seed * 7919 + epoch)
            cached = (epoch, torch.randperm(len(self.pictures), generator=rng).tolist())
            self._permutation = cached
        return cached[1]

    def latents(self, n: int, rng: torch.Generator) -> Tensor:
        """w+ [n, L, w_dim] from the prior, with style mixing."""
        device = self.accelerator.device
        z = torch.randn(2, n, self.config.z_dim, generator=rng).to(device)
        layers = self.generator.config.num_layers
        cut = torch.randint(1, layers, (n,), generator=rng)
        cut[torch.rand(n, generator=rng) >= self.config.mixing] = layers
        w = self.generator.mapping(z.flatten(0, 1)).unflatten(0, (2, n))
        second = (torch.arange(layers)[None] >= cut[:, None]).to(device)
        return torch.where(second[:, :, None], w[1][:, None], w[0][:, None])

    def anchor_latents(self, codes: Tensor, rng: torch.Generator) -> Tensor:
        free = torch.randn(len(codes), self.config.z_dim - codes.shape[1], generator=rng).to(codes.device)
        w: Tensor = self.generator.mapping(torch.cat([codes, free], dim=1))
        return w[:, None].expand(-1, self.generator.config.num_layers, -1)

    def step(self) -> dict[str, float]:
        config, report = self.config, {}
        real, codes = self.reals()
        rng = self.rng(2)
        playing = self.seen >= config.adversarial_from
        n = self.local_batch
        anchors = 0 if codes is None else (round(config.anchored * n) if playing else n)
        parts = []
        if anchors and codes is not None:
            parts.append(self.anchor_latents(codes[:anchors], rng))
        if n > anchors:
            parts.append(self.latents(n - anchors, rng))
        w = torch.cat(parts)
        noise = self.generator.noise(n, rng)
        with self.accelerator.autocast():
            fake = self.synthesis(w, noise)

        # the generator's losses, as a gradient with respect to the pictures
        leaf = fake.detach().requires_grad_()
        wanted = leaf.new_zeros([])
        if anchors:
            rebuilt = pyramid_loss(leaf[:anchors], real[:anchors])
            wanted = wanted + config.pyramid_weight * rebuilt
            report["pyramid"] = rebuilt.item()
        if playing:
            shift = self.rng(3)
            with self.accelerator.autocast():
                maps = self.discriminator.features(translate(leaf, config.translate, shift))
                logits = self.discriminator.b4(maps[-1].float())
                real_maps = self.discriminator.features(translate(real, config.translate, self.rng(4)))
                real_logits = self.discriminator.b4(real_maps[-1].float())
            wanted = wanted + F.softplus(-logits).mean()
            if anchors and config.feature_weight and not config.translate:
                # Wang et al. 2018 (pix2pixHD, arXiv 1711.11585), section 3.2, relative to the features' size
                matching = sum(
                    (f[:anchors] - r[:anchors].detach()).abs().mean() / r[:anchors].detach().abs().mean()
                    for f, r in zip(maps, real_maps, strict=True)
                ) / len(maps)
                wanted = wanted + config.feature_weight * matching
                report["features"] = float(matching)
            report |= {"sign_real": real_logits.sign().mean().item(), "sign_fake": logits.sign().mean().item()}
        (gradient,) = torch.autograd.grad(wanted, leaf, retain_graph=playing)
        fake.backward(gradient)
        if config.path_weight and playing and self.every(config.path_every):
            report["path"] = self.path_length(rng)
        self.update("generator")

        if playing:
            loss = F.softplus(logits).mean() + F.softplus(-real_logits).mean()
            parameters = list(self.discriminator.parameters())
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = g
            report["discriminator"] = loss.item()
            if self.every(config.r1_every):
                report["r1"] = self.penalty(real)
            self.update("discriminator")

        with torch.no_grad():
            self.generator.mapping.w_avg.lerp_(self.reduced(w[:, 0].detach().float().mean(0)), 0.005)
        self.seen += config.batch
        self.track()
        return report

    def every(self, steps: int) -> bool:
        return (self.seen // self.config.batch) % steps == 0

    def penalty(self, real: Tensor) -> float:
        """R1 (Mescheder et al. 2018) on half of the batch, lazily."""
        x = real[: max(1, len(real) // 2)].detach().requires_grad_()
        (g,) = torch.autograd.grad(self.discriminator(x).sum(), x, create_graph=True)
        r1 = g.square().sum(dim=(1, 2, 3)).mean()
        (r1 * (self.config.r1_gamma / 2 * self.config.r1_every)).backward()
        return r1.item()

    def path_length(self, rng: torch.Generator) -> float:
        """Path length regularisation (Karras et al. 2020, section 3.2) on half of the batch."""
        n = max(1, self.local_batch // 2)
        w = self.latents(n, rng)
        picture = self.generator.synthesis(w, self.generator.noise(n, rng))
        y = torch.randn(picture.shape, generator=rng).to(picture.device) / math.sqrt(picture[0, 0].numel())
        (g,) = torch.autograd.grad((picture * y).sum(), w, create_graph=True)
        lengths = g.square().sum(dim=2).mean(dim=1).sqrt()
        self.path_mean = self.path_mean.lerp(lengths.detach().mean(), 0.01)
        loss = (lengths - self.path_mean).square().mean()
        (loss * self.config.path_weight * self.config.path_every).backward()
        return loss.item()

    def reduced(self, x: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return x
        y: Tensor = self.accelerator.reduce(x, "mean")
        return y

    def update(self, which: str) -> None:
        """Average the gradients of all processes, then step."""
        optimizer = self.optimizers[which]
        config = self.config
        lr = config.learning_rate * min(1.0, (self.seen - self.started_at + config.batch) / max(config.warmup, 1))
        if self.seen > config.pictures - config.cooldown:
            lr *= 0.2
        group = optimizer.param_groups[0]
        group["lr"] = lr
        # redrawing alone is plain regression, which likes momentum
        group["betas"] = (0.0 if self.seen >= config.adversarial_from else 0.9, 0.99)
        parameters = [p for p in group["params"] if p.grad is not None]
        if self.accelerator.num_processes > 1:
            flat = self.reduced(torch.cat([p.grad.flatten() for p in parameters]))
            for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.grad = g.view_as(p)
        for p in parameters:
            torch.nan_to_num_(p.grad, nan=0.0, posinf=1e5, neginf=-1e5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def track(self) -> None:
        halflife = min(self.config.ema_halflife, self.config.ema_ramp * self.seen)
        decay = 0.5 ** (self.config.batch / max(halflife, 1e-8))
        for a, p in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            a.lerp_(p, 1.0 - decay)
        self.average.mapping.w_avg.copy_(self.generator.mapping.w_avg)
        for a, p in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            a.copy_(p)

    # -- the run ----------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}

    def save(self, path: Path, dtype: torch.dtype = torch.float32, moments: bool = True) -> None:
        """One safetensors file with everything a run needs; without moments and in bf16 it is compact."""
        from safetensors.torch import save_file

        tensors = {
            f"{part}.{name}": t.to(dtype).contiguous()
            for part, net in self.networks().items()
            for name, t in net.state_dict().items()
        }
        if moments:
            for part, optimizer in self.optimizers.items():
                for name, p in self.networks()[part].named_parameters():
                    for key, value in optimizer.state[p].items():
                        tensors[f"{part}.{name}.{key}"] = value.contiguous()
        state = {"seen": self.seen, "path_mean": self.path_mean.item(), "config": asdict(self.config)}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"state": json.dumps(state)})
        temporary.replace(path)

    def load(self, path: Path, restart: bool = False) -> None:
        """Continue the run saved at ``path``.

        With ``restart`` only tensors that match are taken and the count begins at 0: a larger network starts from a
        smaller one, its new toRGB at zero.
        """
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
        for part, net in self.networks().items():
            own = net.state_dict()
            found = {name: tensors.get(f"{part}.{name}") for name in own}
            taken = {k: v.float() for k, v in found.items() if v is not None and v.shape == own[k].shape}
            if not restart and len(taken) != len(own):
                raise ValueError(f"{path} holds another network: {sorted(set(own) - set(taken))[:3]} do not match.")
            net.load_state_dict(taken, strict=not restart)
            if restart and part != "discriminator":
                for name, p in net.named_parameters():
                    if name not in taken and ".torgb.weight" in name:
                        nn.init.zeros_(p)
        if restart:
            return
        self.seen = self.started_at = state["seen"]
        self.path_mean.fill_(state["path_mean"])
        for part, optimizer in self.optimizers.items():
            for name, p in self.networks()[part].named_parameters():
                prefix = f"{part}.{name}"
                moments = {key: tensors.get(f"{prefix}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
                if all(value is not None for value in moments.values()):
                    optimizer.state[p] = moments
                    self.started_at = -(10**9)  # warm

    @torch.no_grad()
    def grid(self, path: Path, truncation: float = 1.0, side: int = 8) -> None:
        """An 8x8 sheet of fixed latents; with anchors the last two rows are pictures and their redrawings."""
        from PIL import Image

        z = torch.randn(side * side, self.config.z_dim, generator=torch.Generator().manual_seed(1))
        z = z.to(self.accelerator.device)
        rows = []
        for i in range(0, side * side, side):
            rows.append(self.average(self.average.map(z[i : i + side], truncation)))
        if self.codes is not None:
            index = torch.arange(side) * (len(self.pictures) // side)
            free = z[:side, self.codes.shape[1] :]
            again = torch.cat([self.codes[index].to(z.device), free], dim=1)
            rows[-1] = self.average(self.average.map(again))
            real = self.pictures[index].float() / 127.5 - 1
            rows[-2] = F.interpolate(real, size=(self.config.resolution,) * 2, mode="area").to(z.device)
        sheet = torch.cat([torch.cat(list(r), dim=2) for r in rows], dim=1)
        array = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    def run(self, on_step: Callable[[int, dict[str, float]], bool | None] | None = None) -> None:
        """Train to the end; ``on_step(seen, report)`` may return False to stop after saving."""
        config = self.config
        log = self.out / "log.jsonl"
        main = self.accelerator.is_main_process
        if main:
            self.out.mkdir(parents=True, exist_ok=True)
        sums: dict[str, list[float]] = {}
        last = time.monotonic()
        while self.seen < config.pictures:
            report = self.step()
            for key, value in report.items():
                sums.setdefault(key, []).append(value)
            more = on_step is None or on_step(self.seen, report) is not False
            steps = self.seen // config.batch
            if main and steps % 50 == 0:
                line = {k: round(sum(v) / len(v), 5) for k, v in sums.items()}
                line |= {"seen": self.seen, "rate": round(50 * config.batch / (time.monotonic() - last), 2)}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                sums, last = {}, time.monotonic()
            if main and self.seen % config.grid_every < config.batch:
                self.grid(self.out / "grids" / f"{self.seen:08d}.png")
            if main and (self.seen % config.save_every < config.batch or not more or self.seen >= config.pictures):
                self.save(self.out / "state.safetensors")
            if not more:
                break
