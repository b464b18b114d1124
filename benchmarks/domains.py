"""How good few-shot domains are, beside fine-tuning and style offsets learnt by the same terms, in one table.

    python benchmarks/domains.py ffhq-1024 --trunk training/ffhq-1024/data/backbone.safetensors --out runs/domains
    python benchmarks/domains.py mini-faces-128 --data portraits-128.zip --attributes mini-faces-128

The styles are filters of our own (`domain_filters.py`), put on people whom the generator draws for this, or on
portraits of the train split of ``--data``: ten of them are what a run sees, the others are the true pictures that it
is measured against. No shipped domain and no picture of another split is touched. Every baseline gets the processor
time of T = 4, and the best of its learning rates by the very figure that is reported, which flatters it. Seeds after
the first repeat T = 4 and the best fine-tuning.

The same command continues where it was stopped, row by row. A first look: --filters pencil --true 100 --samples 100
--faces 20 --steps 40 --rates 2 --seeds 1; --quick checks that it runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from domain_baselines import EVERYTHING, STYLES, FineTuning, Weights, one_shot
from domain_costs import step_seconds, steps_in
from domain_filters import FILTERS
from domain_record import SHOWN, Figures
from domain_style import Style
from domain_table import best, table
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from refinestyle_hub import RefineStylePipeline
from refinestyle_hub.adapt import Adaptation, preset
from refinestyle_hub.errors import counted
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.evaluation.domain import TRAINING_BYTES, Draw, MetricNets, compare
from refinestyle_hub.images import contact_sheet, to_image, to_images
from refinestyle_hub.train.dataset import Pictures, open_pictures


RATES = {"fine-tuning": (3e-4, 1e-3, 1e-4), "style offsets": (2e-2, 5e-3, 8e-2)}  # the likeliest first
PATTERNS = {"fine-tuning": EVERYTHING, "style offsets": STYLES}
PEOPLE = 10**6  # added to the seed (whose low 32 bits count): people in the pictures are none of the samples
# what figures of one table have in common
SETUP = ("seed", "pictures", "true", "samples", "truncation", "side", "faces", "steps", "one_shot_steps")
QUICK = {"true": 8, "samples": 8, "faces": 0, "steps": 2, "one_shot_steps": 2, "rates": 1, "pictures": 5}


@dataclass
class Learnt:
    """A change of the generator, and what it took."""

    draw: Draw
    numbers: int
    steps: int
    seconds: float
    cpu_seconds: float


class Bench:
    """What all rows share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.pipe = args, RefineStylePipeline.from_pretrained(args.model)
        self.resolution = self.pipe.generator.config.resolution
        self.side = args.side = min(args.side, self.resolution)
        net = None if args.attributes is None else AttributeNet.from_pretrained(args.attributes)
        trunk = None if args.trunk is None else open_trunk(args.trunk)
        self.nets = MetricNets(net, self.pipe.discriminator, self.pipe.perceptual, trunk)
        if net is None and trunk is None and self.pipe.discriminator is None:
            raise SystemExit("Nothing measures distances: name --trunk or --attributes.")
        self.people = open_pictures(args.data, self.side, "train") if args.data else self.drawn()
        self.codes = self.pipe.generator.sample(
            args.samples, torch.Generator().manual_seed(args.seed), args.truncation
        )
        self.plain_pictures: dict[bytes, Tensor] = {}
        self.costs: dict[str, float] = {}
        self.inversions: dict[str, Tensor | None] = {}

    def drawn(self) -> Pictures:
        """People whom the generator draws, each when it is asked for."""
        count = self.args.pictures + self.args.true
        rng = torch.Generator().manual_seed(self.args.seed + PEOPLE)
        codes = self.pipe.generator.sample(count, rng, self.args.truncation)
        return Pictures(
            [f"drawn {i}" for i in range(count)], lambda i: to_image(self.draw(codes[i : i + 1])[0]), self.side
        )

    @torch.no_grad()
    def draw(self, w_plus: Tensor, *tokens: Any) -> Tensor:
        """w+ [N, L, D] -> pictures [N, 3, S, S], one by one: large ones take much memory."""
        generator = self.pipe.generator
        return torch.cat([generator(w, *tokens, resolution=self.side).clamp(-1, 1) for w in w_plus.split(1)])

    def plain(self, w_plus: Tensor) -> Tensor:
        """The generator as it is; every row asks for the same pictures."""
        key = w_plus.numpy().tobytes()
        if key not in self.plain_pictures:
            self.plain_pictures[key] = self.draw(w_plus).half()
        return self.plain_pictures[key].float()

    def style(self, name: str) -> Style:
        """One of the filters."""
        return Style(name, self.people, self.args, self.resolution)

    def measure(self, learnt: Learnt, style: Style) -> dict[str, Any]:
        """The figures of a row."""
        report = compare(
            self.plain, learnt.draw, self.codes, style.true, self.nets,
            references=style.pictures[: style.seen], faces=self.args.faces, seed=self.args.seed,
        )  # fmt: skip
        cost = {
            "numbers": learnt.numbers,
            "bytes": 4 * learnt.numbers,
            "training_bytes": TRAINING_BYTES * learnt.numbers,
            "steps": learnt.steps,
            "seconds": round(learnt.seconds, 1),
            "cpu_seconds": round(learnt.cpu_seconds, 1),
        }
        return {**report, **cost}

    def strip(self, draw: Draw) -> Image.Image:
        """The row of a sheet."""
        images = to_images(draw(self.codes[:SHOWN]))
        return contact_sheet([image.resize((min(self.side, 256),) * 2) for image in images], SHOWN)

    def inverted(self, style: Style) -> Tensor | None:
        """w+ of the references, where a term wants them: found for tokens, which every other row takes over."""
        if style.name not in self.inversions:
            run = self.pipe.adaptation(style.references(), steps=self.args.steps)
            run.step(0)
            self.inversions[style.name] = run.inversions
        return self.inversions[style.name]

    # --- Rows ---

    def run(self, run: Adaptation) -> tuple[float, float]:
        """Do a run, and return its seconds and its seconds of the processor."""
        began = time.process_time()
        run.run()
        return run.seconds, time.process_time() - began

    def tokens(self, style: Style, rank: int, pictures: int | None = None, seed: int = 0) -> Learnt:
        """Ours, by the shipped settings."""
        run = self.pipe.adaptation(
            style.references(pictures), tokens=rank, steps=self.args.steps, seed=self.args.seed + seed
        )
        took = self.run(run)
        found = run.token_set()
        return Learnt(lambda w: self.draw(w, found), found.num_values, run.steps, *took)

    def tuned(self, style: Style, kind: str, rate: float, seed: int = 0) -> Learnt:
        """Weights of the generator by the same terms, in the time that T = 4 has."""
        references, steps = style.references(), self.args.steps
        settings = preset(len(references), with_discriminator=self.pipe.discriminator is not None)
        make = partial(
            FineTuning, self.pipe.generator, references, PATTERNS[kind], rate, seed=self.args.seed + seed,
            discriminator=self.pipe.discriminator, perceptual=self.pipe.perceptual,
            inversions=self.inverted(style),
        )  # fmt: skip
        for name, probe in (("ours", partial(self.pipe.adaptation, references)), (kind, make)):
            if name not in self.costs:
                self.costs[name] = step_seconds(probe, settings, steps)
        run = make(steps=steps_in(self.costs["ours"], self.costs[kind], steps), settings=settings)
        took = self.run(run)
        weights = run.parameters
        assert isinstance(weights, Weights)
        draw = run.draw(self.side)
        return Learnt(lambda w: torch.cat([draw(one) for one in w.split(1)]), weights.numel(), run.steps, *took)

    def one_shot(self, style: Style) -> Learnt:
        """JoJoGAN's way, from the first of the pictures."""
        generator, first = self.pipe.generator, style.references(1)
        sampler = self.pipe.adaptation(first, steps=1).sampler
        began = time.monotonic(), time.process_time()
        steps = None if self.pipe.encoder is None else 0  # the published script takes an encoder's answer too
        inversion = self.pipe.invert_crops(first.pictures, tokens=False, steps=steps, seed=self.args.seed)[0]
        assert sampler.features is not None
        draw = one_shot(
            generator, sampler.features, first.pictures, inversion.w_plus[None],
            steps=self.args.one_shot_steps, seed=self.args.seed, window=sampler.settings.window, resolution=self.side,
        )  # fmt: skip
        took = time.monotonic() - began[0], time.process_time() - began[1]
        numbers = Weights(generator, EVERYTHING).numel()
        return Learnt(lambda w: torch.cat([draw(one) for one in w.split(1)]), numbers, self.args.one_shot_steps, *took)

    def plan(self, style: Style, known: Callable[[], Mapping[str, Any]]) -> Iterator[tuple[str, Callable[[], Learnt]]]:
        """The rows of a style; ``known`` says which are there."""
        yield "before", lambda: Learnt(self.plain, 0, 0, 0.0, 0.0)
        for rank in self.args.ranks:
            yield f"T = {rank}", partial(self.tokens, style, rank)
        for kind, rates in RATES.items():
            for rate in rates[: self.args.rates]:
                yield f"{kind}@{rate:g}", partial(self.tuned, style, kind, rate)
        yield "T = 4, one picture", partial(self.tokens, style, 4, 1)
        yield "JoJoGAN-like, one picture", partial(self.one_shot, style)
        for seed in range(1, self.args.seeds):
            yield f"T = 4#{seed}", partial(self.tokens, style, 4, seed=seed)
            if name := best(known(), "fine-tuning"):
                rate = float(name.partition("@")[2])
                yield f"{name}#{seed}", partial(self.tuned, style, "fine-tuning", rate, seed=seed)


