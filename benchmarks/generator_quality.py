"""How good the samples of a generator are, in metrics and image grids, against the portraits it was trained on.

    python benchmarks/generator_quality.py mini-faces-128 --data portraits-128.zip --out runs/quality

Set distances are taken in the features of the attribute network (of `mini-faces-128`), divided by their root mean
square over the reference. The reference of every row is one random half of the train split; the rows for scale are
made from the other half, with as many pictures as there are samples. Values of another network, or other numbers of
pictures, cannot be compared with these.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refinestyle_hub.errors import FaceNotFoundError, ShapeError
from refinestyle_hub.evaluation import metrics
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.faces.detect import find_faces
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.images import contact_sheet, from_uint8, save_png, to_images
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.train.dataset import Pictures, open_pictures
from refinestyle_hub.train.degrade import gaussian_blur


BATCH = 50
CHUNK = 2048  # rows of a distance matrix at a time


@torch.no_grad()
def draw(generator: Generator, count: int, truncation: float, seed: int) -> Iterator[Tensor]:
    """Batches of samples ``[N, 3, R, R]`` with fresh noise; the same ones for the same seed and batch size."""
    random = torch.Generator().manual_seed(seed)
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        w = generator.map(torch.randn(n, generator.config.z_dim, generator=random), truncation)
        yield generator(w, noise=generator.noise(n, random)).clamp(-1, 1)


def read(pictures: Pictures, indices: Tensor) -> Iterator[Tensor]:
    """Batches of the pictures with these numbers, in [-1, 1]."""
    for part in torch.split(indices, BATCH):
        yield from_uint8(pictures.take(part))


@torch.no_grad()
def features(net: AttributeNet, batches: Iterable[Tensor]) -> Tensor:
    """Features ``[N, F]`` of batches of pictures."""
    return torch.cat([net.features(batch) for batch in batches])


# --- Neighbours ------------------------------------------------------------------------------------------------------


class PrecisionRecall(NamedTuple):
    """Share of the samples that look real, and share of the real pictures that the samples reach."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    A set is taken for the union of balls around its features, each reaching to its k-th nearest neighbour in the set.
    Both figures depend on the numbers: compare at equal N and M only.

    Args:
        real: Features ``[N, F]``.
        fake: Features ``[M, F]``.
        k: The neighbour that gives the radius.
    """
    real, fake = real.double(), fake.double()
    if min(len(real), len(fake)) <= k:
        raise ShapeError(f"Precision and recall with k = {k} need more than {k} features in either set.")
    real_radius, fake_radius = _radius(real, k), _radius(fake, k)
    return PrecisionRecall(_covered(fake, real, real_radius), _covered(real, fake, fake_radius))


def nearest(queries: Tensor, references: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The `k` nearest references ``[M, F]`` of each query ``[N, F]``: distances ``[N, k]`` and indices ``[N, k]``."""
    queries, references = queries.double(), references.double()
    found = [torch.cdist(part, references).topk(k, largest=False) for part in torch.split(queries, CHUNK)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _radius(features: Tensor, k: int) -> Tensor:
    """Distance of each feature to its k-th nearest neighbour in the set: itself is the nearest of all."""
    return nearest(features, features, k + 1)[0][:, k]


def _covered(queries: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of the queries that lie in the ball of some centre."""
    inside = [(torch.cdist(part, centres) <= radius).any(dim=1) for part in torch.split(queries, CHUNK)]
    return float(torch.cat(inside).double().mean())


# --- rows for scale -------------------------------------------------------------------------------------------------


def blurred(x: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation of a 64th of the side: 2 pixels at 128."""
    return gaussian_blur(x, x.shape[-1] / 64)


def darkened(x: Tensor) -> Tensor:
    """Six tenths of the brightness."""
    return (x + 1) * 0.6 - 1


def shuffled(x: Tensor) -> Tensor:
    """Faces cut into 4 x 4 tiles, which change places: true texture, no face. The same permutation for all."""
    tile = x.shape[-1] // 4
    tiles = x.unfold(2, tile, tile).unfold(3, tile, tile).flatten(2, 3)  # [N, 3, 16, tile, tile]
    tiles = tiles[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    rows = [torch.cat(list(tiles[:, :, 4 * r : 4 * r + 4].unbind(2)), dim=3) for r in range(4)]
    return torch.cat(rows, dim=2)


SCALE: dict[str, Callable[[Tensor], Tensor]] = {
    "other half": lambda x: x,
    "blurred": blurred,
    "darkened": darkened,
    "shuffled": shuffled,
}


def set_distances(net: AttributeNet, generator: Generator, train: Pictures, samples: int, seed: int) -> dict[str, Any]:
    """Row name -> kernel distance (times 1000) and its spread, Frechet distance, precision, recall, number."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    half, other = order[: len(train) // 2], order[len(train) // 2 :][:samples]
    sets = {name: features(net, map(change, read(train, other))) for name, change in SCALE.items()}
    sets["samples"] = features(net, draw(generator, len(other), 1.0, seed))
    reference = features(net, read(train, half))
    scale = reference.square().mean().sqrt()
    return {name: _row(reference / scale, found / scale) for name, found in sets.items()}


def _row(reference: Tensor, found: Tensor) -> dict[str, float]:
    kernel = metrics.kernel_distance(reference, found)
    covered = precision_recall(reference[: len(found)], found)
    return {
        "kernel_x1000": round(1000 * kernel.mean, 3),
        "kernel_x1000_std": round(1000 * kernel.std, 3),
        "frechet": round(metrics.frechet_distance(reference, found), 3),
        **{name: round(value, 4) for name, value in covered._asdict().items()},
        "pictures": len(found),
    }


# --- faces and neighbours -------------------------------------------------------------------------------------------


def face_share(batches: Iterable[Tensor]) -> float:
    """Share of the pictures in which dlib finds a face at the first attempt."""
    found = [_has_face(image) for batch in batches for image in to_images(batch)]
    return sum(found) / len(found)


def _has_face(image: Any) -> bool:
    try:
        return bool(find_faces(image, retries=False))
    except FaceNotFoundError:
        return False


def neighbour_sheet(
    net: AttributeNet, generator: Generator, train: Pictures, count: int, seed: int, k: int = 5
) -> tuple[Any, dict[str, float]]:
    """Samples, each followed by its nearest training pictures, two samples to a line; and how near they are.

    The second result compares the distance of a sample to its nearest training picture with the distance of a training
    picture to its nearest other one: memorised samples would be much nearer.
    """
    known = features(net, read(train, torch.arange(len(train))))
    samples = torch.cat(list(draw(generator, count, 1.0, seed)))
    distances, indices = nearest(features(net, [samples]), known, k)
    images = [
        image
        for sample, near in zip(samples, indices, strict=True)
        for image in to_images(torch.cat([sample[None], from_uint8(train.take(near))]))
    ]
    own = nearest(known[: 10 * count], known, 2)[0][:, 1]  # the nearest is the picture itself
    figures = {"sample_to_train": float(distances[:, 0].median()), "train_to_train": float(own.median())}
    return contact_sheet(images, 2 * (k + 1)), {name: round(value, 4) for name, value in figures.items()}


# --- the script -----------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, with the sheets written into ``args.out``."""
    generator = Generator.from_pretrained(args.model)
    net = AttributeNet.from_pretrained(args.attributes)
    train = open_pictures(args.data, generator.config.resolution, "train")
    start = time.monotonic()
    report: dict[str, Any] = {"model": Path(args.model).name, "seed": args.seed}
    report["sets"] = set_distances(net, generator, train, args.samples, args.seed)
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(args.seed))[: args.faces]
    report["face_found"] = {
        "pictures": args.faces,
        "samples": round(face_share(draw(generator, args.faces, 1.0, args.seed)), 4),
        "portraits": round(face_share(read(train, some)), 4),
    }
    sheet, report["nearest"] = neighbour_sheet(net, generator, train, 16, args.seed)
    save_png(sheet, args.out / "neighbours.png")
    for truncation in (0.8, 1.0):
        images = [image for batch in draw(generator, 64, truncation, args.seed) for image in to_images(batch)]
        save_png(contact_sheet(images, 8), args.out / f"samples-{truncation:g}.png")
    scale = torch.cat([change(next(read(train, some[:8]))) for change in SCALE.values()])
    save_png(contact_sheet(to_images(scale), 8), args.out / "scale.png")
    report["seconds"] = round(time.monotonic() - start)
    return report


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'set':<12}{'kernel x1000':>16}{'Frechet':>10}{'precision':>11}{'recall':>8}"]
    for name, row in report["sets"].items():
        kernel = f"{row['kernel_x1000']:.2f} +- {row['kernel_x1000_std']:.2f}"
        lines.append(f"{name:<12}{kernel:>16}{row['frechet']:>10.2f}{row['precision']:>11.3f}{row['recall']:>8.3f}")
    faces, near = report["face_found"], report["nearest"]
    lines.append(f"dlib finds a face in {faces['samples']:.1%} of the samples, {faces['portraits']:.1%} of portraits")
    lines.append(
        f"distance to the nearest training picture: {near['sample_to_train']:.2f} for samples, "
        f"{near['train_to_train']:.2f} for other training pictures (medians)"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the table, write ``quality.json`` and the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--data", required=True, help="zip or folder of the training pictures")
    parser.add_argument("--attributes", default="mini-faces-128", help="model with the attribute network")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--faces", type=int, default=1000, help="pictures in which dlib looks for a face")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    args = parser.parse_args(argv)
    report = measure(args)
    write_folder(args.out, {"quality.json": dump_json(report)})
    print(table(report))


if __name__ == "__main__":
    main()
