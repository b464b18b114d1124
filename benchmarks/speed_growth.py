"""How the time for a picture grows with batch, resolution, number of tokens T and number of domains, as one plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from speed_timing import Clock, interleaved, machine
from torch import Tensor

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.generators import Generator, StyleGAN2Generator
from refinestyle_hub.tokens.batch import TokenBatch
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


Series = Mapping[str, Mapping[int, float]]  # seconds by what grows, for each generator


def draw(folder: Path, device: torch.device, rounds: int, quick: bool, clock: Clock) -> dict[str, Any]:
    """Measure, and write ``growth.svg`` into ``folder``."""
    names = {"StyleGAN2 64 px": _small(32 if quick else 64).to(device)}
    if not quick:
        names["ffhq-1024 at 512 px"] = Generator.from_pretrained("ffhq-1024", subfolder="generator").to(device)
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, generator in names.items():
        generator.requires_grad_(False)
        for subject, works in _subjects(generator, quick).items():
            with torch.no_grad():
                taken = interleaved(works, rounds, clock)
            found.setdefault(subject, {})[name] = {int(x): y for x, y in taken.items()}
    sizes = (16, 32) if quick else (64, 128, 256, 512)
    networks = {size: _small(size).to(device).requires_grad_(False) for size in sizes}
    with torch.no_grad():
        taken = interleaved({str(s): partial(g, _codes(g, 1)) for s, g in networks.items()}, rounds, clock)
    found["resolution"] = {"StyleGAN2": {int(x): y for x, y in taken.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    _plot(found, folder / "growth.svg")
    return found


def _small(size: int) -> Generator:
    channels = {2**i: min(8192 // 2**i, 256) for i in range(2, size.bit_length())}  # half of config-f
    return StyleGAN2Generator(StyleGAN2Config(size, 512, 512, 2, channels)).eval()


def _codes(generator: Generator, n: int) -> Tensor:
    return generator.sample(n, torch.Generator().manual_seed(0))


def _tokens(generator: Generator, rank: int, seed: int) -> TokenSet:
    return (
        TokenParameters(generator.kernel_stats(), rank, rng=torch.Generator().manual_seed(seed)).token_set().detach()
    )


def _subjects(generator: Generator, quick: bool) -> dict[str, dict[str, Callable[[], object]]]:
    resolution = min(512, generator.config.resolution)
    most = 2 if quick else 8
    one, domains = _codes(generator, 1), [_tokens(generator, 4, i) for i in range(most)]

    def drawn(w_plus: Tensor, tokens: Any = None) -> Callable[[], object]:
        return lambda: generator(w_plus, tokens, resolution=resolution)

    def mixed(count: int) -> TokenBatch | None:
        return TokenBatch.collate([None], [(tokens, 0.5) for tokens in domains[:count]]) if count else None

    return {
        "batch": {str(n): drawn(_codes(generator, n)) for n in (1, 2, 4, 8) if n <= most},
        "T": {str(t): drawn(one, _tokens(generator, t, 0) if t else None) for t in (0, 1, 4, 8, 16, 32, 64)},
        "domains": {str(n): drawn(one, mixed(n)) for n in range(0, most + 1, 2)},
    }


def _plot(found: Mapping[str, Series], file: Path) -> None:
    with rc_context({"svg.hashsalt": "growth", "font.size": 9}):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        for axes, (subject, series) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
            for name, values in series.items():
                first = next(iter(values.values()))
                axes.plot(list(values), [y / first for y in values.values()], "o-", label=name)
            axes.set_xlabel(subject)
            axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
            axes.legend(fontsize=7)
        figure.axes[0].set_ylabel("time, first point = 1")
        figure.suptitle(f"One forward pass; {machine()}", fontsize=8)
        figure.savefig(file, metadata={"Date": None})
