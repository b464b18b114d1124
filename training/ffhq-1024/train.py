"""Train the encoder of ffhq-1024 against time, on one accelerator or, as a trial, on a CPU.

    python train.py --data data --out out --seconds 540 --resume earlier --phases pictures:0.4,tokens:0.6

Phases: "latent" learns w+ of drawn faces by the error of w+ alone, "pictures" also by the losses of what is drawn, and
with real photos, "tokens" the second stage, with the first one frozen. See README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from degrade import degrade, occlude, recolour, recrop, uniform
from objective import SIDE, Objective, filled
from parts import read_parts, write_parts
from PIL import Image
from torch import Tensor, nn

from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.encoder.heads import ScaledLinear
from refinestyle_hub.encoder.refinement import refine_tokens
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.runtime.allocator import keep_memory
from refinestyle_hub.runtime.bf16 import in_bf16
from refinestyle_hub.tokens.batch import TokenBatch
from refinestyle_hub.tokens.layer_tokens import LayerTokens
from refinestyle_hub.train.encoder_objective import residual_norm


TOKEN_LAYERS = ("b16.*", "b32.*", "b64.*", "b128.*", "b256.*")
WEIGHTS = {"l2": 0.8, "lpips": 0.8, "latent": 0.5, "spread": 0.02, "norm": 0.01}
PHASES = {"latent": "first", "pictures": "first", "tokens": "second"}  # and the stage that learns in each
EVALUATED = 32  # pictures of each kind


class Sampler:
    """Pictures [N, 3, 256, 256] to learn from, all made on the device: drawn faces with their w+, and real photos."""

    def __init__(self, generator: Generator, encoder: Encoder, data: Path) -> None:
        self.generator, self.basis, self.device = generator, encoder.basis, generator.device
        paths = sorted((data / "photos").glob("*.jpg"))
        photos = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths])
        held_out = torch.zeros(len(photos), dtype=torch.bool)
        held_out[::9] = True  # never learnt from
        photos = photos.permute(0, 3, 1, 2).to(self.device)
        self.held_out = photos[held_out.to(self.device)][:EVALUATED].float() / 127.5 - 1
        self.photos = photos[~held_out.to(self.device)]
        self.stats = generator.kernel_stats()

    def w_plus(self, n: int) -> Tensor:
        """[n, L, D]: truncations of 0.5 to 1, style mixing in 40 %, noise on the codes of 35 %."""
        one, other = self.generator.sample(2 * n).chunk(2)
        mean, count = self.generator.mean_latent, self.generator.num_ws
        cut = torch.where(uniform(one) < 0.4, torch.randint(1, count, (n,), device=self.device), count)
        w = torch.where((torch.arange(count, device=self.device) < cut[:, None])[..., None], one, other)
        w = mean.lerp(w, 0.5 + 0.5 * uniform(w, 1, 1))
        size = torch.where(uniform(w, 1, 1) < 0.35, 0.25 * uniform(w, 1, 1), torch.zeros_like(w[:, :1, :1]))
        return w + size * torch.randn_like(w) @ self.basis

    def tokens(self, n: int) -> TokenBatch:
        """Random residuals of two tokens in 40 % of the layers, of a strength for each picture."""
        strength, own = 0.5 * torch.rand(n, 1, 1, device=self.device), {}
        for name, (spec, _, _) in self.stats.items():
            if spec.role == "conv" and spec.kernel == 1:
                pre = torch.zeros(n, 2, dtype=torch.bool, device=self.device)
                share = strength * (torch.rand(n, 1, 1, device=self.device) < 0.4)
                p = torch.randn(n, 2, spec.outputs, device=self.device) * self.stats[name].unit(pre)[..., None] * share
                q = torch.randn(n, 2, spec.inputs, device=self.device) / math.sqrt(spec.inputs)
                own[name] = LayerTokens(p, q, None, pre)
        return TokenBatch(n, own)

    @torch.no_grad()
    def draw(self, w: Tensor, tokens: TokenBatch | None = None) -> Tensor:
        with in_bf16(self.device):
            return self.generator(w, tokens, resolution=SIDE).float().clamp(-1, 1)

    def real(self, n: int) -> Tensor:
        """Photos, mirrored and with other colours."""
        x = self.photos[torch.randint(len(self.photos), (n,), device=self.device)].float() / 127.5 - 1
        return recolour(recrop(x, 0.012, 0.012, 0.01, flip=0.5), 0.5)


class Run:
    """Two stages, their averages, and one optimiser each."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.began = args, time.time()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(args.seed)
        generator = Generator.from_pretrained(args.data / "generator").to(self.device)
        self.generator = generator.requires_grad_(False).eval()
        self.encoder = Encoder.for_generator(
            self.generator, size=SIDE, backbone="tf_efficientnet_lite0", strides=(8, 16, 32), width=256, heads=4,
            layers=TOKEN_LAYERS, num_iters=args.num_iters,
            gradient_feedback=True, identity_feedback=args.identity_feedback,
        ).to(self.device)  # fmt: skip
        self._start()
        self.average = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.objective = Objective(self.generator, self.encoder, args.data, args.visibility)
        self.sampler = Sampler(self.generator, self.encoder, args.data)
        self.optimizers = {name: self._optimizer(name) for name in ("first", "second")}
        self.phase, self.steps, self.seen = "", 0, 0
        w = self.generator.mean_latent.lerp(self.generator.sample(EVALUATED, torch.Generator().manual_seed(7)), 0.85)
        self.known = w[: args.evaluated]

    def _start(self) -> None:
        """Weights of a checkpoint; what it lacks begins with ImageNet's backbone, and the second with the first."""
        given = read_parts(self.args.resume) if self.args.resume else {}
        own = self.encoder.state_dict()
        if given:
            own |= {name: tensor for name, tensor in given.items() if name in own}
            self.encoder.load_state_dict(own)
        else:
            filled(self.encoder.first.backbone.body, self.args.data / "backbone.safetensors")
            self.encoder.first.backbone.body.requires_grad_(True)
        if self.encoder.second is not None and not any(name.startswith("second.") for name in given):
            self.encoder.second.init_from(self.encoder.first)

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        """Token heads are divided by their width: their weights need a rate of their own to move as far."""
        stage, args = getattr(self.encoder, name), self.args
        divided = {id(module.weight) for module in stage.modules() if isinstance(module, ScaledLinear)}
        heads = [p for p in stage.parameters() if id(p) in divided]
        others = [p for p in stage.parameters() if id(p) not in divided]
        rate = args.lr if name == "first" else args.tokens_lr
        groups = [{"params": others, "lr": rate}, {"params": heads, "lr": args.head_lr}]
        groups = [group | {"peak": group["lr"]} for group in groups if group["params"]]
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4, fused=self.device.type == "cuda")

    def log(self, **facts: Any) -> None:
        """A line of JSON on the screen and in log.jsonl."""
        plain = {k: round(float(v), 5) if isinstance(v, float | Tensor) else v for k, v in facts.items()}
        line = json.dumps({"t": round(time.time() - self.began, 1)} | plain)
        print(line, flush=True)
        with (self.args.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    # --- One step ---

    def codes(self, encoder: Encoder, seen: Tensor) -> Tensor:
        """w+ [N, L, D] by the first stage."""
        with in_bf16(self.device):
            found, _ = encoder.first(seen.contiguous(memory_format=torch.channels_last))
        return encoder.w_avg + found.float() @ encoder.basis

    def refine(self, encoder: Encoder, seen: Tensor, w: Tensor) -> TokenBatch:
        """Tokens by the second stage, from what w+ draws."""
        assert encoder.second is not None
        start = encoder.second.initial_tokens(len(seen))
        with in_bf16(self.device):
            found = refine_tokens(
                encoder.second, self.generator, self.objective.feedback, seen, w, start, self.args.num_iters
            )
        return TokenBatch(len(seen), found)

    def terms(self, n: int) -> dict[str, Tensor]:
        """Each loss of a batch of n pictures, [M]."""
        sampler, objective, stage = self.sampler, self.objective, self.encoder
        if self.phase == "latent":
            known = sampler.w_plus(n)
            w = self.codes(stage, degrade(occlude(recolour(sampler.draw(known), 0.25), 0.1)))
            return {"latent": objective.latent(w, known)}
        if self.phase == "pictures":
            real, known = n // 5, sampler.w_plus(n - n // 5)
            wanted = torch.cat([sampler.real(real), sampler.draw(known)])
            w = self.codes(stage, degrade(occlude(recolour(wanted, 0.12), 0.08)))
            tokens, extra = None, {"latent": objective.latent(w[real:], known), "spread": objective.spread(w)}
        else:
            real, plain = n // 2, n // 4  # photos are what tokens are for
            refined = sampler.draw(sampler.w_plus(n - real - plain), sampler.tokens(n - real - plain))
            wanted = torch.cat([sampler.real(real), sampler.draw(sampler.w_plus(plain)), refined])
            wanted = occlude(recolour(wanted, 0.5), 0.25)
            seen = degrade(wanted)
            with torch.no_grad():
                w = self.codes(stage, seen)
            tokens = self.refine(stage, seen, w)
            extra = {"norm": residual_norm(tokens, sampler.stats)}
        with in_bf16(self.device):
            rendered = self.generator(w, tokens, resolution=SIDE)
        found = objective.pictures(rendered, wanted)
        return found | extra | {"real_identity": found["identity"][:real].detach()}

    def step(self, share: float) -> dict[str, Tensor]:
        """One update; ``share`` of the time of the phase is over."""
        name, args = PHASES[self.phase], self.args
        n = {"latent": args.latent_batch, "pictures": args.batch, "tokens": args.tokens_batch}[self.phase]
        stage, optimizer = getattr(self.encoder, name), self.optimizers[name]
        rate = min(1.0, 0.01 + 20 * share) * (0.04 + 0.48 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        terms = self.terms(n)
        weights = WEIGHTS | {"identity": args.identity, "features": args.features}
        if self.phase == "latent":
            weights["latent"] = 1.0
        # squared: nothing pulls at a person who is found, and what is far counts most
        parts = {k: x.square() if k == "identity" else x for k, x in terms.items() if k in weights}
        loss = sum((weights[k] * x.mean() for k, x in parts.items()), torch.zeros([], device=self.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(stage.parameters(), 1.0 if name == "second" else 2.0)
        if torch.isfinite(norm):
            optimizer.step()
        decay = min(0.998, (1 + self.steps) / (10 + self.steps))
        own, average = list(stage.parameters()), list(getattr(self.average, name).parameters())
        torch._foreach_lerp_(average, [p.detach() for p in own], 1 - decay)
        self.steps, self.seen = self.steps + 1, self.seen + n
        return {k: x.detach().mean() for k, x in terms.items()} | {"gradient": norm, "rate": torch.tensor(rate)}

    # --- The run ---

    @torch.no_grad()
    def evaluate(self) -> None:
        """Metrics and a grid (pictures, w+, tokens) of the average: drawn faces, and photos that are held out."""
        drawn = torch.cat([self.sampler.draw(w) for w in self.known.split(16)])
        for kind, pictures in (("photos", self.sampler.held_out[: self.args.evaluated]), ("drawn", drawn)):
            metrics: dict[str, Any] = {}
            w = torch.cat([self.codes(self.average, x) for x in pictures.split(16)])
            pairs = list(zip(pictures.split(16), w.split(16), strict=True))
            plain = torch.cat([self.sampler.draw(codes) for _, codes in pairs])
            full = torch.cat([self.sampler.draw(codes, self.refine(self.average, x, codes)) for x, codes in pairs])
            for name, rendered in (("w_plus", plain), ("tokens", full)):
                for key, x in self.objective.pictures(rendered, pictures, training=False).items():
                    metrics[f"{name}_{key}"] = x.median() if key == "identity" else x.mean()
            if kind == "drawn":
                metrics["latent"] = self.objective.latent(w, self.known).mean()
            self.log(event="evaluation", on=kind, **metrics)
            rows = [torch.cat(list(row[:12]), dim=2) for row in (pictures, plain, full)]
            grid = ((torch.cat(rows, dim=1) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
            Image.fromarray(grid).save(self.args.out / f"grid-{kind}.jpg", quality=88)

    def run(self) -> None:
        """All phases, for as long as there is time; a checkpoint after each and every 75 seconds."""
        args = self.args
        total = args.seconds - (time.time() - self.began) - args.reserve
        shares = [float(share) for _, share in args.phases]
        ends = np.cumsum(shares) / sum(shares) * total
        began = saved = time.time()
        for (self.phase, _), start, end in zip(args.phases, [0.0, *ends[:-1]], ends, strict=True):
            self.log(event="phase", phase=self.phase, seen=self.seen)
            if self.phase == "tokens":  # on what ships: the average
                self.encoder.first.load_state_dict(self.average.first.state_dict())
            sums, logged = {}, time.time()
            while (now := time.time() - began) < end:
                for key, x in self.step((now - start) / max(end - start, 1e-9)).items():
                    sums[key] = [*sums.get(key, []), x.to(self.device)]
                if time.time() - logged > args.log_every:
                    means = {key: torch.stack(x).mean() for key, x in sums.items()}
                    ms = 1000 * (time.time() - logged) / len(sums["gradient"])
                    self.log(phase=self.phase, step=self.steps, seen=self.seen, ms=ms, **means)
                    sums, logged = {}, time.time()
                if time.time() - saved > 75:
                    write_parts(self.average.state_dict(), args.out)
                    saved = time.time()
            if self.phase == "pictures" and self.encoder.second is not None and not args.resume:
                for net in (self.encoder, self.average):
                    net.second.init_from(self.average.first)
            self.evaluate()
        write_parts(self.average.state_dict(), args.out)
        self.log(event="done", seen=self.seen)


def phases(text: str) -> list[tuple[str, float]]:
    """``pictures:0.4,tokens:0.6`` -> pairs."""
    found = [(name, float(share)) for name, share in (part.split(":") for part in text.split(","))]
    if unknown := {name for name, _ in found} - PHASES.keys():
        raise argparse.ArgumentTypeError(f"There is no phase {sorted(unknown)}: {', '.join(PHASES)}.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py made")
    parser.add_argument("--out", type=Path, required=True, help="folder for parts, log.jsonl and grids")
    parser.add_argument("--seconds", type=float, required=True, help="all that the run may take")
    parser.add_argument("--reserve", type=float, default=14.0, help="seconds of it for the last evaluation and files")
    parser.add_argument("--resume", type=Path, help="folder of parts, or of an encoder, to start from")
    parser.add_argument("--phases", type=phases, default=phases("latent:0.2,pictures:0.4,tokens:0.4"))
    parser.add_argument("--lr", type=float, default=3e-4, help="of the first stage")
    parser.add_argument("--tokens-lr", type=float, default=1e-4, help="of the second stage")
    parser.add_argument("--head-lr", type=float, default=1e-3, help="of the token heads' weights")
    parser.add_argument("--identity", type=float, default=2.0, help="weight of the squared identity distance")
    parser.add_argument("--identity-feedback", type=float, default=0.2, help="weight of it in the second's feedback")
    parser.add_argument("--features", type=float, default=0.1, help="weight of the distance in the face's features")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--latent-batch", type=int, default=128)
    parser.add_argument("--tokens-batch", type=int, default=48)
    parser.add_argument("--num-iters", type=int, default=2, help="refinement iterations of the second stage")
    parser.add_argument("--visibility", type=int, default=512, help="drawn faces that say which codes show")
    parser.add_argument("--evaluated", type=int, default=EVALUATED, help="pictures of each kind")
    parser.add_argument("--log-every", type=float, default=8.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=Path, help="also save the average as an encoder folder")
    args = parser.parse_args()
    keep_memory()
    if args.batch < 5 or args.tokens_batch < 4:  # of which a fifth and a half are photos
        parser.error("--batch must be 5 or more, and --tokens-batch 4 or more, so that each has a photo")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    run.run()
    if args.export:
        run.average.save_pretrained(args.export, "fp16")


if __name__ == "__main__":
    main()
