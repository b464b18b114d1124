"""``convert``: a checkpoint that somebody owns -> a pipeline folder of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..boundary.paths import AnyPath, user_path
from ..cards.facts import FACTS, Card, dump_card
from ..cards.metadata import check, front_matter
from ..cards.rendering import write_card
from ..config import Fingerprint
from ..errors import CardError, ConfigError, ModelFileError, ModelNotFoundError
from ..pickles.torch_files import read_torch
from ..pickles.unpickle import Record
from ..storage.atomic import new_folder, write_folder
from ..storage.index import PipelineIndex, save_index
from .networks import Networks
from .nvidia import read_nvidia, read_state_dict
from .rosinality import read_rosinality


__all__ = ["Conversion", "convert"]

CROPS = ("ffhq", "none")


@dataclass(frozen=True)
class Conversion:
    """What was converted."""

    folder: Path
    layout: str  # whose file it was
    parts: tuple[str, ...]
    fingerprint: Fingerprint  # of the generator
    notes: tuple[str, ...]  # what was not in the file and had to be filled in


def convert(
    source: AnyPath,
    out: AnyPath,
    *,
    license: str | None,
    license_name: str | None = None,
    license_link: str | None = None,
    crop: str = "ffhq",
    discriminator: bool = True,
) -> Conversion:
    """Convert a StyleGAN2 checkpoint to a new pipeline folder, which appears whole or not at all.

    Read are NVIDIA's pickles (stylegan2-ada-pytorch, and StyleGAN2 of the stylegan3 repository), rosinality's ``.pt``,
    and ``.safetensors`` with a generator under NVIDIA's names. Nothing in the file is executed, so no trust in it is
    needed. Pictures equal those of the original code.

    Args:
        out: A folder that does not exist yet.
        license: The licence of the weights: an id of the Hub's list, or "other" with ``license_name`` and
            ``license_link``. It is written to the card, and never assumed.
        crop: How the training pictures were framed: "ffhq" by facial landmarks, "none" as they came.
        discriminator: Whether to convert the discriminator, if there is one.

    Raises:
        CardError: There is no licence, or none that the Hub knows.
        ModelNotFoundError: There is no such file.
        UnsafePickleError: The pickle names something to run that no checkpoint needs.
        UnsupportedModelError: It is a StyleGAN3, class-conditional, not RGB, or of another architecture.
        ModelFileError: The file is damaged or of another kind, or ``out`` exists.
        ConfigError: A size is out of range, or the crop is unknown.
    """
    source, out = user_path(source), user_path(out)
    card = Card(license=license or None, license_name=license_name, license_link=license_link)
    _check_licence(card)
    if crop not in CROPS:
        raise ConfigError(f"crop must be one of {', '.join(CROPS)}, not {crop!r}.")
    if out.exists():
        raise ModelFileError(f"{out} already exists; name a new folder for the converted model.")
    networks = _read(source, crop, discriminator)
    parts = ("generator", "discriminator") if networks.discriminator else ("generator",)
    card = Card(
        license=card.license,
        license_name=license_name,
        license_link=license_link,
        title=out.name,
        summary=f"Converted from `{source.name}`, a checkpoint of {networks.layout}.",
        limits=networks.notes,
    )
    with new_folder(out) as scratch:
        networks.generator.save_pretrained(scratch / "generator")
        if networks.discriminator:
            networks.discriminator.save_pretrained(scratch / "discriminator")
        save_index(scratch, PipelineIndex(parts))
        write_folder(scratch / "generator", {FACTS: dump_card(card)})  # for what is made for this generator
        write_card(scratch, card, out.name)
    return Conversion(out, networks.layout, parts, networks.generator.fingerprint(), networks.notes)


def _check_licence(card: Card) -> None:
    if card.license is None:
        raise CardError(
            "Under which licence are these weights? It is not in the file, and none is assumed. Give license=, or\n"
            "--license on the command line: an id such as 'cc-by-nc-4.0', or 'other' with license_name and\n"
            "license_link (NVIDIA's own licence is such a one)."
        )
    fields = {"license": card.license, "license_name": card.license_name, "license_link": card.license_link}
    check(f"---\n{front_matter({key: value for key, value in fields.items() if value}, {})}\n---\n")


def _read(source: Path, crop: str, discriminator: bool) -> Networks:
    if not source.is_file():
        raise ModelNotFoundError(f"There is no file {source}. Download the checkpoint first, then name the file.")
    if source.suffix == ".safetensors":
        return read_state_dict(source, crop=crop)
    content = read_torch(source)
    if isinstance(content, Record) or (type(content) is dict and "G_ema" in content):
        return read_nvidia(content, source, crop=crop, discriminator=discriminator)
    if type(content) is dict and ("g_ema" in content or "g" in content):
        return read_rosinality(content, source, crop=crop, discriminator=discriminator)
    raise ModelFileError(
        f"{source} is neither NVIDIA's (no G_ema) nor rosinality's (no g_ema): it holds {_kind(content)}.\n"
        "Encoders and other networks cannot be converted."
    )


def _kind(content: Any) -> str:
    if isinstance(content, Mapping):
        return ", ".join(str(key)[:40] for key in list(content)[:5]) or "nothing"
    return f"a {type(content).__name__}"
