"""How good few-shot domains are, beside fine-tuning and style offsets learnt by the same terms, in one table.

    python benchmarks/domains.py mini-faces-128 --data portraits-128.zip --out runs/domains

The styles are filters of our own (`domain_filters.py`), put on portraits of the train split: ten of them are what a
run sees, a thousand others are the true pictures that it is measured against. No shipped domain and no picture of
another split is touched. Every baseline gets the wall clock of T = 4, on the same machine in the same minutes, and the
best of three learning rates by the very figure that is reported, which flatters it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from domain_baselines import EVERYTHING, STYLES, FineTuning, Weights, one_shot
from domain_filters import FILTERS, Filter
from torch import Tensor

from refinestyle_hub import RefineStylePipeline
from refinestyle_hub.adapt import STEPS, Adaptation, References, preset
from refinestyle_hub.attributes import AttributeNet
from refinestyle_hub.evaluate_domain import Draw, Judges, compare, sample_codes
from refinestyle_hub.files import dump_json, write_folder
from refinestyle_hub.images import contact_sheet, save_png, to_images
from refinestyle_hub.train.data import Pictures, open_pictures, to_float


RATES = {"fine-tuning": (3e-4, 1e-3, 3e-3), "style offsets": (5e-3, 2e-2, 8e-2)}
PATTERNS = {"fine-tuning": EVERYTHING, "style offsets": STYLES}
PROBE = 5  # steps whose median says what a step costs
TRAINED_BYTES = 12  # per number: a gradient and Adam's two moments, fp32
MORE = 2  # filters for which the longer list of rows is made
SHOWN = 8  # samples in the sheets; above them the references


@dataclass
class Learnt:
    """A change of the generator, and what it took."""

    draw: Draw
    numbers: int
    steps: int
    seconds: float
    note: str = ""


@dataclass
class Style:
    """A filter, the pictures that runs see, and those they are measured against."""

    name: str
    references: References
    true: Tensor  # [M, 3, R, R]


class Bench:
    """What all rows share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.pipe = RefineStylePipeline.from_pretrained(args.model)
        self.pipe.generator.requires_grad_(False)
        net = AttributeNet.from_pretrained(args.attributes)
        self.judges = Judges(net, self.pipe.discriminator, self.pipe.perceptual)
        self.portraits = open_pictures(args.data, self.pipe.generator.config.resolution, "train")
        self.codes = sample_codes(self.pipe.generator, args.samples, seed=args.seed)

    def plain(self, w_plus: Tensor) -> Tensor:
        """The generator as it is."""
        picture: Tensor = self.pipe.generator(w_plus)
        return picture.clamp(-1, 1)

    def style(self, name: str) -> Style:
        """The same pictures for every row; references and true pictures have no portrait in common."""
        order = torch.randperm(len(self.portraits), generator=torch.Generator().manual_seed(self.args.seed))
        chosen = order[: self.args.pictures + self.args.true]
        pictures = filtered(self.portraits, chosen, FILTERS[name], self.args.seed)
        seen, true = pictures[: self.args.pictures], pictures[self.args.pictures :]
        names = tuple(self.portraits.names[int(i)] for i in chosen[: len(seen)])
        return Style(name, References(seen, names, (False,) * len(seen)), true)

    def measure(self, learnt: Learnt, style: Style) -> dict[str, Any]:
        """The figures of a row."""
        report = compare(
            self.plain, learnt.draw, self.codes, style.true, self.judges,
            references=style.references.pictures, faces=self.args.faces, seed=self.args.seed,
        )  # fmt: skip
        cost = {
            "numbers": learnt.numbers,
            "bytes": 4 * learnt.numbers,
            "training_bytes": TRAINED_BYTES * learnt.numbers,
            "steps": learnt.steps,
            "seconds": round(learnt.seconds, 1),
            "learnt_with": learnt.note,
        }
        return {**report, **cost}

    # --- Rows ---

    def tokens(self, references: References, rank: int, steps: int) -> Learnt:
        """Ours, by the shipped settings."""
        run = self.pipe.adaptation(references, tokens=rank, steps=steps, seed=self.args.seed)
        run.run()
        found, generator = run.token_set(), self.pipe.generator
        return Learnt(
            lambda w: generator(w, found).clamp(-1, 1), found.num_values, run.best_step, run.seconds,
            f"best at step {run.best_step} of {steps}",
        )  # fmt: skip

    def tuned(self, kind: str, references: References, rate: float, budget: Learnt, steps: int) -> Learnt:
        """Weights of the generator by the same terms, in the wall clock that T = 4 had for ``steps`` steps."""
        make = partial(
            FineTuning, self.pipe.generator, references, PATTERNS[kind], rate, settings=preset(len(references)),
            seed=self.args.seed, discriminator=self.pipe.discriminator, perceptual=self.pipe.perceptual,
        )  # fmt: skip
        tokens = partial(self.pipe.adaptation, references, seed=self.args.seed)
        share = step_seconds(make(steps=steps)) / step_seconds(tokens(steps=steps))
        run = make(steps=max(1, round(steps / share)))
        run.run()
        weights = run.parameters
        assert isinstance(weights, Weights)
        return Learnt(
            run.draw(), weights.numel(), run.done, run.seconds, f"rate {rate:g}, {share:.2f} x a step's cost"
        )

    def one_shot(self, references: References) -> Learnt:
        """JoJoGAN's way, from the first of the pictures."""
        generator = self.pipe.generator
        first = References(references.pictures[:1], references.names[:1], references.aligned[:1])
        began = time.monotonic()
        inversion = self.pipe.invert_crops(first.pictures, tokens=False, seed=self.args.seed)[0]
        features = self.pipe.adaptation(first, steps=1).features
        assert features is not None
        steps = self.args.one_shot_steps
        draw = one_shot(generator, features, first.pictures, inversion.w_plus[None], steps=steps, seed=self.args.seed)
        numbers = Weights(generator, EVERYTHING).numel()
        return Learnt(draw, numbers, steps, time.monotonic() - began, "from one picture")

    def rows(self, style: Style, more: bool) -> Iterator[tuple[str, Learnt]]:
        """Every row of a style; of the baselines one for each rate."""
        steps = self.args.steps
        yield "before", Learnt(self.plain, 0, 0, 0.0)
        found: dict[int, Learnt] = {}
        for rank in (1, 2, 4, 8, 16) if more else (1, 4, 16):
            found[rank] = self.tokens(style.references, rank, steps)
            yield f"T = {rank}", found[rank]
        per_step = found[4].seconds / steps
        quick = max(1, min(steps, round(self.args.quick / per_step)))
        yield f"T = 4 in {self.args.quick:g} s", self.tokens(style.references, 4, quick)
        for kind, rates in RATES.items():
            for rate in rates:
                yield f"{kind}@{rate:g}", self.tuned(kind, style.references, rate, found[4], steps)
        if more:
            one = References(style.references.pictures[:1], style.references.names[:1], (False,))
            yield "T = 4, one picture", self.tokens(one, 4, steps)
            yield "JoJoGAN-like, one picture", self.one_shot(style.references)


