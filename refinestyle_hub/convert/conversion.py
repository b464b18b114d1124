"""``convert``: a checkpoint that somebody owns -> a pipeline folder of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..boundary.contents import is_safetensors, start_of
from ..boundary.paths import AnyPath, user_path
from ..cards.facts import FACTS, Card, dump_card
from ..cards.metadata import check, front_matter
from ..cards.rendering import write_card
from ..config import Fingerprint
from ..errors import CardError, ConfigError, ModelFileError, UnsupportedModelError
from ..pickles.builders import Record
from ..pickles.torch_files import read_torch
from ..storage.atomic import new_folder, write_folder
from ..storage.index import PipelineIndex, save_index
from ..storage.tensors import read_header
from .networks import Networks
from .networks_in_files import Contents, contents_of_file, describe, find_networks
from .nvidia import read_nvidia, read_nvidia_tensors, read_safetensors, read_state_dict
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
    left_out: tuple[str, ...] = ()  # what else is in the file, by its first name


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
    return Conversion(out, networks.layout, parts, networks.generator.fingerprint(), networks.notes, networks.left_out)


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
    """The networks of a file, which is known by its contents, not by its ending."""
    how: dict[str, Any] = {"crop": crop, "discriminator": discriminator}
    if is_safetensors(start_of(source)):
        if read_header(source).config is not None:
            return read_state_dict(source, crop=crop)
        content: Any = read_safetensors(source)
    else:
        content = read_torch(source)
    contents = contents_of_file(content, source)
    found = find_networks(contents)
    if found is None:
        return _read_by_key(content, source, contents, how)
    if found.layout == "rosinality":
        parts = {"g_ema": found.generator, "d": found.discriminator, "latent_avg": found.average}
        networks = read_rosinality(parts, source, **how)
    elif record := contents.records.get(found.prefix.removesuffix(".")):
        other = content.get("D") if type(content) is dict else None
        networks = read_nvidia({"G_ema": record, "D": other if isinstance(other, Record) else None}, source, **how)
    else:
        networks = read_nvidia_tensors(found, source, **how)
    if not found.left_out:
        return networks
    return networks._replace(left_out=tuple(found.left_out))


def _read_by_key(content: Any, source: Path, contents: Contents, how: dict[str, Any]) -> Networks:
    """Say what is wrong with the network that lies where the published code bases put theirs."""
    if type(content) is dict and isinstance(content.get("G_ema"), Record) or isinstance(content, Record):
        return read_nvidia(content, source, **how)
    if type(content) is dict and ("g_ema" in content or "g" in content):
        return read_rosinality(content, source, **how)
    if any(".input.freqs" in f".{name}" for name in contents.tensors):
        raise UnsupportedModelError(f"{source} holds a StyleGAN3.\nOnly networks of StyleGAN2 can be converted.")
    raise ModelFileError(
        f"{source} is neither NVIDIA's (no G_ema) nor rosinality's (no g_ema), and no generator's tensors were found "
        f"under another name: it holds {describe(content)}.\nEncoders and other networks cannot be converted."
    )
