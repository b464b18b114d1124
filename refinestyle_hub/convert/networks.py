"""Tensors of a checkpoint, by their own names -> our networks. Every name and shape is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import ModelFileError, UnsupportedModelError, listed
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..generators.stylegan2 import StyleGAN2Generator
from ..storage.tensors import check_finite


__all__ = ["Networks", "assemble", "estimate_mean_latent", "fir", "mean_of_codes", "named_tensors", "without_filters"]

N = TypeVar("N", StyleGAN2Generator, Discriminator)

MEAN_SAMPLES = 100_000  # HyperStyle's number


class Networks(NamedTuple):
    """What a checkpoint gives."""

    layout: str  # whose files look like this
    generator: StyleGAN2Generator
    discriminator: Discriminator | None
    notes: tuple[str, ...]  # what was not in the file and had to be filled in
    left_out: tuple[str, ...] = ()  # what else is in the file


def fir(gain: float) -> Tensor:
    """The resampling filter that the published networks store, [4, 4], with the sum ``gain``."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) * (gain / 64)


def named_tensors(state: Any, where: object) -> dict[str, Tensor]:
    """A state_dict, without the prefix that parallel training leaves. Raises ModelFileError if it is none."""
    if type(state) is not dict or not all(type(k) is str and isinstance(t, Tensor) for k, t in state.items()):
        raise ModelFileError(f"{where} has something other than tensors where a network's state should be.")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def without_filters(found: Mapping[str, Tensor], suffix: str, gain: float, where: object) -> dict[str, Tensor]:
    """The tensors but for the stored filters, which must be the one that StyleGAN2 has."""
    rest = {}
    for name, tensor in found.items():
        if name.rpartition(".")[2] != suffix:
            rest[name] = tensor
        elif tensor.shape != (4, 4) or not torch.allclose(tensor.float(), fir(gain), atol=1e-5):
            raise UnsupportedModelError(f"{where}: {name[:80]} is not StyleGAN2's filter [1, 3, 3, 1].")
    return rest


def _plain(shape: torch.Size) -> list[int]:
    return [n for n in shape if n != 1]


def assemble(
    kind: type[N], config: Any, found: Mapping[str, Tensor], where: object, names: Mapping[str, str] | None = None
) -> N:
    """A network from the tensors of a file, which must be exactly those of ``config``.

    Args:
        names: Our names and the names in ``found``; by default they are the same. Dimensions of 1 may differ.

    Raises:
        ModelFileError: A tensor is missing, unexpected or misshapen, or a value is not finite.
    """
    template = kind.template(config)
    names = names or {name: name for name in template}
    problems = {
        "missing": sorted(set(names.values()) - set(found)),
        "unexpected": sorted(set(found) - set(names.values())),
        "wrong shape": [
            f"{theirs} {list(found[theirs].shape)}, expected {list(template[ours].shape)}"
            for ours, theirs in names.items()
            if theirs in found
            and (_plain(found[theirs].shape) != _plain(template[ours].shape) or not found[theirs].is_floating_point())
        ],
    }
    for problem, items in problems.items():
        if items:
            raise ModelFileError(f"{where} is not a StyleGAN2 {kind.part}: {problem} {listed(items)}.")
    ours = {  # copies, since tensors of a file may share memory
        name: found[theirs].to(torch.float32, copy=True).reshape(template[name].shape).contiguous()
        for name, theirs in names.items()
    }
    check_finite(ours, where)
    return kind.from_state(config, ours)


def mean_of_codes(average: Tensor, w_dim: int, where: object) -> Tensor:
    """The mean latent [D] of a file, which may hold one for each code, [L, D]. Raises ModelFileError."""
    if average.numel() == 0 or average.numel() % w_dim or average.shape[-1] % w_dim:
        raise ModelFileError(f"{where}: latent_avg is {list(average.shape)}, not of {w_dim} numbers for a code.")
    return average.float().reshape(-1, w_dim).mean(dim=0)


@torch.no_grad()
def estimate_mean_latent(generator: Generator) -> Tensor:
    """The mean of w over seeded normal z, [w_dim]: what training would have tracked."""
    rng = torch.Generator().manual_seed(0)
    total = torch.zeros(generator.config.w_dim, dtype=torch.float64)
    for _ in range(MEAN_SAMPLES // 10_000):
        z = torch.randn(10_000, generator.config.z_dim, generator=rng)
        total += generator.map(z)[:, 0].double().sum(dim=0)
    return (total / MEAN_SAMPLES).float()
