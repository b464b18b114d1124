"""Make the bundled model from a training run: fit the directions, save in half precision, write the cards.

    python tools/bundle.py runs/mini-faces-128 --pictures 196000 --quality runs/quality/quality.json

Needs the run's ``generator/`` and ``discriminator/``, and the bundled attribute network. The
metrics of the generator's card are those that ``generator_quality.py`` wrote to ``--quality``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from direction_fit import SHIPPED, fit_directions
from tqdm import tqdm
from write_cards import write_cards

from refinestyle_hub import RefineStylePipeline, cards
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.images import contact_sheet, save_png, to_images
from refinestyle_hub.storage.index import read_index, save_index
from refinestyle_hub.storage.model_folder import Folder


ROOT = Path(__file__).parent.parent
NAME = "mini-faces-128"
DATA = (
    "22,500 synthetic portraits (and their mirror images) of 128 px, rendered from the Anny parametric human "
    "(Apache-2.0) over MakeHuman assets (CC0), own textures and lights, framed like FFHQ. No real person is in them."
)
LIMITS = (
    "It saw synthetic portraits only: frontal to three-quarter heads, twelve hair styles, glasses, no hats or hands.",
    "A real photo is outside its domain. Only tokens recover it.",
    "It says nothing about real people. Its ages, genders and skin tones are rendering parameters.",
)
LIMITS_OF_DIRECTIONS = (
    "An attribute is what the attribute network reads in drawn portraits. It says nothing about real people.",
    "Where attributes go together in the portraits, an edit may bring a part of the other: see the measured leak.",
)


def metrics(path: Path | None) -> tuple[cards.Metric, ...]:
    """What ``generator_quality.py`` found: each measure of the samples, and of the rows that give the scale."""
    if path is None:
        return ()
    report = json.loads(path.read_text(encoding="utf-8"))
    command = f"python benchmarks/generator_quality.py {NAME} --data portraits-128.zip"
    words = {"kernel_x1000": "Kernel distance x 1000", "frechet": "Frechet distance"}
    words |= {"precision": "Precision", "recall": "Recall"}
    rows = [
        cards.Metric(
            name=f"{word} in attribute features",
            value=found[key],
            dataset=f"{name} against half of the train split",
            samples=found["pictures"],
            seed=report["seed"],
            command=command,
            reference=name != "samples",
        )
        for key, word in words.items()
        for name, found in report["sets"].items()
    ]
    for name in ("samples", "portraits"):
        rows.append(
            cards.Metric(
                name="Share in which dlib finds a face",
                value=report["face_found"][name],
                dataset=name,
                samples=report["face_found"]["pictures"],
                seed=report["seed"],
                command=command,
                reference=name != "samples",
            )
        )
    return tuple(rows)


def sheet(generator: Generator, truncation: float, side: int = 8) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(side * side, generator.config.z_dim, generator=rng)
    with torch.no_grad():
        return list(torch.cat([generator(generator.map(part, truncation)) for part in z.split(side)]))


def save(run: Path, folder: Path, samples: int, measured: int) -> None:
    """Fit the directions to the averaged generator of a run, and write the model."""
    generator = Generator.from_pretrained(run / "generator").eval().requires_grad_(False)
    discriminator = Discriminator.from_pretrained(run / "discriminator").eval().requires_grad_(False)
    net = AttributeNet.from_pretrained(NAME)
    with tqdm(desc="directions", unit="picture") as bar:

        def on_step(seen: int, total: int) -> None:
            bar.total = total
            bar.update(seen - bar.n)

        directions = fit_directions(
            generator, net.read, samples, measured=measured, licence="apache-2.0", on_step=on_step
        )
    for part in ("generator", "discriminator", "directions", "encoder", "domains"):  # of an earlier one nothing stays
        shutil.rmtree(folder / part, ignore_errors=True)
    RefineStylePipeline(generator, discriminator, directions).save_pretrained(folder, variant="fp16")
    index = read_index(Folder(folder))
    save_index(folder, replace(index, parts=(*index.parts, "attributes")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--quality", type=Path, default=None)
    parser.add_argument("--cards-only", action="store_true", help="the model is there; bring its cards up to date")
    parser.add_argument("--pictures", type=int, required=True, help="pictures at this size that the run saw in all")
    parser.add_argument("--samples", type=int, default=4000, help="for the directions")
    parser.add_argument("--measured", type=int, default=64, help="samples on which directions are measured")
    arguments = parser.parse_args()

    folder = ROOT / "refinestyle_hub" / "pretrained" / NAME
    if not arguments.cards_only:
        save(arguments.run, folder, arguments.samples, arguments.measured)
    pipe = RefineStylePipeline.from_pretrained(folder)

    pictures = []
    for truncation in (0.8, 1.0):
        file = f"{NAME}-truncation-{truncation:.1f}.png"
        images = to_images(torch.stack(sheet(pipe.generator, truncation)))
        save_png(contact_sheet(images, columns=8), ROOT / "model_cards" / file)
        pictures.append(cards.Picture(file, f"Sixty-four samples, not chosen, at truncation {truncation}"))
    if arguments.quality is not None:
        file = f"{NAME}-neighbours.png"
        shutil.copyfile(arguments.quality.parent / "neighbours.png", ROOT / "model_cards" / file)
        pictures.append(cards.Picture(file, "Sixteen samples, each before the five training pictures nearest to it"))
    command = "# not reproducible by one command: training/mini-faces-128/README.md has the phases and their settings"
    common = {"license": "apache-2.0", "data": DATA}
    parts = {
        "generator": cards.Card(
            title=f"{NAME}: generator",
            summary=f"The bundled StyleGAN2 generator, trained on {arguments.pictures:,} pictures at 128 px.",
            training=command,
            metrics=metrics(arguments.quality),
            pictures=tuple(pictures),
            limits=LIMITS,
            **common,
        ),
        "directions": cards.Card(
            title=f"{NAME}: editing directions",
            summary="Thirteen directions in w+. Strength 1 is half to one standard deviation of the attribute.",
            training=f"python tools/bundle.py runs/{NAME} --samples {arguments.samples}",
            metrics=direction_metrics(pipe.directions),
            base_model=NAME,
            limits=LIMITS_OF_DIRECTIONS,
            **common,
        ),
    }
    for part, card in parts.items():
        (folder / part / cards.FACTS).write_bytes(cards.dump_card(card))
    for path in write_cards():
        print(path.relative_to(ROOT))


def direction_metrics(directions: object) -> tuple[cards.Metric, ...]:
    """Effect of one unit on the direction's own attribute, and the largest leak, as measured when fitted."""
    rows = []
    for name, direction in sorted(directions.items()):  # type: ignore[attr-defined]
        info = direction.info
        worst = max(info.leak, key=info.leak.__getitem__)
        own = info.effect[SHIPPED[name]]
        common = {"dataset": "samples of the generator, read by the attribute network"}
        rows.append(cards.Metric(name=f"{name}: change for strength 1 ({info.unit})", value=own, **common))
        rows.append(
            cards.Metric(name=f"{name}: largest leak, into {worst}", value=info.leak[worst], unit="sd", **common)
        )
    return tuple(rows)


if __name__ == "__main__":
    main()
