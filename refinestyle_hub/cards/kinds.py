"""What the card of each kind of artefact says beyond its facts: what it is, what its files hold, how it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import GENERATOR_CONFIGS, EncoderConfig, Fingerprint, TokenSetConfig
from ..errors import ModelFileError, ModelNotFoundError, counted
from ..storage.fingerprint import fingerprint
from ..storage.index import CONFIG, WEIGHTS_FILE
from ..storage.model_folder import INDEX, Folder
from ..storage.schema import config_from_json, read_json
from ..storage.tensors import read_all_tensors, read_header


__all__ = ["Kind", "base_rows", "file_rows", "generator_identity", "kind_of"]

PAPER = "[RefineStyle](https://arxiv.org/abs/2410.06104)"
Config = dict[str, Any]
Rows = dict[str, str]


class Kind(NamedTuple):
    """What the cards of one class share."""

    word: str
    about: str
    task: str  # the Hub's pipeline_tag
    rows: Callable[[Path, Config], Rows]  # of the table, from the folder and its config
    snippet: Callable[[str, str, Config], str]  # from the arguments that load it, its generator, its config
    needs_base: bool = True  # whether it is of use only with one generator
    tags: tuple[str, ...] = ()  # beside that of the network it was made for


def kind_of(folder: Path) -> tuple[Kind, Config]:
    """What is saved in a folder, and its config.

    Raises:
        ModelNotFoundError: There is no such folder.
        ModelFileError: The folder has no model, or one of a class without cards.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"There is no folder {folder}.")
    for file in (CONFIG, INDEX):
        if (path := Folder(folder).find(file)) is not None:
            config = read_json(path)
            name = str(config.get("class"))
            if name in GENERATOR_CONFIGS:
                return _generator_kind(GENERATOR_CONFIGS[name].network), config
            if name not in KINDS:
                raise ModelFileError(f"{path}: only these have cards: {', '.join([*GENERATOR_CONFIGS, *KINDS])}.")
            return KINDS[name], config
    raise ModelFileError(f"{folder} holds no model: neither {CONFIG} nor {INDEX}.")


# --- Rows: what the files say ---------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The weight files directly in a folder. Raises ModelFileError if there is none in the folder of a part."""
    found = sorted(path for path in folder.iterdir() if WEIGHTS_FILE.fullmatch(path.name))
    if not found and (folder / CONFIG).is_file():
        raise ModelFileError(f"{folder} has a {CONFIG} but no weights.", path=folder)
    return found


def file_rows(folder: Path) -> Rows:
    """Size and number of values of the weight files directly in a folder."""
    rows = {}
    for path in weight_files(folder):
        size = path.stat().st_size
        count = sum(math.prod(shape) for _, shape in read_header(path).tensors.values())
        rows[f"`{path.name}`"] = (
            f"{f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.1f} KB'}, {count:,} values"
        )
    return rows


def base_rows(config: Config) -> Rows:
    """The generator that a config names as its base."""
    base = config.get("base")
    return {"Made for": f"`{base['architecture']}`, fingerprint `{base['digest']}`"} if base else {}


def generator_identity(folder: Path, config: Config) -> Fingerprint:
    """The fingerprint of the generator saved in a folder, from its files alone."""
    made = config_from_json(config["class"], GENERATOR_CONFIGS[config["class"]], config, folder / CONFIG)
    weights = weight_files(folder)[0]  # whichever: full and half precision have one digest
    return fingerprint(made, read_all_tensors(weights))


def _generator_rows(folder: Path, config: Config) -> Rows:
    made = config_from_json(config["class"], GENERATOR_CONFIGS[config["class"]], config, folder / CONFIG)
    identity = generator_identity(folder, config)
    return {
        "Architecture": f"`{identity.architecture}`",
        "Pictures": f"{made.resolution} x {made.resolution}, RGB, about [-1, 1]; crop: {made.crop}",
        "w+": f"{made.num_ws} x {made.w_dim}",
        "Fingerprint": f"`{identity.digest}`",
    }


def _discriminator_rows(folder: Path, config: Config) -> Rows:
    return {"Input": f"{config['resolution']} x {config['resolution']}, RGB, [-1, 1]"}


def _encoder_rows(folder: Path, config: Config) -> Rows:
    made = config_from_json("Encoder", EncoderConfig, config, folder / CONFIG)
    network = made.network
    where = ", ".join(f"`{name}`" for name in network.layers)
    tokens = f"T = {counted(network.rank, 'token')} per layer in {where}" if where else "no tokens"
    iterations = counted(network.num_iters, "refinement iteration")
    feedback = "with" if network.gradient_feedback else "without"
    return {
        "Input": f"{network.size} x {network.size}, RGB, [-1, 1]",
        "Answers": f"w+ of {made.generator.num_ws} x {made.generator.w_dim}, and {tokens}",
        "Stages": f"two, {iterations} {feedback} gradient feedback" if network.stages == "two" else "one",
        "Backbone": network.backbone,
    }


def _token_rows(folder: Path, config: Config) -> Rows:
    made = config_from_json("TokenSet", TokenSetConfig, config, folder / CONFIG)
    ranks = sorted({layer.tokens for layer in made.layers.values()})
    rows = {
        "Tokens T per layer": " to ".join(str(rank) for rank in dict.fromkeys([*ranks[:1], *ranks[-1:]])),
        "Layers": ", ".join(f"`{name}`" for name in sorted(made.layers)),
    }
    plain = {key: value for key, value in sorted(made.metadata.items()) if isinstance(value, str | int | float)}
    return rows | {key.replace("_", " ").capitalize(): str(value) for key, value in plain.items()}


