"""Losses of the encoder of ffhq-1024: pixels, perceptual distance, identity, and errors of w+ by what they show."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.encoder.gradients import FeedbackDistance
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.losses.identity_network import IdentityDistance
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.losses.pixel import mse
from refinestyle_hub.runtime.bf16 import in_bf16


SIDE = 256  # pixels, of everything that is compared


def filled(model: nn.Module, path: Path) -> nn.Module:
    """A model with the weights of a file, frozen."""
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.requires_grad_(False).eval()


class Objective:
    """Everything that says how far a render [N, 3, 256, 256] is from a picture, and a w+ from another."""

    def __init__(self, generator: Generator, encoder: Encoder, data: Path, samples: int) -> None:
        self.device = generator.device
        self.perceptual = filled(Perceptual("st-lpips-alex"), data / "perceptual.safetensors").to(self.device)
        self.identity = filled(IdentityDistance(), data / "identity.safetensors").to(self.device)
        self.feedback = FeedbackDistance(self.perceptual, self.identity, encoder.config.network.identity_feedback)
        self.generator, self.encoder = generator, encoder
        self.inverse = torch.linalg.inv(encoder.basis)
        self.rng, self.turn = torch.Generator(self.device).manual_seed(0), 0
        self.metric = self._visibility(samples)

    def pictures(self, rendered: Tensor, wanted: Tensor, training: bool = True) -> dict[str, Tensor]:
        """Each distance [N]; in training the chips of identity are off at random, and those of features take turns."""
        x, y = rendered.float(), wanted.float()
        found = {"l2": mse(x, y)}
        self.turn = self.turn + 1 if training else 0
        with in_bf16(self.device):
            found["lpips"] = self.perceptual(x, y)
            found["identity"] = self.identity(x, y, self.rng if training else None)
            found["features"] = self.identity.reference(y)(self.turn, x)
        return found

    def latent(self, w: Tensor, known: Tensor) -> Tensor:
        """Squared error of w+ [N] by how much of it shows; that of the mean latent is 1 on average."""
        error = w - known
        return torch.einsum("nld,lde,nle->n", error, self.metric, error)

    def spread(self, w: Tensor) -> Tensor:
        """Squared distance [N] of the codes from their mean, in standard coordinates (e4e's delta)."""
        x = (w - self.encoder.w_avg) @ self.inverse
        return (x - x.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))

    def _visibility(self, samples: int) -> Tensor:
        """For each code the mean of J^T J, J being the derivative of the render: [L, D, D]."""
        num_ws, width = self.generator.num_ws, self.generator.config.w_dim
        total = torch.zeros(num_ws, width, width, device=self.device)
        batch = min(32, samples)
        for _ in range(0, samples, batch):
            w = self.generator.sample(batch).contiguous().requires_grad_()
            with in_bf16(self.device):
                x = self.generator(w, resolution=SIDE)
            direction = torch.randn_like(x) / x[0].numel() ** 0.5
            (gradient,) = torch.autograd.grad(x, w, direction)
            total += torch.einsum("nld,nle->lde", gradient.float(), gradient.float())
        values, vectors = torch.linalg.eigh((total / samples).cpu())
        shows = (vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT).to(self.device)  # its root: less extreme
        covariance = self.encoder.basis.T @ self.encoder.basis
        plain = torch.eye(width, device=self.device) / (num_ws * covariance.trace())
        return torch.lerp(shows / (shows * covariance).sum(), plain.expand_as(shows), 0.1)
