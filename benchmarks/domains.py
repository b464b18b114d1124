"""How good few-shot domains are, beside fine-tuning and style offsets learnt by the same terms, in one table.

    python benchmarks/domains.py mini-faces-128 --data portraits-128.zip --out runs/domains

The styles are filters of our own (`domain_filters.py`), put on portraits of the train split: ten of them are what a
run sees, a thousand others are the true pictures that it is measured against. No shipped domain and no picture of
another split is touched. Every baseline gets the wall clock of T = 4, on the same machine in the same minutes, and the
best of three learning rates by the very figure that is reported, which flatters it.

The same command continues where it was stopped, row by row. A first look in some 20 minutes of two cores:

    ... --filters charcoal bulge --rows before "T = 4" "fine-tuning*" "style offsets*" --rates 1 --steps 150
        --samples 300 --true 300 --faces 40 --minutes 25
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from domain_baselines import EVERYTHING, STYLES, FineTuning, Weights, one_shot
from domain_costs import step_costs
from domain_filters import FILTERS, Filter
from domain_table import table
from PIL import Image
from torch import Tensor

from refinestyle_hub import RefineStylePipeline
from refinestyle_hub.adapt import STEPS, References, preset
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.evaluation.domain import TRAINING_BYTES, Draw, MetricNets, compare, sample_codes
from refinestyle_hub.images import contact_sheet, from_uint8, save_png, to_images
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.train.dataset import Pictures, open_pictures


RATES = {"fine-tuning": (1e-3, 3e-4, 3e-3), "style offsets": (2e-2, 5e-3, 8e-2)}  # the likeliest first
PATTERNS = {"fine-tuning": EVERYTHING, "style offsets": STYLES}
MORE = 2  # filters for which the longer list of rows is made
SHOWN = 8  # samples in the sheets; above them the references
REPORT = "domains.json"
# what figures of one table have in common
SETUP = ("seed", "pictures", "true", "samples", "faces", "steps", "one_shot_steps", "quick")


@dataclass
class Learnt:
    """A change of the generator, and what it took."""

    draw: Draw
    numbers: int
    steps: int
    seconds: float
    note: str = ""


Plan = dict[str, Callable[[], Learnt]]  # by row: what makes it


class Style:
    """A filter, the pictures that runs see, and those they are measured against."""

    def __init__(self, name: str, portraits: Pictures, seen: int, true: int, seed: int) -> None:
        order = torch.randperm(len(portraits), generator=torch.Generator().manual_seed(seed))
        self.name, self.portraits, self.seed = name, portraits, seed
        self.chosen, self.seen = order[: seen + true], seen

    @cached_property
    def pictures(self) -> Tensor:
        """The same for every row; references and true pictures have no portrait in common."""
        return filtered(self.portraits, self.chosen, FILTERS[self.name], self.seed)

    @property
    def true(self) -> Tensor:
        """[M, 3, R, R]."""
        return self.pictures[self.seen :]

    @property
    def references(self) -> References:
        """What runs see."""
        names = tuple(self.portraits.names[int(i)] for i in self.chosen[: self.seen])
        return References(self.pictures[: self.seen], names, (False,) * len(names))


class Bench:
    """What all rows share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.pipe = RefineStylePipeline.from_pretrained(args.model)
        net = AttributeNet.from_pretrained(args.attributes)
        self.nets = MetricNets(net, self.pipe.discriminator, self.pipe.perceptual)
        self.portraits = open_pictures(args.data, self.pipe.generator.config.resolution, "train")
        self.codes = sample_codes(self.pipe.generator, args.samples, seed=args.seed)

    def plain(self, w_plus: Tensor) -> Tensor:
        """The generator as it is."""
        picture: Tensor = self.pipe.generator(w_plus)
        return picture.clamp(-1, 1)

    def style(self, name: str) -> Style:
        """One of the filters."""
        return Style(name, self.portraits, self.args.pictures, self.args.true, self.args.seed)

    def measure(self, learnt: Learnt, style: Style) -> dict[str, Any]:
        """The figures of a row."""
        report = compare(
            self.plain, learnt.draw, self.codes, style.true, self.nets,
            references=style.references.pictures, faces=self.args.faces, seed=self.args.seed,
        )  # fmt: skip
        cost = {
            "numbers": learnt.numbers,
            "bytes": 4 * learnt.numbers,
            "training_bytes": TRAINING_BYTES * learnt.numbers,
            "steps": learnt.steps,
            "seconds": round(learnt.seconds, 1),
            "learnt_with": learnt.note,
        }
        return {**report, **cost}

    def strip(self, draw: Draw) -> Image.Image:
        """The row of a sheet."""
        with torch.no_grad():
            return contact_sheet(to_images(draw(self.codes[:SHOWN])), SHOWN)

    # --- Rows ---

    def tokens(self, style: Style, rank: int, steps: int, single: bool = False) -> Learnt:
        """Ours, by the shipped settings; ``single``: from the first of the pictures."""
        references = only(style.references) if single else style.references
        run = self.pipe.adaptation(references, tokens=rank, steps=steps, seed=self.args.seed)
        run.run()
        found, generator = run.token_set(), self.pipe.generator
        return Learnt(
            lambda w: generator(w, found).clamp(-1, 1), found.num_values, found.metadata["steps"], run.seconds,
            f"best of {steps} steps",
        )  # fmt: skip

    def quick(self, style: Style) -> Learnt:
        """Ours, in as many steps as there is time for."""
        references = style.references
        costs = step_costs(partial(self.pipe.adaptation, references, seed=self.args.seed), preset(len(references)))
        return self.tokens(style, 4, min(self.args.steps, costs.steps_in(self.args.quick)))

    def tuned(self, kind: str, style: Style, rate: float) -> Learnt:
        """Weights of the generator by the same terms, in the wall clock that T = 4 has."""
        references = style.references
        settings = preset(len(references))
        make = partial(
            FineTuning, self.pipe.generator, references, PATTERNS[kind], rate,
            seed=self.args.seed, discriminator=self.pipe.discriminator, perceptual=self.pipe.perceptual,
        )  # fmt: skip
        ours = step_costs(partial(self.pipe.adaptation, references, seed=self.args.seed), settings)
        theirs = step_costs(make, settings)
        run = make(steps=theirs.steps_in(ours.seconds(self.args.steps)), settings=settings)
        run.run()
        weights = run.parameters
        assert isinstance(weights, Weights)
        note = f"rate {rate:g}, {self.args.steps / run.steps:.2f} x a step's cost"
        return Learnt(run.draw(), weights.numel(), run.best_step, run.seconds, note)

    def one_shot(self, style: Style) -> Learnt:
        """JoJoGAN's way, from the first of the pictures."""
        generator, first = self.pipe.generator, only(style.references)
        began = time.monotonic()
        inversion = self.pipe.invert_crops(first.pictures, tokens=False, seed=self.args.seed)[0]
        features = self.pipe.adaptation(first, steps=1).sampler.features
        assert features is not None
        steps = self.args.one_shot_steps
        draw = one_shot(generator, features, first.pictures, inversion.w_plus[None], steps=steps, seed=self.args.seed)
        numbers = Weights(generator, EVERYTHING).numel()
        return Learnt(draw, numbers, steps, time.monotonic() - began, "from one picture")

    def plan(self, style: Style, more: bool) -> Plan:
        """The rows of a style that are asked for; of the baselines one for each rate."""
        steps = self.args.steps
        rows: Plan = {
            "before": partial(Learnt, self.plain, 0, 0, 0.0),
            "T = 4": partial(self.tokens, style, 4, steps),
        }
        for kind, rates in RATES.items():
            for rate in rates[: self.args.rates]:
                rows[f"{kind}@{rate:g}"] = partial(self.tuned, kind, style, rate)
        rows[f"T = 4 in {self.args.quick:g} s"] = partial(self.quick, style)
        for rank in (1, 16, 2, 8) if more else (1, 16):
            rows[f"T = {rank}"] = partial(self.tokens, style, rank, steps)
        if more:
            rows["T = 4, one picture"] = partial(self.tokens, style, 4, steps, single=True)
            rows["JoJoGAN-like, one picture"] = partial(self.one_shot, style)
        return {name: make for name, make in rows.items() if any(fnmatchcase(name, p) for p in self.args.rows)}


