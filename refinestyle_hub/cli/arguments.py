"""What several commands take: a model, a device, seeds, strengths of edits and domains."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from ..boundary.numbers import MAX_SEED
from ..boundary.paths import is_clearly_path, user_path
from ..errors import ConfigError
from . import console


if TYPE_CHECKING:
    from ..pipeline import RefineStylePipeline
    from ..tokens.token_set import TokenSet


__all__ = [
    "Aligned",
    "Compile",
    "Device",
    "Edits",
    "EncoderPlace",
    "InDomains",
    "Model",
    "Seed",
    "check_apart",
    "check_no_model",
    "check_picture",
    "load",
    "load_domains",
    "note_far",
    "parse_domains",
    "parse_edits",
    "parse_seeds",
    "with_encoder",
]

MAX_SEEDS = 100_000  # of one command

Model: TypeAlias = Annotated[str, typer.Argument(help="Bundled name, folder or Hub id.", metavar="MODEL")]
Device: TypeAlias = Annotated[str, typer.Option(help="Such as cpu, cuda or mps.")]
Compile: TypeAlias = Annotated[
    bool,
    typer.Option("--compile", help="Compile the generator, once for each kind of picture; pays from some dozens on."),
]
EncoderPlace: TypeAlias = Annotated[
    str | None, typer.Option("--encoder", help="Folder or Hub id of an encoder, instead of the model's.")
]
Aligned: TypeAlias = Annotated[bool, typer.Option("--aligned", help="The pictures are aligned crops already.")]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same result.")]
Edits: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=STRENGTH of a direction; may be repeated: edits add.")
]
InDomains: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--domain", help="NAME, folder, file or Hub id, with =STRENGTH if it is not 1; may be repeated: domains add."
    ),
]


def parse_seeds(text: str) -> list[int]:
    """``"0-3,7"`` -> [0, 1, 2, 3, 7]. Raises typer.BadParameter."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_SEED or last - first >= MAX_SEEDS:
            raise typer.BadParameter(f"{part.strip()!r} is neither a seed (0 to {MAX_SEED}) nor a range such as 0-15.")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_edits(pairs: list[str]) -> dict[str, float]:
    """``["smile=1.5", ...]`` -> strength by name, the sum where one is given twice. Raises typer.BadParameter."""
    edits: dict[str, float] = {}
    for pair in pairs:
        name, _, strength = pair.partition("=")
        value = _number(strength)
        if not name.strip() or not math.isfinite(value):
            raise typer.BadParameter(f"{pair!r} is not of the form NAME=STRENGTH, such as smile=1.5.")
        edits[name.strip()] = edits.get(name.strip(), 0.0) + value
    return edits


def note_far(pipe: RefineStylePipeline, edits: Mapping[str, float]) -> None:
    """Say which edits are beyond the strengths of use of their directions."""
    for name, strength in edits.items():
        if name in pipe.directions:
            low, high = pipe.directions[name].info.limits
            if not low <= strength <= high:
                console.note(f"{name} is made for strengths of {low:g} to {high:g}; beyond them pictures may tear.")


def parse_domains(pairs: list[str]) -> dict[str, float]:
    """``["sketch", "my/folder=0.7"]`` -> strength by name, folder or Hub id.

    It is 1 where none is given, and the sum where one is given twice.

    Raises typer.BadParameter.
    """
    domains: dict[str, float] = {}
    for pair in pairs:
        name, given, strength = pair.rpartition("=")
        value = _number(strength) if given else 1.0
        name = (name if given else pair).strip()
        if not name or not math.isfinite(value):
            raise typer.BadParameter(f"{pair!r} is not of the form DOMAIN or DOMAIN=STRENGTH, such as sketch=0.7.")
        domains[name] = domains.get(name, 0.0) + value
    return domains


def _number(text: str) -> float:
    """The number that a text says, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def load_domains(pipe: RefineStylePipeline, wanted: dict[str, float]) -> dict[str | TokenSet, float]:
    """The model's own domains by name, others from a folder, file or Hub id."""
    from ..hub.search import is_own
    from ..tokens.token_set import TokenSet

    found: dict[str | TokenSet, float] = {}
    for name, strength in wanted.items():
        elsewhere = not is_own(name, pipe.domains) and (
            "/" in name or is_clearly_path(name) or user_path(name).exists()
        )
        found[TokenSet.from_pretrained(name) if elsewhere else name] = strength
    return found


def check_picture(out: Path) -> None:
    """Raise typer.BadParameter where the ending of ``out`` is of no format that is written."""
    from ..images import check_ending

    try:
        check_ending(out)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None


def check_apart(picture: Path, *results: Path) -> None:
    """Raise typer.BadParameter where one of the ``results`` would be written over the ``picture``."""
    if picture.exists() and any(result.exists() and result.samefile(picture) for result in results):
        raise typer.BadParameter(f"This would be written over {picture}: name another place.", param_hint="--out")


def check_no_model(out: Path) -> None:
    """Raise typer.BadParameter where ``out`` holds a model or a part of one, such as a domain."""
    from ..storage.index import CONFIG
    from ..storage.model_folder import INDEX

    if any((out / name).exists() for name in (CONFIG, INDEX)):
        raise typer.BadParameter(f"{out} holds a model already. Name another folder.", param_hint="--out")


def load(model: str, device: str, compile: bool = False) -> RefineStylePipeline:
    """The pipeline, ready to draw; compiled also where REFINESTYLE_COMPILE says so.

    Raises ConfigError where there is no such device.
    """
    from ..pipeline import RefineStylePipeline
    from ..runtime.devices import usable_device

    usable_device(device)  # before anything is loaded
    return RefineStylePipeline.from_pretrained(model, device=device, compile=compile or None)


def with_encoder(pipe: RefineStylePipeline, encoder: str | None) -> RefineStylePipeline:
    """The pipeline with another encoder, where one is named.

    Raises BaseMismatchError where that was made for another generator.
    """
    if encoder is None:
        return pipe
    from ..encoder.encoder import Encoder
    from ..pipeline import RefineStylePipeline

    network = Encoder.from_pretrained(encoder).to(pipe.device)
    parts = (pipe.generator, pipe.discriminator, pipe.directions, pipe.domains)
    return RefineStylePipeline(*parts, network, inversion=pipe.inversion)
