"""What encoders, steps after them and optimisation alone make of pictures: portraits, pictures out of domain, photos.

    python benchmarks/inversion.py mini-faces-128 --data portraits-128.zip --domains domains --photos photos \\
        --encoder one-stage=runs/one/encoder --out runs/inversion

The generator is the same in all rows. ``inversion.json`` has all figures, ``inversion.md`` the tables; those of
"a few" pictures also have the ways that take minutes, the others are of all. ``<set>.svg`` draws distance against
seconds. Nothing here was trained on: the portraits are the test split, the pictures out of domain those of the
few-shot sets and portraits changed in ways that the training does not know.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError, counted
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.evaluation.reconstruction import (
    Method,
    baselines,
    distances,
    evaluate_inversion,
    our_methods,
    table,
)
from refinestyle_hub.faces.photo import read_crops
from refinestyle_hub.images import from_uint8
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.train.dataset import Pictures, open_pictures


CURVE = (10, 25, 50, 100)  # steps after the encoder
W_CURVE = (50, 100, 200, 500)
PTI_CURVE = ((100, 50), (200, 150), (450, 350))  # steps of (pivot, generator)


# --- Pictures out of domain: [N, 3, H, W] in [-1, 1] -> the same -----------------------------------------------------


def negative(x: Tensor) -> Tensor:
    """Colours of a negative."""
    return -x


def mosaic(x: Tensor) -> Tensor:
    """Tiles of a 32nd of the side, with dark joints."""
    tile = max(x.shape[-1] // 32, 2)
    y = F.interpolate(F.avg_pool2d(x, tile), scale_factor=tile)
    joints = torch.arange(x.shape[-1]) % tile == 0
    return torch.where(joints[:, None] | joints, torch.tensor(-0.8), y)


def swirl(x: Tensor) -> Tensor:
    """Turned about the centre by up to 70 degrees, less and less outwards."""
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, *x.shape[2:]], align_corners=False)
    angle = math.radians(70) * (1 - grid.norm(dim=-1)).clamp(min=0)  # [1, H, W]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))
    turned = (turn @ grid[..., None])[..., 0].expand(len(x), -1, -1, -1)
    return F.grid_sample(x, turned, padding_mode="reflection", align_corners=False)


def halftone(x: Tensor) -> Tensor:
    """Black dots on paper, larger where it is dark."""
    phase = torch.arange(x.shape[-1]) * (2 * math.pi / max(x.shape[-1] / 32, 3))
    screen = (phase.cos()[:, None] + phase.cos()) / 2  # [H, W] in [-1, 1]
    dots = torch.sigmoid(8 * (x.mean(dim=1, keepdim=True) + screen)) * 1.8 - 0.9
    return dots * torch.tensor([1.0, 0.97, 0.85])[:, None, None]


def paint(x: Tensor) -> Tensor:
    """Three stripes of paint in two colours across the face."""
    height, width = x.shape[2:]
    row = torch.arange(height)[:, None] + 0.15 * torch.arange(width)  # slanted
    y = x.clone()
    for share, colour in ((0.55, (0.9, -0.7, -0.6)), (0.63, (-0.6, 0.2, 0.9)), (0.71, (0.9, -0.7, -0.6))):
        inside = ((row - share * height).abs() < 0.025 * height) & ((torch.arange(width) / width - 0.5).abs() < 0.3)
        y = torch.where(inside, torch.tensor(colour)[:, None, None] * 0.8 + 0.2 * x, y)
    return y


CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (negative, mosaic, swirl, halftone, paint)


def out_of_domain(portraits: Pictures, domains: Path, each: int) -> Tensor:
    """All pictures of the few-shot sets, and ``each`` portraits in every one of ``CHANGES``; all different ones."""
    sets = [
        open_pictures(folder, portraits.resolution, None) for folder in sorted(domains.iterdir()) if folder.is_dir()
    ]
    found = [from_uint8(pictures.take(range(len(pictures)))) for pictures in sets]
    chosen = evenly(len(portraits), each * len(CHANGES))
    for change, some in zip(CHANGES, chosen.split(each), strict=True):
        found.append(change(from_uint8(portraits.take(some))).clamp(-1, 1))
    return torch.cat(found)


def evenly(total: int, count: int) -> Tensor:
    """``count`` of ``total`` numbers, evenly spread; all, if there are fewer."""
    count = min(count, total)
    return torch.arange(count) * total // max(count, 1)


# --- The plot -------------------------------------------------------------------------------------------------------


def plot(rows: Sequence[Mapping[str, Any]], distance: str, title: str) -> bytes:
    """Distance against seconds, logarithmic, as SVG; rows that differ in their steps alone are joined by a line."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        family = re.split(r"(?: \+|,) \d", row["method"])[0]
        at = (max(row["metrics"]["seconds"]["mean"], 1e-4), row["metrics"][distance]["mean"])
        series.setdefault(family, []).append(at)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for family, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=family)
    axes.set(title=title, xscale="log", xlabel="seconds per picture", ylabel=distance)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):  # text as text; the same bytes each time
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


# --- The script -----------------------------------------------------------------------------------------------------


def pipelines(args: argparse.Namespace) -> dict[str, RefineStylePipeline]:
    """By name: the model with its own encoder, and with each of those given."""
    first = RefineStylePipeline.from_pretrained(args.model, device=args.device)
    found = {} if first.encoder is None else {args.name: first}
    for given in args.encoder:
        name, _, folder = given.partition("=")
        if not folder or name in found:
            raise ConfigError(f"--encoder {given}: give NAME=FOLDER, with a name that no other encoder has.")
        encoder = Encoder.from_pretrained(folder).to(args.device)
        pipe = RefineStylePipeline(first.generator, encoder=encoder, inversion=first.inversion)
        pipe.perceptual = first.perceptual
        found[name] = pipe
    if not found:
        raise ConfigError("The model has no encoder: name one with --encoder NAME=FOLDER.")
    return found


