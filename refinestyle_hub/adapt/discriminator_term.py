"""The adversarial term: the shipped discriminator learns to tell the style's pictures from the samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..generators.discriminator import Conv, Discriminator
from ..losses.diffaugment import augment
from ..losses.gan import discriminator_loss, generator_loss
from ..runtime.optim import adam_state, load_adam_state
from .context import Context
from .settings import AdaptSettings


__all__ = ["Adversarial", "DomainDiscriminator"]

PENALTY_EVERY = 4  # steps, since the penalty costs as much as the rest (lazily, as Karras et al. 2020, section 3.1)


class DomainDiscriminator(nn.Module):
    """A copy of a discriminator with its fine blocks frozen (FreezeD: Mo et al. 2020, arXiv 2002.10964), and a second
    head that judges patches (Isola et al. 2017; on a pretrained body as in Ojha et al. 2021, section 3.2)."""

    def __init__(self, discriminator: Discriminator, frozen_above: int, seed: int) -> None:
        """Freeze the blocks that see maps of more than ``frozen_above`` pixels; ``seed`` starts the new head."""
        super().__init__()
        blocks = {r: discriminator.get_submodule(f"b{r}") for r in discriminator.resolutions}
        self.fine = nn.Sequential(*(copy.deepcopy(block) for r, block in blocks.items() if r > frozen_above))
        self.coarse = nn.Sequential(*(copy.deepcopy(block) for r, block in blocks.items() if r <= frozen_above))
        self.epilogue = copy.deepcopy(discriminator.b4)
        taken = [r for r in blocks if r > frozen_above]
        width = discriminator.config.channels[min(taken) // 2] if taken else 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patch = nn.Sequential(Conv(width, 64, 3), Conv(64, 1, 1, linear=True)).to(self.epilogue.out.weight)
        self.float().requires_grad_(True)
        self.fine.requires_grad_(False)

    def whole(self, maps: Tensor) -> Tensor:
        """Logits [N, 1] of pictures whose fine maps these are."""
        logits: Tensor = self.epilogue(self.coarse(maps))
        return logits

    def patches(self, maps: Tensor) -> Tensor:
        """Logits [N, h w] of their patches."""
        logits: Tensor = self.patch(maps)
        return logits.flatten(1)


class Adversarial:
    """Non-saturating loss of the samples against a ``DomainDiscriminator`` that learns alongside (Goodfellow 2014).

    It sees mirrored and moved pictures with holes, and no changed colours (``losses.diffaugment``). With few pictures
    the verdict on whole ones ends in copies of them, so it counts less than that on patches.
    """

    name = "adversarial"

    def __init__(self, discriminator: Discriminator, settings: AdaptSettings, start: float, seed: int) -> None:
        """The term rests until ``start``, a share of the run; ``seed`` starts the head that judges patches."""
        self.weight, self.shares = 1.0, {"whole": settings.adversarial, "patches": settings.patches}
        self.start, self.penalty = start, settings.penalty
        device = discriminator.b4.out.weight.device
        self.discriminator = DomainDiscriminator(discriminator, settings.frozen_above, seed).to(device)
        whole, patches = self.shares.values()
        used = {"coarse": whole, "epilogue": whole, "patch": patches}
        self.learnt = {n: p for n, p in self.discriminator.named_parameters() if used.get(n.split(".")[0])}
        self.adam = torch.optim.Adam(self.learnt.values(), lr=settings.discriminator_rate, betas=(0.0, 0.99))

    def __call__(self, context: Context) -> Tensor:
        """Rises from 0 over a tenth of the run after its start, while the discriminator learns."""
        if context.progress < self.start:
            return context.adapted.new_zeros([])
        ramp = min(1.0, (context.progress - self.start) / 0.1)
        maps = self.discriminator.fine(augment(context.adapted, context.rng))
        return ramp * sum((share * generator_loss(f(maps)) for share, f in self._heads()), maps.new_zeros([]))

    def learn(self, context: Context) -> Mapping[str, float]:
        """One step of the discriminator on this step's samples and references."""
        if context.progress < self.start:
            return {}
        with torch.no_grad():
            fake = self.discriminator.fine(augment(context.adapted.detach(), context.rng))
            real = self.discriminator.fine(augment(context.chosen, context.rng))
        penalised = self.penalty > 0 and context.step % PENALTY_EVERY == 0
        real.requires_grad_(penalised)
        loss = real.new_zeros([])
        for share, head in self._heads():
            verdict = head(real)
            loss = loss + share * discriminator_loss(head(fake), verdict)
            if penalised:
                (gradient,) = torch.autograd.grad(verdict.mean(dim=1).sum(), real, create_graph=True)
                steep = gradient.square().sum(dim=(1, 2, 3)).mean()
                loss = loss + share * self.penalty / 2 * PENALTY_EVERY * steep
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"discriminator": float(loss.detach())}

    def _heads(self) -> list[tuple[float, Callable[[Tensor], Tensor]]]:
        heads = {"whole": self.discriminator.whole, "patches": self.discriminator.patches}
        return [(share, heads[name]) for name, share in self.shares.items() if share]

    def state(self) -> dict[str, Tensor]:
        """Weights of what learns, and Adam's moments."""
        return {name: p.detach().clone() for name, p in self.learnt.items()} | adam_state(self.adam, self.learnt)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``."""
        with torch.no_grad():
            for name, p in self.learnt.items():
                p.copy_(state[name])
        load_adam_state(self.adam, self.learnt, state)
