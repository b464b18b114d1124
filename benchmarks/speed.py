"""How fast StyleGAN2 and ffhq-1024 are drawn: beside the bare chain of convolutions and beside others, in one run.

    python benchmarks/speed.py                                   # 256 px, batch 1 and 8, forward and backward
    python benchmarks/speed.py --nvidia stylegan3 --rosinality stylegan2-pytorch --bf16 --compile
    python benchmarks/speed.py --sizes 1024 --batches 1 --ffhq --openvino random_face-2021.7.21.1-py3-none-any.whl
    python benchmarks/speed.py --profile                         # also which operators take the time of each case
    python benchmarks/speed.py --plots speed-plots               # growth with batch, resolution, T and domains
    python benchmarks/speed.py --way [--against CHECKOUT]        # the whole way of a user
    python benchmarks/speed.py --quick                           # seconds: whether all of it runs

Cases take turns and the table shows their medians as ratios to the first, so that a machine in use by others gives
figures that can be compared; backward is to w+, with frozen weights. StyleGAN2 is config-f with random weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import speed_growth
import speed_way
import torch
from speed_chain import Chain
from speed_others import nvidia, rosinality
from speed_timing import Work, interleaved, machine, peak_memory, shares
from torch import Tensor

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.generators import Generator, StyleGAN2Generator
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


RANK = 4  # T of the sets


class Case(NamedTuple):
    """One way to draw n pictures, with or without gradients."""

    name: str
    draw: Callable[[Tensor], Tensor]  # w+ [N, L, D] -> pictures
    half: torch.dtype | None = None  # of autocast

    def forward(self, w_plus: Tensor) -> Tensor:
        cast = torch.autocast(w_plus.device.type, self.half) if self.half else nullcontext()
        with cast:
            return self.draw(w_plus)

    def only_drawn(self, w_plus: Tensor) -> None:
        with torch.no_grad():
            self.forward(w_plus)

    def descended(self, w_plus: Tensor) -> None:
        self.forward(w_plus.clone().requires_grad_()).float().square().mean().backward()


def tokens_of(generator: Generator, seed: int, rank: int = RANK) -> TokenSet:
    rng = torch.Generator().manual_seed(seed)
    made = TokenParameters(generator.kernel_stats(), rank, rng=rng)
    with torch.no_grad():
        for layer in made.layers:
            layer.p.copy_(0.1 * torch.randn(layer.p.shape, generator=rng))
    return made.token_set().detach()


def config_f(size: int, quick: bool = False) -> StyleGAN2Config:
    base, most = (256, 8) if quick else (32768, 512)
    sizes = [2**i for i in range(2, size.bit_length())]
    return StyleGAN2Config(size, 512, 512, 8, {each: min(base // each, most) for each in sizes})


def ours(generator: Generator, n: int, halves: list[torch.dtype], compiled: bool) -> Iterator[Case]:
    """Plain, with one set for all, and with another for each, in every precision, eager and compiled."""
    one, each = tokens_of(generator, 0), [tokens_of(generator, i) for i in range(n)]
    copies = {"": generator}
    if compiled:
        copies[" compiled"] = (
            type(generator).from_state(generator.config, generator.state_dict()).requires_grad_(False)
        )
        copies[" compiled"].compile()
    for way, network in copies.items():
        for half in (None, *halves):
            label = way + ("" if half is None else " " + str(half).removeprefix("torch."))
            yield Case(f"plain{label}", network, half)
            yield Case(f"one set{label}", partial(_with, network, one), half)
            yield Case(f"a set per sample{label}", partial(_with, network, each), half)


def _with(network: Generator, tokens: Any, w_plus: Tensor) -> Tensor:
    return network(w_plus, tokens)


def graphed(case: Case, w_plus: Tensor) -> Case:
    """The case as a CUDA graph: its kernels are launched as one. Without gradients, and for this batch alone."""
    given, stream = w_plus.clone(), torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(2):
            case.forward(given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        picture = case.forward(given)

    def replay(codes: Tensor) -> Tensor:
        given.copy_(codes)
        graph.replay()
        return picture

    return Case(f"{case.name} graph", replay)


def stylegan2(args: argparse.Namespace, size: int, n: int) -> list[Case]:
    """The bare chain first: all others are measured by it."""
    config = config_f(size, args.quick)
    generator = StyleGAN2Generator(config).eval().requires_grad_(False).to(args.device)
    chain = Chain(config.channels).to(args.device)

    def bare(w_plus: Tensor) -> Tensor:
        start = chain.start + w_plus[:, 0].mean() if w_plus.requires_grad else None  # so that gradients pass
        return chain(len(w_plus), start)

    cases = [Case("bare chain", bare), *ours(generator, n, args.halves, args.compile)]
    if args.nvidia:
        cases.append(Case("NVIDIA", nvidia(args.nvidia, size, args.device)))
    if args.rosinality:
        cases.append(Case("rosinality", rosinality(args.rosinality, size, args.device)))
    return cases


def ffhq(args: argparse.Namespace, n: int) -> list[Case]:
    """Plain first: there is no chain of the same convolutions to compare with."""
    generator = Generator.from_pretrained("ffhq-1024", subfolder="generator", compile=False)
    cases = list(ours(generator.requires_grad_(False).to(args.device), n, args.halves, args.compile))
    if args.openvino and n == 1:
        from mobile_parity import Published

        published = Published(args.openvino, torch.get_num_threads())
        cases.append(Case("OpenVINO fp32", lambda w_plus: published.draw(w_plus[:, 0].cpu())))
    return cases


def measured(args: argparse.Namespace, cases: list[Case], w_plus: Tensor, backward: bool) -> dict[str, Any]:
    works: dict[str, Work] = {}
    for case in cases:
        if backward and (case.name.startswith("OpenVINO") or case.name.endswith(" graph")):
            continue
        works[case.name] = partial(case.descended if backward else case.only_drawn, w_plus)
    found = interleaved(works, args.rounds, time.process_time if args.cpu_time else time.perf_counter)
    first = next(iter(found.values()))
    rows: dict[str, dict[str, Any]] = {
        name: {"seconds": taken, "ratio": taken / first, "MiB": peak_memory(works[name])}
        for name, taken in found.items()
    }
    if args.profile:
        for name, work in works.items():
            rows[name]["operators"] = shares(work)
    return rows


def table(title: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [f"### {title}", "", "| | ratio | seconds | peak MiB |", "| --- | ---: | ---: | ---: |"]
    rows += [f"| {name} | {x['ratio']:.2f} | {x['seconds']:.4f} | {x['MiB']:.0f} |" for name, x in found.items()]
    for name, x in found.items():
        largest = [f"{operator} {share:.0%}" for operator, share in list(x.get("operators", {}).items())[:8]]
        rows += ["", f"{name}: {', '.join(largest)}"] if largest else []
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvidia", type=Path, help="a folder with the code of NVlabs/stylegan3")
    parser.add_argument("--rosinality", type=Path, help="a folder with the code of rosinality/stylegan2-pytorch")
    parser.add_argument("--openvino", type=Path, help="the wheel of random-face, for ffhq-1024 in OpenVINO")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256], help="of StyleGAN2, pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--ffhq", action="store_true", help="measure ffhq-1024 as well")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs as well, where there is CUDA")
    parser.add_argument("--no-backward", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="count the time of one thread on the processor")
    parser.add_argument("--profile", action="store_true", help="say which operators take the time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    parser.add_argument("--plots", type=Path, help="write how times grow to this folder, and nothing else")
    parser.add_argument("--way", action="store_true", help="measure the way of a user, and nothing else")
    parser.add_argument("--against", type=Path, help="with --way: another checkout, measured in turn")
    parser.add_argument("--keep-memory", action="store_true", help="with --way: this as well, measured in turn")
    parser.add_argument("--model", default="ffhq-1024", help="with --way")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few rounds")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.batches, args.rounds, args.model = [32], [1, 2], 1, "mini-faces-128"
        args.ffhq = False
    args.halves = [torch.bfloat16] * args.bf16 + [torch.float16] * args.fp16
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    report: dict[str, Any] = {"machine": machine()}
    print(f"{report['machine']}\n", flush=True)
    if args.way:
        report["way"] = speed_way.compare(
            args.model, args.against, args.keep_memory, args.rounds, args.quick, args.cpu_time
        )
    elif args.plots:
        report["growth"] = speed_growth.draw(args.plots, args.device, args.rounds, args.quick, clock)
    else:
        subjects = [(f"StyleGAN2 {size} px", partial(stylegan2, args, size)) for size in args.sizes]
        subjects += [("ffhq-1024", partial(ffhq, args))] * args.ffhq
        for name, cases_of in subjects:
            for n in args.batches:
                cases = cases_of(n)
                network = cases[1].draw if isinstance(cases[1].draw, Generator) else cases[0].draw
                assert isinstance(network, Generator)
                w_plus = network.sample(n, torch.Generator().manual_seed(0))
                if args.graphs and args.device.type == "cuda":
                    cases += [graphed(case, w_plus) for case in cases if case.name.startswith(("plain", "one set"))]
                for backward in (False, True)[: 1 if args.no_backward else 2]:
                    title = f"{name}, batch {n}, forward{' and backward' * backward}"
                    report[title] = measured(args, cases, w_plus, backward)
                    print(table(title, report[title]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
