"""Make the domains of the bundled model: one for each folder of pictures, with its card and preview.

    python tools/bundle_domains.py ../shared/data/domains

The pictures are crops already (``--align none``). Previews are of random seeds: in rows, the plain samples and the
same samples in the domain.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tqdm import tqdm
from write_cards import write_cards

from refinestyle_hub import RefineStylePipeline, TokenSet, cards
from refinestyle_hub.adapt import STEPS
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.images import contact_sheet, save_png
from refinestyle_hub.storage.index import PipelineIndex, read_index, save_index


ROOT = Path(__file__).parent.parent
NAME = "mini-faces-128"
SEEDS = range(8)
RIGHTS = "Drawn by a program for this project; free of rights of others."
LIMITS = (
    "Made for samples and inversions of mini-faces-128. Other generators refuse it, except those fine-tuned from it.",
    "The example pictures were rendered like the portraits that the generator was trained on.",
)


def sheet(pipe: RefineStylePipeline, tokens: TokenSet, path: Path) -> None:
    rows = [pipe.generate(SEEDS, domains={tokens: s}) for s in (0.0, 0.5, 1.0)]
    save_png(contact_sheet([image for row in rows for image in row], columns=len(SEEDS)), path)


def make(pipe: RefineStylePipeline, pictures: list[Path], name: str, steps: int) -> tuple[TokenSet, float]:
    """The domain and the seconds it took."""
    began = time.monotonic()
    with tqdm(desc=name, total=steps, unit="step") as bar:

        def on_step(step: int, steps: int, figures: object) -> bool:
            bar.update(step - bar.n)
            return False

        tokens = pipe.adapt(pictures, name=name, rights=RIGHTS, steps=steps, align="none", on_step=on_step)
    return tokens, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", type=Path, help="folder with one folder of pictures for each domain")
    parser.add_argument("--only", nargs="*", default=None, help="names of those to make")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()

    model = ROOT / "refinestyle_hub" / "pretrained" / NAME
    pipe = RefineStylePipeline.from_pretrained(model)
    for folder in sorted(path for path in arguments.domains.iterdir() if path.is_dir()):
        name = folder.name
        if arguments.only and name not in arguments.only:
            continue
        pictures = sorted(folder.glob("*.jpg"))
        tokens, seconds = make(pipe, pictures, name, arguments.steps)
        target = model / "domains" / name
        tokens.save_pretrained(target)
        picture = f"{NAME}-domain-{name}.png"
        sheet(pipe, tokens, ROOT / "model_cards" / picture)
        card = cards.Card(
            license="apache-2.0",
            title=f"{NAME}: {name}",
            summary=f"The style of {len(pictures)} pictures as a token set for {NAME}.",
            base_model=NAME,
            data=f"{len(pictures)} synthetic pictures in the style. They are not paired with the generator's samples.",
            training=f"refinestyle adapt {NAME} {name}/*.jpg --name {name} --align none --steps {arguments.steps}",
            cost=f"{seconds / 60:.1f} minutes on one core of a shared machine",
            limits=LIMITS,
            pictures=(cards.Picture(picture, "Eight samples plain, at strength 0.5, and at strength 1"),),
        )
        (target / cards.FACTS).write_bytes(cards.dump_card(card))
        index = read_index(open_source(model))
        save_index(model, PipelineIndex(index.parts, tuple(sorted({*index.domains, name}))))
    for path in write_cards():
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