def only(references: References) -> References:
    """The first."""
    return References(references.pictures[:1], references.names[:1], references.aligned[:1])


def filtered(portraits: Pictures, chosen: Tensor, change: Filter, seed: int) -> Tensor:
    """The portraits with these numbers in a style, [M, 3, R, R]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.cat([change(from_uint8(portraits.take(part)), rng).clamp(-1, 1) for part in chosen.split(50)])


# --- Figures as they are made ---------------------------------------------------------------------------------------


class Record:
    """The folder of a table: what is in it is not made again."""

    def __init__(self, folder: Path, setup: Mapping[str, Any]) -> None:
        """Raises SystemExit where the folder has figures of another setup: they do not belong in one table."""
        self.folder = folder
        self.report: dict[str, Any] = {"setup": dict(setup), "styles": {}}
        if (folder / REPORT).exists():
            found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            if different := [key for key in setup if found["setup"].get(key) != setup[key]]:
                raise SystemExit(f"{folder} has figures of another {', '.join(different)}: name another --out.")
            self.report = found

    def rows(self, style: str) -> dict[str, dict[str, Any]]:
        """What is there."""
        found: dict[str, dict[str, Any]] = self.report["styles"].get(style, {}).get("rows", {})
        return found

    def add(self, style: Style, row: str, figures: Mapping[str, Any], strip: Image.Image) -> None:
        """Keep a row, and draw the sheet anew."""
        part = self.report["styles"].setdefault(style.name, {"references": style.references.names, "rows": {}})
        save_png(strip, self.strip(style.name, row))
        part["rows"][row] = {**figures, "threads": torch.get_num_threads()}
        write_folder(self.folder, {REPORT: dump_json(self.report)})
        strips = [contact_sheet(to_images(style.pictures[:SHOWN]), SHOWN)]
        for name in part["rows"]:
            with Image.open(self.strip(style.name, name)) as image:
                strips.append(image.convert("RGB"))
        save_png(contact_sheet(strips, 1), self.folder / f"{style.name}.png")

    def strip(self, style: str, row: str) -> Path:
        """Where the pictures of a row are."""
        return self.folder / "rows" / f"{style}-{re.sub(r'[^a-z0-9.]+', '-', row.lower())}.png"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--data", required=True, help="zip or folder of the portraits; its train split is used")
    parser.add_argument("--attributes", default="mini-faces-128", help="model with the attribute network")
    parser.add_argument("--filters", nargs="+", choices=FILTERS, default=list(FILTERS)[:3])
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or globs of those to make")
    parser.add_argument("--rates", type=int, choices=(1, 2, 3), default=3, help="learning rates of each baseline")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no row is begun")
    parser.add_argument("--pictures", type=int, default=10, help="that a run sees")
    parser.add_argument("--true", type=int, default=1000, help="pictures to measure against")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--faces", type=int, default=100, help="samples whose landmarks are compared")
    parser.add_argument("--steps", type=int, default=STEPS, help="of T = 4; sets the wall clock of the baselines")
    parser.add_argument("--one-shot-steps", type=int, default=200)
    parser.add_argument("--quick", type=float, default=60.0, help="seconds of the row for impatient users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/domains"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the rows that are not there yet, print the tables; figures and sheets go to ``--out`` as they are made."""
    args = arguments(argv)
    began = time.monotonic()
    bench = Bench(args)
    setup = {key: getattr(args, key) for key in SETUP} | {"model": bench.pipe.fingerprint.digest}
    record = Record(args.out, setup)
    left = 0
    for place, name in enumerate(args.filters):
        style = bench.style(name)
        for row, make in bench.plan(style, more=place < MORE).items():
            if row in record.rows(name):
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
        print(f"{left} rows are left: the same command continues.")


if __name__ == "__main__":
    main()