def filtered(portraits: Pictures, chosen: Tensor, change: Filter, seed: int) -> Tensor:
    """The portraits with these numbers in a style, [M, 3, R, R]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.cat([change(to_float(portraits.take(part)), rng).clamp(-1, 1) for part in chosen.split(50)])


def step_seconds(run: Adaptation) -> float:
    """Median cost of a step, after one to warm up."""
    times = []
    for _ in range(PROBE + 1):
        began = time.monotonic()
        run.step()
        times.append(time.monotonic() - began)
    return statistics.median(times[1:])


def best_rates(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the rows of one baseline that with the smallest kernel distance."""
    kept: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        kind = name.partition("@")[0]
        if kind not in kept or kernel(row) < kernel(kept[kind]):
            kept[kind] = row
    return kept


def kernel(row: dict[str, Any]) -> float:
    """What rows are ranked by."""
    value: float = row["attribute_features"]["kernel_x1000"]
    return value


# --- The table ------------------------------------------------------------------------------------------------------

COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("numbers", lambda r: f"{r['numbers']:,}"),
    ("KB", lambda r: f"{r['bytes'] / 1e3:,.0f}"),
    ("training MB", lambda r: f"{r['training_bytes'] / 1e6:.2f}"),
    ("steps", lambda r: f"{r['steps']}"),
    ("s", lambda r: f"{r['seconds']:.0f}"),
    ("kernel x1000", lambda r: figure(r["attribute_features"], "kernel_x1000", ".1f")),
    ("+-", lambda r: figure(r["attribute_features"], "kernel_x1000_std", ".1f")),
    ("gap closed", lambda r: figure(r["attribute_features"], "gap_closed", ".0%")),
    ("Frechet", lambda r: figure(r["attribute_features"], "frechet", ".1f")),
    ("D kernel x1000", lambda r: figure(r["discriminator_features"], "kernel_x1000", ".1f")),
    ("D Frechet", lambda r: figure(r["discriminator_features"], "frechet", ".1f")),
    ("diversity", lambda r: figure(r["diversity"], "intra_perceptual", ".3f")),
    ("landmark drift", lambda r: figure(r["landmarks"], "drift", ".3f")),
    ("measured", lambda r: figure(r["landmarks"], "share", ".0%")),
    ("content drift, sd", lambda r: figure(r["attributes"], "content_deviations", ".2f")),
    ("readable", lambda r: figure(r["attributes"], "share", ".0%")),
    ("learnt with", lambda r: str(r["learnt_with"])),
)


