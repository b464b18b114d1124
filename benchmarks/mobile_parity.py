"""ffhq-1024 beside the published network in OpenVINO: largest difference of pictures, and seconds in one run.

    pip install openvino && pip download --no-deps random-face==2021.7.21.1
    python benchmarks/mobile_parity.py random_face-2021.7.21.1-py3-none-any.whl [--compile] [--references FILE]

OpenVINO is told to compute in fp32; by itself it takes bf16 on processors that have it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub.generators import Generator, MobileStyleGANGenerator
from refinestyle_hub.hub.fetched import FetchedModel
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.tokens.parameters import TokenParameters


DATA = "random_face/data"


class Published:
    """The two networks of the wheel in OpenVINO."""

    def __init__(self, wheel: Path, threads: int) -> None:
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        with tempfile.TemporaryDirectory() as scratch:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(DATA)])
            core = openvino.Core()
            self._mapping, self._synthesis = (
                core.compile_model(f"{scratch}/{DATA}/{name}.xml", "CPU", options)
                for name in ("MappingNetwork", "SynthesisNetwork")
            )

    def map(self, z: Tensor) -> Tensor:  # [1, 512] -> [1, 512]
        return torch.from_numpy(self._mapping(z.numpy())[0].copy())

    def draw(self, w: Tensor) -> Tensor:  # [1, 512] -> [1, 3, 1024, 1024]
        return torch.from_numpy(self._synthesis(w.numpy())[0].copy())


def parity(generator: Generator, published: Published, latents: int) -> dict[str, float]:
    """Largest absolute differences over seeds 0 to ``latents`` - 1."""
    worst = dict.fromkeys(("w", "1024 px", "512 px", "256 px"), 0.0)
    for seed in range(latents):
        z = torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))
        w = published.map(z)
        w_plus, picture = w[:, None].expand(-1, generator.num_ws, -1), published.draw(w)
        found = {"w": generator.map(z)[:, 0] - w, "1024 px": generator(w_plus) - picture}
        for size in (512, 256):
            drawn = generator(w_plus, resolution=size)
            found[f"{size} px"] = drawn - F.avg_pool2d(picture, 1024 // size)
        for name, difference in found.items():
            worst[name] = max(worst[name], float(difference.abs().max()))
    return worst


def references(published: Published, path: Path, latents: int = 3) -> None:
    """Write small pictures for the tests: the mean at 32 px, and a square of the full size around an eye."""
    kept = {"mean": [], "square": []}
    for seed in range(latents):
        z = torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))
        picture = published.draw(published.map(z))[0]
        kept["mean"].append(F.avg_pool2d(picture, 32).numpy())
        kept["square"].append(picture[:, 460:492, 380:412].numpy())
    np.savez_compressed(path, **{name: np.stack(pictures) for name, pictures in kept.items()})


def seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The best of some rounds, each through all works, after one to warm up."""
    best = dict.fromkeys(works, float("inf"))
    for i in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if i > 0:
                best[name] = min(best[name], time.perf_counter() - began)
    return {name: round(value, 4) for name, value in best.items()}


def speed(generator: Generator, published: Published, compiled: bool, rounds: int) -> dict[str, float]:
    """Seconds for one picture; forward and backward are to w+ and to eight tokens in every layer."""
    w = generator.mean_latent[None].clone()
    w_plus = w[:, None].repeat(1, generator.num_ws, 1)
    parameters = TokenParameters(generator.kernel_stats(), rank=8, layers="*", residual="post")

    def draw(network: Callable[..., Tensor], size: int) -> None:
        with torch.no_grad():
            network(w_plus, resolution=size)

    def descend(network: Callable[..., Tensor]) -> None:
        leaf = w_plus.clone().requires_grad_()
        network(leaf, parameters.token_set(), resolution=512).square().mean().backward()

    works: dict[str, Callable[[], object]] = {"OpenVINO 1024 px": lambda: published.draw(w)}
    for name, network in {
        "eager": generator,
        **({"compiled": torch.compile(generator, dynamic=False)} if compiled else {}),
    }.items():
        works[f"{name} 1024 px"] = lambda network=network: draw(network, 1024)
        works[f"{name} 512 px"] = lambda network=network: draw(network, 512)
        works[f"{name} 512 px, forward and backward"] = lambda network=network: descend(network)
    found = seconds(works, rounds)
    published_seconds = found["OpenVINO 1024 px"]
    return found | {f"{name} / OpenVINO": round(value / published_seconds, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--latents", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")
    parser.add_argument("--references", type=Path, help="write the tests' pictures to this .npz file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = open_source("ffhq-1024")
    assert isinstance(source, FetchedModel)
    source.get(args.wheel)
    generator = MobileStyleGANGenerator.from_source(source).requires_grad_(False)
    published = Published(args.wheel, args.threads)
    if args.references:
        references(published, args.references)
    with torch.no_grad():
        report = {"largest difference": parity(generator, published, args.latents)}
    report["seconds"] = speed(generator, published, args.compile, args.rounds)
    print(json.dumps(report | {"threads": args.threads, "torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()
