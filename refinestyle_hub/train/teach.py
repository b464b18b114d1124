"""The scenes of the anchors as teachers: of the mapping network before the run, of the discriminator during it.

A code z (``anchors.py``) holds its scene, but folded: a hair style is a region of z with curved borders. A mapping
network that has to find these borders through pictures takes millions of them. Asked directly it takes a minute: a
linear readout of w must name the hair style and give the numbers of the scene. Then each style of the synthesis finds
what it needs along straight lines in w, which is also what editing wants.

A discriminator that must read the scene off true pictures looks at glasses and hair, not only at what is easiest to
tell apart, and passes that on to the generator (as the auxiliary classifier of Odena et al. 2017, arXiv 1610.09585).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators.stylegan2 import Dense, Generator, MappingNetwork
from .anchors import Scenes


__all__ = ["SceneReader", "refit_styles", "teach_mapping"]


class SceneReader(nn.Module):
    """Reads the scene off features [N, inputs]."""

    mean: Tensor
    deviation: Tensor
    doubt: Tensor  # [K] nats, entropy of a column that is 0 or 1

    def __init__(self, inputs: int, scenes: Scenes) -> None:
        super().__init__()
        self.numbers, self.flags, self.words = scenes.columns()
        self.register_buffer("mean", scenes.vectors.mean(0), persistent=False)
        self.register_buffer("deviation", scenes.vectors.std(0).clamp_min(1e-6), persistent=False)
        share = (scenes.vectors > scenes.vectors.mean(0)).float().mean(0)
        doubt = torch.special.entr(share) + torch.special.entr(1.0 - share)
        self.register_buffer("doubt", doubt.clamp_min(1e-6), persistent=False)
        self.word_doubts = [torch.special.entr(share[group]).sum().item() for group in self.words]
        self.out = Dense(inputs, scenes.vectors.shape[1])

    def forward(self, features: Tensor) -> Tensor:
        told: Tensor = self.out(features)
        return told

    def losses(self, features: Tensor, scenes: Tensor) -> dict[str, Tensor]:
        """How wrong the reading of features [N, inputs] is about ``scenes`` [N, K], by kind of column.

        Each relative to what the best guess that looks at nothing would lose: 1 for having learnt nothing, 0 for
        certainty. So rare flags, such as glasses, count like others. Numbers: squared error over variance; flags and
        words: cross-entropy over entropy.
        """
        told, losses = self(features), {}
        if self.numbers:
            wanted = ((scenes - self.mean) / self.deviation)[:, self.numbers]
            losses["numbers"] = (told[:, self.numbers] - wanted).square().mean()
        if self.flags:
            wanted = (scenes > self.mean)[:, self.flags].float()
            surprise = F.binary_cross_entropy_with_logits(told[:, self.flags], wanted, reduction="none")
            losses["flags"] = (surprise / self.doubt[self.flags]).mean()
        if self.words:
            asked = [F.cross_entropy(told[:, group], scenes[:, group].argmax(1)) for group in self.words]
            losses["words"] = torch.stack([a / d for a, d in zip(asked, self.word_doubts, strict=True)]).mean()
        return losses


def teach_mapping(
    mapping: MappingNetwork,
    codes: Tensor,
    scenes: Scenes,
    steps: int,
    seed: int = 0,
    batch: int = 512,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Start ``mapping`` over near the identity and train it until w tells the scene. Returns the last losses.

    Args:
        codes: [2 N, K] of the ``scenes``, K at most z_dim; the other inputs are drawn from N(0, I).
        steps: of Adam, each with ``batch`` codes.
    """
    layers: list[Dense] = [getattr(mapping, f"fc{i}") for i in range(mapping.depth)]
    z_dim = layers[0].weight.shape[1]
    rng = torch.Generator().manual_seed(seed)
    last: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        with torch.no_grad():
            for layer in layers:
                outputs, inputs = layer.weight.shape
                start = torch.eye(outputs, inputs) * math.sqrt(inputs) + 0.1 * torch.randn(outputs, inputs)
                layer.weight.copy_(start / layer.lr)
                layer.bias.zero_()
        reader = SceneReader(layers[-1].weight.shape[0], scenes).to(codes.device)
        optimizer = torch.optim.Adam(
            [{"params": mapping.parameters(), "lr": 1e-3 / layers[0].lr}, {"params": reader.parameters(), "lr": 1e-2}],
            betas=(0.9, 0.99),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        )
        for step in range(steps):
            rows = torch.randint(len(codes), (batch,), generator=rng)
            free = torch.randn(batch, z_dim - codes.shape[1], generator=rng).to(codes.device)
            w = mapping(torch.cat([codes[rows], free], dim=1))
            losses = reader.losses(w, scenes.vectors[rows])
            # borders need not be sharp to the last code: numbers come first
            loss = sum((1.0 if key == "numbers" else 0.1) * value for key, value in losses.items())
            optimizer.zero_grad()
            (loss + 1e-3 * w.square().mean()).backward()
            optimizer.step()
            schedule.step()
            last = {key: value.item() for key, value in losses.items()}
            if progress is not None and step % 100 == 0:
                progress(step, float(loss))
    with torch.no_grad():
        free = torch.randn(len(codes), z_dim - codes.shape[1], generator=rng).to(codes.device)
        w = mapping(torch.cat([codes, free], dim=1))
        scale = w.square().mean().rsqrt()  # leaky ReLU keeps scales: w gets unit mean square
        layers[-1].weight.mul_(scale)
        layers[-1].bias.mul_(scale)
        mapping.w_avg.copy_(w.mean(0) * scale)
    return last


@torch.no_grad()
def refit_styles(generator: Generator, before: MappingNetwork, z: Tensor) -> None:
    """Give each layer the styles for the new mapping's w that come nearest to those it had with ``before``.

    Least squares over the codes ``z`` [N, z_dim], of which some thousands are needed.
    """
    old, new = before(z), generator.mapping(z)
    inputs = torch.cat([new, new.new_ones(len(new), 1)], dim=1).double()
    gram = inputs.t() @ inputs + 1e-3 * len(z) * torch.eye(inputs.shape[1], device=z.device)
    for name in generator.layers:
        affine = generator.layer(name).affine
        solution = torch.linalg.solve(gram, inputs.t() @ affine(old).double()).t().float()  # [I, w_dim + 1]
        affine.weight.copy_(solution[:, :-1] * math.sqrt(affine.weight.shape[1]) / affine.lr)
        affine.bias.copy_(solution[:, -1] / affine.lr)
