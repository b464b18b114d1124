"""Make the domains of a bundled model: one for each folder of pictures, with its card and preview.

    python tools/bundle_domains.py mini-faces-128 ../shared/data/domains --align none --steps 300
    python tools/bundle_domains.py ffhq-1024 pictures --runs runs
    python tools/bundle_domains.py ffhq-1024 pictures --only pencil --steps 36 --set mixing=1 rate=0.009 --scale 0.75

Previews are of random seeds: in rows, the plain samples and the same samples in the domain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from write_cards import write_cards

from refinestyle_hub import RefineStylePipeline, TokenSet, cards
from refinestyle_hub.adapt import AdaptState, lacks, load_references, preset
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.images import contact_sheet, save_png
from refinestyle_hub.storage.index import read_index, save_index


ROOT = Path(__file__).parent.parent
STRENGTHS = (0.0, 0.5, 1.0)
LARGE = 100_000  # bytes; larger sets ship in half precision
OWN = "Drawn by a program for this project; free of rights of others."
FILTER = "people whom the generator drew, through a filter (`benchmarks/domain_pictures.py`)."
MADE_OF = {  # what the pictures of ffhq-1024's domains are, and the rights to them
    "oil": (
        "details of oil portraits by David Martin, Hammershøi, Sargent, Fantin-Latour, Goodall, Gérard, Opie and "
        "Santi di Tito, from covers of Standard Ebooks.",
        "Public domain: painters dead for over 70 years, photographs dedicated under CC0.",
    ),
    "marble": ("busts rendered for this project from MakeHuman's base mesh and targets (CC0).", OWN),
    "avatar": ("faces drawn by facesjs.", "Drawn by facesjs, Apache-2.0."),
}
TERMS: Mapping[str, Mapping[str, Any]] = {
    "mini-faces-128": {
        "license": "apache-2.0",
        "limits": (
            "Made for samples and inversions of mini-faces-128. Other generators refuse it, except those fine-tuned "
            "from it.",
            "The example pictures were rendered like the portraits that the generator was trained on.",
        ),
    },
    "ffhq-1024": {
        "license": "other",
        "license_name": "apache-2.0-distilled-from-nvidia-nc",
        "license_link": "https://nvlabs.github.io/stylegan2/license.html",
        "limits": (
            "**Terms.** It was made with pictures of a generator whose terms its own card gives; whether they reach a "
            "domain is yours to judge.",
            "Made for samples and inversions of ffhq-1024. Other generators refuse it, except those fine-tuned from "
            "it.",
        ),
    },
}


def sheet(pipe: RefineStylePipeline, tokens: TokenSet, path: Path) -> None:
    """Eight people of 128 px, or four of 192 px: a row for each strength."""
    large = pipe.generator.config.resolution > 128
    seeds, side = (range(4), 192) if large else (range(8), 128)
    size = pipe.generator.config.resolution if not large else 256
    images = [i for s in STRENGTHS for i in pipe.generate(seeds, domains={tokens: s}, resolution=size)]
    save_png(contact_sheet([image.resize((side, side)) for image in images], columns=len(seeds)), path)


def make(pipe: RefineStylePipeline, pictures: Path, runs: Path, rights: str, args: argparse.Namespace) -> TokenSet:
    """The domain of a folder of pictures; a run that was stopped goes on."""
    references = load_references(pictures, pipe.generator.config.resolution, args.align)
    print(f"{pictures.name}: {' '.join(lacks(references)) or 'nothing is missing'}")
    state = runs / f"{pictures.name}.safetensors"
    settings = preset(len(references), args.tokens, with_discriminator=pipe.discriminator is not None)
    settings = replace(settings, **{name: json.loads(value) for name, value in (pair.split("=") for pair in args.set)})
    run = pipe.adaptation(references, AdaptState.at(state), steps=args.steps, settings=settings)
    with tqdm(desc=pictures.name, total=run.steps, unit="step") as bar:

        def on_step(step: int, steps: int, metrics: object) -> bool:
            bar.update(step - bar.n)
            return False

        tokens = run.make({"name": pictures.name, "rights": rights}, on_step, state)
    args.seconds = run.seconds
    return scaled(tokens, args.scale)


def scaled(tokens: TokenSet, factor: float) -> TokenSet:
    """A set whose strength 1 is another, which its metadata say."""
    return tokens if factor == 1 else replace(tokens.scale(factor), metadata={**tokens.metadata, "scaled": factor})


def command(model: str, name: str, pictures: str, args: argparse.Namespace) -> str:
    """What makes the domain: users' own command where it can, else this one."""
    align = "" if args.align == "auto" else f" --align {args.align}"
    steps = "" if args.steps is None else f" --steps {args.steps}"
    if not args.set and args.scale == 1:
        return f"refinestyle adapt {model} {name}/* --name {name} --out domains/{name}{align}{steps}"
    ours = f"python tools/bundle_domains.py {model} {pictures} --only {name}{align}{steps}"
    chosen = f" --set {' '.join(args.set)}" if args.set else ""
    return f"{ours}{chosen}{'' if args.scale == 1 else f' --scale {args.scale:g}'}"


def card(model: str, name: str, tokens: TokenSet, picture: str, data: str, args: argparse.Namespace) -> cards.Card:
    """What is said about a domain."""
    count = tokens.metadata["pictures"]
    return cards.Card(
        **TERMS[model],
        title=f"{model}: {name}",
        summary=f"The style of {count} pictures as a token set for {model}.",
        base_model=model,
        data=f"{count} {data} They are not paired with the generator's samples.",
        training=command(model, name, args.domains.name, args),
        cost=f"{args.seconds / 60:.1f} minutes on {args.machine}",
        pictures=(cards.Picture(picture, "Samples plain, at strength 0.5, and at strength 1"),),
    )


def main() -> None:
    """Make what is asked for, and bring the model's index and the cards up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=TERMS)
    parser.add_argument("domains", type=Path, help="folder with one folder of pictures for each domain")
    parser.add_argument("--only", nargs="*", default=None, help="names of those to make")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="settings beside the preset's")
    parser.add_argument("--scale", type=float, default=1.0, help="what strength 1 shall be, in strengths of the run")
    parser.add_argument("--align", choices=("auto", "none"), default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept, to go on with them")
    parser.add_argument("--machine", default="two cores of a shared machine")
    args = parser.parse_args()

    model = ROOT / "refinestyle_hub" / "pretrained" / args.model
    pipe = RefineStylePipeline.from_pretrained(args.model)
    for folder in sorted(path for path in args.domains.iterdir() if path.is_dir()):
        name = folder.name
        if args.only and name not in args.only:
            continue
        data, rights = MADE_OF.get(name, (FILTER, OWN)) if args.model == "ffhq-1024" else ("synthetic pictures.", OWN)
        tokens = make(pipe, folder, args.runs, rights, args)
        target = model / "domains" / name
        tokens.save_pretrained(target, variant="fp16" if tokens.nbytes > LARGE else None)
        picture = f"{args.model}-domain-{name}.png"
        sheet(pipe, tokens, ROOT / "model_cards" / picture)
        (target / cards.FACTS).write_bytes(cards.dump_card(card(args.model, name, tokens, picture, data, args)))
        index = read_index(open_source(model))
        save_index(model, replace(index, domains=tuple(sorted({*index.domains, name}))))
    for path in write_cards():
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