def sets(args: argparse.Namespace, size: int) -> Iterator[tuple[str, Tensor]]:
    """Pictures [N, 3, R, R] by the name of their set."""
    portraits = open_pictures(args.data, size, "test")
    if args.test:
        yield "portraits", from_uint8(portraits.take(evenly(len(portraits), args.test)))
    if args.domains:
        yield "out-of-domain", out_of_domain(portraits, args.domains, args.each)
    if args.photos:
        yield "photos", read_crops([args.photos], size)[0]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything; what is finished is written after each method, since all of it takes hours."""
    pipes = pipelines(args)
    main = next(iter(pipes.values()))
    first = next(iter(pipes))
    size = main.generator.config.resolution
    net = AttributeNet.from_pretrained(args.attributes).to(args.device) if args.attributes else None
    by = distances(size, main.perceptual, Perceptual.load("st-lpips-vgg").to(args.device), net)
    num_iters = {first: [int(count) for count in args.num_iters.split(",") if count]}
    if num_iters[first] and (main.encoder is None or main.encoder.second is None):
        raise ConfigError(f"--num-iters: {first} has no second stage.")
    quick = [way for name, pipe in pipes.items() for way in our_methods(pipe, [], name, num_iters.get(name, []))]

    def further(steps: Sequence[int]) -> list[Method]:
        return our_methods(main, steps, first)[len(our_methods(main, [], first)) :]

    whole = [args.steps] if args.steps else []
    curve, w_curve, pti_curve = ((50,), W_CURVE[-1:], PTI_CURVE[-1:]) if args.short else (CURVE, W_CURVE, PTI_CURVE)
    slow, ways = further(curve), baselines(main, w_curve, pti_curve)
    slow += [] if args.baselines else ways
    report: dict[str, Any] = {"model": Path(args.model).name, "tables": {}}
    pictured = list(sets(args, size))
    taken = {
        f"{name}, a few": taken_over(args.baselines, f"{name}, a few", min(args.few, len(crops)), ways, list(by))
        for name, crops in (pictured if args.baselines and args.few else [])
    }
    for name, crops in pictured:
        few = crops[evenly(len(crops), args.few)]
        plans = {f"{name}, a few": (few, [*quick, *slow]), name: (crops, [*quick, *further(whole)])}
        for title, (pictures, methods) in plans.items():
            rows: list[dict[str, Any]] = []
            for method in methods if len(pictures) else []:
                rows += evaluate_inversion([method], pictures.to(args.device), by, warm=bool(rows))
                report["tables"][title] = {"pictures": len(pictures), "rows": rows + taken.get(title, [])}
                write_folder(args.out, {"inversion.json": dump_json(report), "inversion.md": text(report).encode()})
            if rows and title != name:
                shown = f"{name}, {counted(len(pictures), 'picture')}"
                drawing = plot(rows + taken.get(title, []), main.perceptual.name, shown)
                write_folder(args.out, {f"{name}.svg": drawing})
    return report


def taken_over(path: Path, title: str, pictures: int, ways: Sequence[Method], by: Sequence[str]) -> list[Any]:
    """Rows of an earlier run: ways that know of no encoder need not be measured again for another one."""
    found = json.loads(path.read_text(encoding="utf-8"))["tables"].get(title, {"pictures": 0, "rows": []})
    names = {way.name for way in ways}
    rows = [row for row in found["rows"] if row["method"] in names and set(by) <= set(row["metrics"])]
    if found["pictures"] != pictures or len(rows) != len(names):
        told = f"with {', '.join(sorted(names))} by {', '.join(by)}"
        raise ConfigError(f"--baselines has no table {title!r} of {counted(pictures, 'picture')} {told}.")
    return rows


def text(report: Mapping[str, Any]) -> str:
    """All tables, in Markdown."""
    parts = [
        f"## {name}: {counted(found['pictures'], 'picture')}\n\n{table(found['rows'])}"
        for name, found in report["tables"].items()
    ]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--name", default="two-stage", help="of the model's own encoder, in the tables")
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FOLDER", help="one more; repeatable")
    parser.add_argument("--data", required=True, help="zip or folder of the portraits, with their splits")
    parser.add_argument("--domains", type=Path, help="folder of the few-shot sets, a folder each")
    parser.add_argument("--photos", type=Path, help="folder of photos, in which faces are looked for")
    parser.add_argument("--attributes", default="mini-faces-128", help="model with the attribute network")
    parser.add_argument("--test", type=int, default=1000, help="portraits of the test split; 0: none")
    parser.add_argument("--each", type=int, default=40, help="portraits for each change out of domain")
    parser.add_argument("--few", type=int, default=32, help="pictures of a set for the slow ways; 0: none")
    parser.add_argument("--short", action="store_true", help="of the slow ways only the longest, and 50 steps of ours")
    parser.add_argument(
        "--num-iters", default="", help="of the first encoder's second stage, such as 0,1,2,4, on all pictures"
    )
    parser.add_argument("--steps", type=int, default=50, help="after the first encoder, on all pictures; 0: none")
    parser.add_argument(
        "--baselines", type=Path, help="inversion.json of a run with another encoder, whose w+ and PTI are taken over"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/inversion"))
    print(text(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