def _direction_rows(folder: Path, config: Config) -> Rows:
    return {"Directions": ", ".join(f"`{name}`" for name in sorted(config["directions"]))}


def _attribute_rows(folder: Path, config: Config) -> Rows:
    names = config["names"][: config["num_attributes"]]
    return {"Reads": ", ".join(f"`{name}`" for name in names), "Input": f"{config['resolution']} px"}


def _index_rows(folder: Path, config: Config) -> Rows:
    rows = {"Parts": ", ".join(f"`{name}`" for name in config["parts"])}
    if config["domains"]:
        rows["Domains"] = ", ".join(f"`domains/{name}`" for name in config["domains"])
    return rows


# --- Snippets: how it is used ---------------------------------------------------------------------------------------


def _draw(imports: str, generator: str, picture: str, before: str = "", after: str = "") -> str:
    """Code that draws four pictures: ``picture`` is the expression, with ``generator`` and ``w`` at hand."""
    return f"""import torch

from refinestyle_hub import {imports}

generator = Generator.from_pretrained({generator})
{before}w = generator.map(torch.randn(4, generator.config.z_dim), truncation=0.7)  # [4, L, D]
with torch.no_grad():
    pictures = {picture}  # [4, 3, H, W], about [-1, 1]{after}"""


def _generator_snippet(here: str, base: str, config: Config) -> str:
    return _draw("Generator", here, "generator(w)")


def _pipeline_snippet(here: str, base: str, config: Config) -> str:
    return f"""from refinestyle_hub import RefineStylePipeline

pipe = RefineStylePipeline.from_pretrained({here})
pictures = pipe.generate(seeds=[0, 1, 2, 3], truncation=0.7)  # PIL"""


def _discriminator_snippet(here: str, base: str, config: Config) -> str:
    before = f"discriminator = Discriminator.from_pretrained({here})\n"
    after = "\n    logits = discriminator(pictures)  # [4, 1]: the higher, the more like the training pictures"
    return _draw("Discriminator, Generator", f'"{base}"', "generator(w)", before, after)


def _encoder_snippet(here: str, base: str, config: Config) -> str:
    encode = "\n    w_plus, tokens = encoder(pictures, generator, encoder.load_distance())"
    return _draw(
        "Encoder, Generator", f'"{base}"', "generator(w)", f"encoder = Encoder.from_pretrained({here})\n", encode
    )


def _direction_snippet(here: str, base: str, config: Config) -> str:
    edits = f'{{"{min(config["directions"], default="smile")}": 1.5}}'
    before = f"directions = editing.Directions.from_pretrained({here})\n"
    return _draw("Generator, editing", f'"{base}"', f"generator(editing.apply(w, {edits}, directions))", before)


def _token_snippet(here: str, base: str, config: Config) -> str:
    before = f"domain = TokenSet.from_pretrained({here})\n"
    return _draw("Generator, TokenSet", f'"{base}"', "generator(w, domain, strength=0.8)", before)


def _attribute_snippet(here: str, base: str, config: Config) -> str:
    return f"""import torch

from refinestyle_hub.evaluation.attributes import AttributeNet

net = AttributeNet.from_pretrained({here})
pictures = torch.zeros(1, 3, 128, 128)  # in [-1, 1]
with torch.no_grad():
    readings = net.read(pictures)"""


def _generator_kind(network: str) -> Kind:
    return Kind(
        "generator",
        f"A {network} generator for {PAPER}: it stays frozen, token sets refine its kernels, directions move its "
        "codes.",
        "unconditional-image-generation",
        _generator_rows,
        _generator_snippet,
        needs_base=False,
        tags=(network.lower(),),
    )


KINDS: Mapping[str, Kind] = {
    "RefineStylePipeline": Kind(
        "pipeline",
        f"A {PAPER} pipeline: a frozen generator and what goes with it.",
        "unconditional-image-generation",
        _index_rows,
        _pipeline_snippet,
        needs_base=False,
    ),
    "Discriminator": Kind(
        "discriminator",
        "The residual discriminator that a StyleGAN2 generator was trained against: the start of more training and of "
        "few-shot adaptation.",
        "image-classification",
        _discriminator_rows,
        _discriminator_snippet,
        tags=("stylegan2",),
    ),
    "Encoder": Kind(
        "encoder",
        f"Reads a picture and returns its w+ code and its {PAPER} tokens for one frozen generator, by grouped "
        "transformer blocks.",
        "image-to-image",
        _encoder_rows,
        _encoder_snippet,
    ),
    "Directions": Kind(
        "directions",
        "Editing directions in the w+ space of one generator. A strength is any real number, and edits add.",
        "image-to-image",
        _direction_rows,
        _direction_snippet,
    ),
    "TokenSet": Kind(
        "domain",
        f"A {PAPER} token set: low-rank kernel residuals that bring one frozen generator to a new domain. A strength "
        "is any real number, and sets add.",
        "image-to-image",
        _token_rows,
        _token_snippet,
    ),
    "AttributeNet": Kind(
        "attributes",
        "A small CNN that reads attributes off a portrait; its features serve for distances between sets of "
        "pictures. It was made to judge rendered portraits, not people.",
        "image-feature-extraction",
        _attribute_rows,
        _attribute_snippet,
        needs_base=False,
    ),
}
