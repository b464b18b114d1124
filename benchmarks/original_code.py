"""Whether converted networks draw what the original code draws: NVIDIA's and rosinality's own classes beside ours.

    python benchmarks/original_code.py --nvidia stylegan2-ada-pytorch --rosinality stylegan2-pytorch

FOLDERs are checkouts of the original repositories (NVIDIA's stylegan2-ada-pytorch or stylegan3), which are theirs to
license and not part of this project. Their networks get random weights, noise strengths, biases and mean latents, are
saved as their training scripts save them, and converted. Columns, as largest absolute differences in fp32 on the CPU:

- mapping: of w
- pictures: with constant noise, not clamped; "of" is the largest value in them
- truncated: the same at truncation 0.7 (NVIDIA's code: of the first 4 codes only)
- logits: of the discriminator, for random pictures; "of" is the largest
- export: whether what we export loads strictly into the original classes, and every tensor is the same to the last bit
"""

from __future__ import annotations

import argparse
import copy
import importlib
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from refinestyle_hub.convert import convert, nvidia_state_dict, rosinality_checkpoint
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator


DIM = 512  # of z and w
TRUNCATION = 0.7
LIMIT = 1e-3


class Case(NamedTuple):
    """One generator and its discriminator."""

    size: int  # px
    widest: int  # channels of the coarse layers

    @property
    def half(self) -> bool:  # of config F's channels in the fine layers, as in the published networks of 256 px
        return self.size < 512

    @property
    def depth(self) -> int:  # of the mapping
        return 2 if self.size in (64, 256) else 8


class Nvidia:
    """stylegan2-ada-pytorch, or the StyleGAN2 of the stylegan3 repository."""

    name = "NVIDIA"
    ending = ".pkl"
    cutoff: int | None = 4

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        self.newer = (folder / "training" / "networks_stylegan2.py").is_file()
        self.networks = importlib.import_module("training.networks_stylegan2" if self.newer else "training.networks")

    def build(self, case: Case) -> tuple[nn.Module, nn.Module]:
        sizes = {"c_dim": 0, "img_resolution": case.size, "img_channels": 3}
        # as their train.py sets them
        base = case.widest * (32 if case.half else 64)  # 16384 or 32768
        widths = {"channel_base": base, "channel_max": case.widest, "num_fp16_res": 4, "conv_clamp": 256}
        synthesis = widths if self.newer else {"synthesis_kwargs": widths}
        mapping = {"num_layers": case.depth}
        g = self.networks.Generator(z_dim=DIM, w_dim=DIM, mapping_kwargs=mapping, **sizes, **synthesis)
        return g, self.networks.Discriminator(**sizes, **widths, epilogue_kwargs={"mbstd_group_size": 4})

    def save(self, g: nn.Module, d: nn.Module, path: Path) -> None:
        modules = {"G": self._frozen(randomise(copy.deepcopy(g))), "D": self._frozen(d), "G_ema": self._frozen(g)}
        with path.open("wb") as file:
            pickle.dump({"training_set_kwargs": {"path": "faces.zip"}, **modules, "augment_pipe": None}, file)

    def _frozen(self, module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).eval().requires_grad_(False).cpu()

    def map(self, g: Any, z: Tensor) -> Tensor:
        w: Tensor = g.mapping(z, None)[:, 0]
        return w

    def draw(self, g: Any, z: Tensor, truncation: float) -> Tensor:
        options = {"truncation_psi": truncation, "truncation_cutoff": self.cutoff}
        picture: Tensor = g(z, None, **options, noise_mode="const", force_fp32=True)
        return picture

    def judge(self, d: Any, pictures: Tensor) -> Tensor:
        logits: Tensor = d(pictures, None, force_fp32=True)
        return logits

    def export(self, generator: Generator, discriminator: Discriminator) -> tuple[dict[str, Tensor], ...]:
        return nvidia_state_dict(generator), nvidia_state_dict(discriminator)