def figure(part: dict[str, Any] | None, key: str, form: str) -> str:
    """A figure, or a dash where it could not be measured."""
    return "-" if part is None or part[key] is None else format(part[key], form)


def table(style: str, rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, best rates only."""
    lines = [
        f"## {style}",
        "",
        "| | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for name, row in best_rates(rows).items():
        lines.append(f"| {name} | " + " | ".join(show(row) for _, show in COLUMNS) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, make every row, print the tables; figures and sheets go to ``--out`` as they are made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--data", required=True, help="zip or folder of the portraits; its train split is used")
    parser.add_argument("--attributes", default=Path(__file__).parent / "attributes", help="the attribute network")
    parser.add_argument("--filters", nargs="+", choices=FILTERS, default=list(FILTERS)[:3])
    parser.add_argument("--pictures", type=int, default=10, help="that a run sees")
    parser.add_argument("--true", type=int, default=1000, help="pictures to measure against")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--faces", type=int, default=100, help="samples whose landmarks are compared")
    parser.add_argument("--steps", type=int, default=STEPS, help="of T = 4; sets the wall clock of the baselines")
    parser.add_argument("--one-shot-steps", type=int, default=200)
    parser.add_argument("--quick", type=float, default=60.0, help="seconds of the row for impatient users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/domains"))
    args = parser.parse_args(argv)

    bench = Bench(args)
    report: dict[str, Any] = {"model": Path(args.model).name, "threads": torch.get_num_threads(), "styles": {}}
    for place, name in enumerate(args.filters):
        style = bench.style(name)
        rows: dict[str, dict[str, Any]] = {}
        shown = bench.codes[:SHOWN]
        sheet = to_images(torch.cat([style.references.pictures, style.true])[:SHOWN])
        for row, learnt in bench.rows(style, more=place < MORE):
            rows[row] = bench.measure(learnt, style)
            with torch.no_grad():
                sheet += to_images(learnt.draw(shown))
            report["styles"][name] = {"references": style.references.names, "rows": rows}
            write_folder(args.out, {"domains.json": dump_json(report)})
            save_png(contact_sheet(sheet, len(shown)), args.out / f"{name}.png")
        print(table(name, rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