def open_trunk(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """EfficientNet-Lite0 with ImageNet's weights, in timm's names: pictures in [-1, 1] -> maps of strides 8 to 32."""
    body = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    missing, _ = body.load_state_dict(load_file(path), strict=False)
    if missing:
        raise SystemExit(f"{path} is not EfficientNet-Lite0 in timm's names: it has no {missing[0]}.")
    maps: Callable[[Tensor], Sequence[Tensor]] = body.requires_grad_(False)
    return maps  # its mean and deviation are .5, so it sees [-1, 1]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--data", help="zip or folder of portraits; else the generator draws people")
    parser.add_argument("--attributes", help="model with an attribute network that measures")
    parser.add_argument("--trunk", type=Path, help="EfficientNet-Lite0 that measures, as prepare.py makes it")
    parser.add_argument("--filters", nargs="+", choices=FILTERS, default=["pencil", "popart", "charcoal"])
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or globs of those to make")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 1, 16], help="T")
    parser.add_argument("--rates", type=int, choices=(1, 2, 3), default=3, help="learning rates of each baseline")
    parser.add_argument("--seeds", type=int, default=1, help="of T = 4 and of the best fine-tuning")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no row is begun")
    parser.add_argument("--pictures", type=int, default=10, help="that a run sees")
    parser.add_argument("--true", type=int, default=500, help="pictures to measure against")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--truncation", type=float, default=0.8, help="of the samples and of the people drawn")
    parser.add_argument("--side", type=int, default=512, help="pixels of what is compared")
    parser.add_argument("--faces", type=int, default=100, help="samples whose landmarks and identities are compared")
    parser.add_argument("--steps", type=int, default=60, help="of T = 4; sets the time of the baselines")
    parser.add_argument("--one-shot-steps", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: does it run?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/domains"))
    args = parser.parse_args(argv)
    vars(args).update(QUICK if args.quick else {})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Make the rows that are not there yet, print the tables; figures and sheets go to ``--out`` as they are made."""
    args = arguments(argv)
    began = time.monotonic()
    bench = Bench(args)
    setup = {key: getattr(args, key) for key in SETUP} | {"model": bench.pipe.fingerprint.digest}
    record = Figures(args.out, setup)
    left = 0
    for name in args.filters:
        style = bench.style(name)
        for row, make in bench.plan(style, partial(record.rows, name)):
            if row in record.rows(name) or not any(fnmatchcase(row, pattern) for pattern in args.rows):
                continue
            if time.monotonic() - began > 60 * args.minutes:
                left += 1
                continue
            learnt = make()
            record.add(style, row, bench.measure(learnt, style), bench.strip(learnt.draw))
            print(f"{name}, {row}: {learnt.seconds:.0f} s", flush=True)
    for name in args.filters:
        if rows := record.rows(name):
            print(table(name, rows), end="\n\n")
    if left:
        print(f"{counted(left, 'row')} to go: the same command continues.")


if __name__ == "__main__":
    main()