class Rosinality:
    """rosinality's stylegan2-pytorch, with its paths for the CPU."""

    name = "rosinality"
    ending = ".pt"
    cutoff: int | None = None

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        with mock.patch("torch.utils.cpp_extension.load"):  # it compiles its CUDA kernels on import
            self.model = importlib.import_module("model")

    def build(self, case: Case) -> tuple[nn.Module, nn.Module]:
        multiplier = 1 if case.half else 2
        self.mean = 0.3 * torch.randn(DIM)
        return (
            self.model.Generator(case.size, DIM, case.depth, channel_multiplier=multiplier),
            self.model.Discriminator(case.size, channel_multiplier=multiplier),
        )

    def save(self, g: nn.Module, d: nn.Module, path: Path) -> None:
        training = randomise(copy.deepcopy(g))
        checkpoint = {"g": training.state_dict(), "d": d.state_dict(), "g_ema": g.state_dict()}
        torch.save({**checkpoint, "latent_avg": self.mean}, path)

    def map(self, g: Any, z: Tensor) -> Tensor:
        w: Tensor = g.get_latent(z)
        return w

    def draw(self, g: Any, z: Tensor, truncation: float) -> Tensor:
        picture: Tensor = g([z], truncation=truncation, truncation_latent=self.mean, randomize_noise=False)[0]
        return picture

    def judge(self, d: Any, pictures: Tensor) -> Tensor:
        logits: Tensor = d(pictures)
        return logits

    def export(self, generator: Generator, discriminator: Discriminator) -> tuple[dict[str, Tensor], ...]:
        checkpoint: dict[str, Any] = rosinality_checkpoint(generator, discriminator)
        if not torch.equal(checkpoint["latent_avg"], self.mean):
            raise AssertionError("the mean latent has changed")
        return checkpoint["g_ema"], checkpoint["d"]


def randomise(module: nn.Module) -> nn.Module:
    """Give everything a value that is zero or one in a new network, so that nothing can be left out unseen."""
    for name, tensor in module.state_dict().items():  # these share memory with the module
        if name.endswith(("bias", "noise_strength", "noise.weight", "w_avg")):
            slow = name.startswith(("mapping.fc", "style."))  # multiplied by the learning rate multiplier, 0.01
            tensor += (30.0 if slow else 0.3) * torch.randn_like(tensor)
    return module


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; never small where one is not a number."""
    difference = (ours - theirs).abs().max().item()
    return difference if difference == difference else float("inf")


@torch.no_grad()
def compare(original: Nvidia | Rosinality, case: Case, folder: Path) -> bool:
    """Print a row; returns whether pictures differ by less than the limit and the export is exact."""
    torch.manual_seed(case.size)
    g, d = (randomise(network).eval() for network in original.build(case))
    source = folder / f"{original.name}-{case.size}{original.ending}"
    original.save(g, d, source)
    model = convert(
        source, source.with_suffix(""), license="other", license_name="none", license_link="LICENSE"
    ).folder
    source.unlink()
    generator = Generator.from_pretrained(model, subfolder="generator").eval()
    discriminator = Discriminator.from_pretrained(model, subfolder="discriminator").eval()

    z = torch.randn(2 if case.size < 512 else 1, DIM)
    n = 8 if case.size < 128 else 4 if case.size < 512 else 1  # groups of 4
    noise = torch.rand(n, 3, case.size, case.size) * 2 - 1
    pictures, logits = original.draw(g, z, 1.0), original.judge(d, noise)
    row = {
        "mapping": gap(generator.map(z)[:, 0], original.map(g, z)),
        "pictures": gap(generator(generator.map(z)), pictures),
        "truncated": gap(generator(generator.map(z, TRUNCATION, original.cutoff)), original.draw(g, z, TRUNCATION)),
        "logits": gap(discriminator(noise), logits),
    }
    largest = {"pictures": pictures.abs().max().item(), "logits": logits.abs().max().item()}
    exact = True
    for network, state in zip((g, d), original.export(generator, discriminator), strict=True):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for tensor in network.state_dict().values():
            tensor.zero_()
        network.load_state_dict(state, strict=True)
        exact &= all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    figures = (f"{k} {v:.1e}" + (f" of {largest[k]:.1f}" if k in largest else "") for k, v in row.items())
    title = f"{original.name} {case.size} px, channels to {generator.config.channels[4]}, mapping {case.depth}"
    print(f"{title}:  {'  '.join(figures)}  export {'exact' if exact else 'CHANGED'}", flush=True)
    return exact and max(row.values()) < LIMIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvidia", type=Path, metavar="FOLDER", help="stylegan2-ada-pytorch or stylegan3")
    parser.add_argument("--rosinality", type=Path, metavar="FOLDER", help="stylegan2-pytorch")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256], help="1024 takes about 6 GB")
    parser.add_argument("--channels", type=int, default=512, help="widest layers; rosinality's always have 512")
    arguments = parser.parse_args()
    originals: list[Nvidia | Rosinality] = []
    if arguments.nvidia:
        originals.append(Nvidia(arguments.nvidia))
    if arguments.rosinality:
        originals.append(Rosinality(arguments.rosinality))
    if not originals:
        parser.error("name at least one checkout")
    agree = True
    with tempfile.TemporaryDirectory() as folder:
        for original in originals:
            for size in arguments.sizes:
                agree &= compare(original, Case(size, arguments.channels), Path(folder))
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
