"""Whether edits survive inversion: what they do to portraits inverted with tokens, against the same edits on w+ alone.

    python benchmarks/edits.py mini-faces-128 --data portraits-128.zip --out runs/edits

The encoder inverts portraits of the test split; ``--steps 50`` optimises the tokens as the demo does. Each direction
is then applied with strengths -3 to 3, and the attribute network reads the pictures. All columns are per unit of
strength, first with tokens, then of w+ alone:

- response: how far the direction's own attribute moves, as the ratio of both; 1: tokens do not hinder the edit
- leak: how far the other attributes move, mean over them, in standard deviations of the portraits
- drift: angle in degrees between the features of the edited picture and of the picture at strength 0
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub.cli.arguments import with_encoder
from refinestyle_hub.editing.directions import Direction, apply
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.images import contact_sheet, from_uint8, save_png, to_images
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.tokens.token_set import TokenSet
from refinestyle_hub.train.dataset import open_pictures


ATTRIBUTES = {"light": "light_azimuth"}  # that a direction of another name moves
BATCH = 16
STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
SHOWN = 4  # portraits on a sheet
Tokens: TypeAlias = Sequence[TokenSet | None] | None  # of each picture


class Readings(NamedTuple):
    """What the network reads off N portraits at S strengths."""

    values: Tensor  # [S, N, K], standardised
    features: Tensor  # [S, N, F]


@torch.no_grad()
def read(
    generator: Generator, net: AttributeNet, batches: Sequence[tuple[Tensor, Tokens]], name: str,
    directions: Mapping[str, Direction], strengths: Sequence[float],
) -> Readings:  # fmt: skip
    """Readings of inverted portraits, batches of (w+, tokens), under an edit."""
    values, features = [], []
    std = torch.tensor(net.config.std)
    for strength in strengths:
        pictures = [generator(apply(w, {name: strength}, directions), t).clamp(-1, 1) for w, t in batches]
        values.append(torch.cat([net.to_units(net(x).values).cpu() / std for x in pictures]))
        features.append(torch.cat([net.features(x).cpu() for x in pictures]))
    return Readings(torch.stack(values), torch.stack(features))


def slopes(readings: Readings, strengths: Sequence[float]) -> Tensor:
    """Change of each reading for one unit of strength, by least squares over the strengths: [N, K]."""
    s = torch.tensor(strengths) - sum(strengths) / len(strengths)
    return torch.einsum("s,snk->nk", s, readings.values) / s.square().sum()


def drift(readings: Readings, strengths: Sequence[float]) -> Tensor:
    """Angle in degrees between features at a strength and at 0, by unit of strength, mean over the strengths: [N]."""
    zero = strengths.index(0.0)
    moved = [i for i, s in enumerate(strengths) if s]
    cosines = [F.cosine_similarity(readings.features[i], readings.features[zero], dim=1) for i in moved]
    angles = [c.clamp(-1, 1).acos().rad2deg() / abs(strengths[i]) for i, c in zip(moved, cosines, strict=True)]
    return torch.stack(angles).mean(dim=0)


def compare(full: Readings, plain: Readings, own: int, count: int, strengths: Sequence[float]) -> dict[str, float]:
    """One row: the readings with tokens and of w+ alone; ``own`` of the ``count`` attributes is what is edited."""
    others = [k for k in range(count) if k != own]
    found = {}
    for name, readings in (("tokens", full), ("w_plus", plain)):
        moved = slopes(readings, strengths)
        found[f"{name}_moved"] = float(moved[:, own].mean())
        found[f"{name}_moved_std"] = float(moved[:, own].std(correction=0))
        found[f"{name}_leak"] = float(moved[:, others].mean(dim=0).abs().mean())
        found[f"{name}_drift"] = float(drift(readings, strengths).mean())
    response = found["tokens_moved"] / found["w_plus_moved"] if found["w_plus_moved"] else 0.0
    return {name: round(value, 4) for name, value in {"response": response, **found}.items()}


def found(pipe: RefineStylePipeline, crops: Tensor, steps: int) -> tuple[Tensor, Tokens]:
    """w+ and tokens of portraits: the encoder's answer, and steps on its tokens."""
    inversions = pipe.invert_crops(crops, steps=steps)
    return torch.stack([one.w_plus for one in inversions]), [one.tokens for one in inversions]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, with a sheet for each direction written into ``args.out``."""
    pipe = RefineStylePipeline.from_pretrained(args.model, device=args.device)
    pipe = with_encoder(pipe, args.encoder)
    if pipe.encoder is None or not pipe.directions:
        raise ConfigError(f"{args.model} needs an encoder (or --encoder) and directions.")
    net = AttributeNet.from_pretrained(args.attributes).to(args.device)
    pictures = open_pictures(args.data, pipe.generator.config.resolution, args.split)
    count = min(args.pictures, len(pictures))
    chosen = torch.arange(count) * len(pictures) // max(count, 1)
    crops = [from_uint8(pictures.take(part)).to(args.device) for part in chosen.split(BATCH)]
    full = [found(pipe, crop, args.steps) for crop in crops]
    plain = [(w_plus, None) for w_plus, _ in full]
    rows = {}
    for name, direction in pipe.directions.items():
        if (attribute := ATTRIBUTES.get(name, name)) not in net.config.attributes:
            continue
        low, high = direction.info.limits
        strengths = [s for s in STRENGTHS if low <= s <= high]
        with_tokens, alone = (
            read(pipe.generator, net, batches, name, pipe.directions, strengths) for batches in (full, plain)
        )
        own = net.config.attributes.index(attribute)
        rows[name] = compare(with_tokens, alone, own, net.config.num_attributes, strengths)
        save_png(sheet(pipe.generator, crops[0], full[0], name, pipe.directions, strengths), args.out / f"{name}.png")
    return {
        "model": Path(args.model).name,
        "pictures": count,
        "split": args.split,
        "steps": args.steps,
        "directions": rows,
    }


@torch.no_grad()
def sheet(
    generator: Generator, crops: Tensor, found: tuple[Tensor, Tokens], name: str,
    directions: Mapping[str, Direction], strengths: Sequence[float],
) -> Any:  # fmt: skip
    """For each of some portraits a line with tokens and a line of w+ alone: the portrait, then all strengths."""
    w_plus, tokens = found
    columns = [
        (generator(edited, tokens), generator(edited))
        for edited in (apply(w_plus, {name: strength}, directions) for strength in strengths)
    ]
    lines = [
        torch.stack([crops[n], *(column[kind][n] for column in columns)])
        for n in range(min(SHOWN, len(crops)))
        for kind in (0, 1)
    ]
    return contact_sheet([image for line in lines for image in to_images(line.clamp(-1, 1))], len(strengths) + 1)


def table(report: Mapping[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = ["| direction | response | leak, tokens | leak, w+ | drift, tokens | drift, w+ |"]
    lines.append("| --- |" + " ---: |" * 5)
    for name, row in report["directions"].items():
        cells = (
            row["response"],
            *(row[f"{kind}_{what}"] for what in ("leak", "drift") for kind in ("tokens", "w_plus")),
        )
        lines.append(f"| {name} | {cells[0]:.0%} | " + " | ".join(f"{cell:.3g}" for cell in cells[1:]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the table, write ``edits.json`` and the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--encoder", help="folder of an encoder, in the place of the model's")
    parser.add_argument("--data", required=True, help="zip or folder of the portraits")
    parser.add_argument("--split", default="test")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=0, help="on the tokens, after the encoder's answer")
    parser.add_argument("--attributes", default="mini-faces-128", help="model with the attribute network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/edits"))
    args = parser.parse_args(argv)
    report = measure(args)
    write_folder(args.out, {"edits.json": dump_json(report)})
    print(table(report))


if __name__ == "__main__":
    main()
