"""Ship a trained encoder with the bundled model: half precision, the model's index, the facts of its card.

    python tools/bundle_encoder.py runs/encoder --data portraits-128.zip --cost "70 minutes on two AVX2 cores" \\
        --inversion runs/inversion/inversion.json

Needs the run's ``state.safetensors`` and ``encoder/``. The metrics of the card are those that ``inversion.py`` wrote;
its picture shows portraits of the test split, and the same distorted: as they are, by w+ alone, and with tokens if
it knows of them. After ``bundle.py``: an encoder of another generator than the bundled one is refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

from write_cards import write_cards

from refinestyle_hub import RefineStylePipeline, cards
from refinestyle_hub.config import EncoderNetwork
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.storage.index import read_index, save_index
from refinestyle_hub.train import checkpoint
from refinestyle_hub.train.dataset import open_pictures
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.validation import save_encoder_grid, validation_pictures


ROOT = Path(__file__).parent.parent
NAME = "mini-faces-128"
ORDER = ("generator", "discriminator", "encoder", "directions", "attributes")
SHOWN = 8  # portraits on the picture
METRICS = ("mse", "lpips-alex", "st-lpips-alex")  # of inversion.json, that the card repeats
DATA = (
    "The 22,500 portraits of the train split (synthetic, see the generator) and samples of the generator. Both are "
    "also distorted, or drawn with random token sets. The few-shot sets and the test split were not used."
)
LIMITS = (
    "It works on aligned crops of one face, and for this generator only.",
    "A real photo is outside the generator's domain: expect a likeness, and use optimisation steps for more.",
)
OF_TOKENS = "Tokens change whole kernels, not places. They improve colours, light and texture, but hardly a detail."
NO_TOKENS = "It predicts w+ alone. Tokens come from optimisation steps."


def command(config: Mapping[str, Any]) -> str:
    """What was said on the command line: the settings that are not the defaults, and no path of a machine."""
    out = f"runs/{Path(config['out']).name}"
    said = ["refinestyle train encoder", Path(config["data"]).name, "--model", NAME, "--out", out]
    values = {**config, **config["network"]}
    for field in (*fields(EncoderTraining), *fields(EncoderNetwork)):
        value = values.get(field.name, field.default)
        if field.default is MISSING or value == field.default or value == list(_listed(field.default)):
            continue
        if isinstance(value, bool):
            said.append(f"--{'' if value else 'no-'}{field.name.replace('_', '-')}")
            continue
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        said += [f"--{field.name.replace('_', '-')}", quote(text if not Path(text).is_absolute() else Path(text).name)]
    return " ".join(said)


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def metrics(path: Path | None, own: str) -> tuple[cards.Metric, ...]:
    """Mean distances over each whole set of pictures; the rows of other ways give the scale."""
    if path is None:
        return ()
    tables = json.loads(path.read_text(encoding="utf-8"))["tables"]
    return tuple(
        cards.Metric(
            name=f"{row['method']}: {name}",
            value=found["mean"],
            dataset=title,
            samples=table["pictures"],
            command="python benchmarks/inversion.py",
            reference=row["method"] != own,
        )
        for title, table in tables.items()
        if not title.endswith("a few")
        for row in table["rows"]
        for name, found in row["metrics"].items()
        if name in METRICS
    )


def bundle(run: Path, model: Path, data: str, picture: Path, began: str = "", **facts: Any) -> None:
    """Write the encoder of a run, its card's facts and its picture, and name it in the model's index.

    Args:
        began: folder of the encoder that the run began with, where the name that it was given means another by now.

    Raises:
        BaseMismatchError: it was trained for another generator.
    """
    encoder = Encoder.from_pretrained(run / "encoder")
    generator = Generator.from_pretrained(model, subfolder="generator")
    RefineStylePipeline(generator, encoder=encoder)  # which checks that they belong together
    shutil.rmtree(model / "encoder", ignore_errors=True)  # of an earlier one nothing stays
    encoder.save_pretrained(model / "encoder", "fp16")
    state = checkpoint.read(run / "state.safetensors")[1]
    config = state["config"] | ({"start_from": began} if began else {})
    more = " after the encoder that it started from" if config.get("start_whole") else ""
    answers, seen = ("w+ and tokens", "w+ alone and with tokens") if encoder.config.network.layers else ("w+", "w+")
    card = cards.Card(
        license="apache-2.0",
        title=f"{NAME}: encoder",
        summary=f"Predicts {answers} from a portrait; trained on {state['seen']:,} pictures{more}.",
        base_model=NAME,
        data=DATA,
        training=command(config),
        limits=(*LIMITS, OF_TOKENS if encoder.config.network.layers else NO_TOKENS),
        pictures=(cards.Picture(picture.name, f"Test portraits, and as drawn by {seen}; the same, distorted"),),
        **facts,
    )
    (model / "encoder" / cards.FACTS).write_bytes(cards.dump_card(card))
    pictures = open_pictures(data, generator.config.resolution, "test")
    shipped = Encoder.from_pretrained(model, subfolder="encoder")  # in half precision, as users have it
    save_encoder_grid(shipped, generator, shipped.load_distance(), validation_pictures(pictures, SHOWN), picture)
    index = read_index(open_source(model))
    parts = tuple(part for part in ORDER if part in {*index.parts, "encoder"})
    save_index(model, replace(index, parts=parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--data", required=True, help="zip or folder of the portraits, with their splits")
    parser.add_argument("--cost", default="", help="machine and time, for the card")
    parser.add_argument("--began", default="", help="the encoder that it began with, as the card is to name it")
    parser.add_argument("--inversion", type=Path, default=None, help="inversion.json of benchmarks/inversion.py")
    parser.add_argument("--own", default="two-stage", help="the row of it that is this encoder's")
    arguments = parser.parse_args()

    measured = metrics(arguments.inversion, arguments.own)
    bundle(
        arguments.run,
        ROOT / "refinestyle_hub" / "pretrained" / NAME,
        arguments.data,
        ROOT / "model_cards" / f"{NAME}-encoder.png",
        arguments.began,
        cost=arguments.cost,
        metrics=measured,
    )
    for path in write_cards():
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
