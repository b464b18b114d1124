"""Invert every picture of a folder: in batches, by one process or many, and again where it was stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..boundary.numbers import whole
from ..boundary.paths import AnyPath, user_path
from ..config import Fingerprint
from ..encoder.encoder import Encoder
from ..errors import ConfigError, FaceNotFoundError, ModelFileError, PictureError
from ..faces.align import Crop
from ..faces.photo import read_photo, search_for
from ..generators.base import Generator
from ..generators.drawing import batch_size
from ..images import list_pictures, to_tensor
from ..losses.perceptual import Perceptual
from ..runtime import processes
from ..runtime.defaults import standard_defaults
from ..storage.fingerprint import check_base, digest
from .crops import invert_crops
from .inversion import Inversion
from .inversion_settings import InversionSettings, planned_steps


__all__ = ["NAME", "FolderReport", "invert_folder", "picture_digest", "way"]

NAME = "inversion.safetensors"
OnPicture: TypeAlias = Callable[[int, int], None]  # pictures done and in all, of this process


@dataclass(frozen=True)
class FolderReport:
    """What became of the pictures, by their paths in the folder; the same in every process."""

    inverted: tuple[str, ...]  # now
    kept: tuple[str, ...]  # from an earlier run
    skipped: dict[str, str]  # and why: no face, damaged
    left_out: dict[str, str]  # other files and folders in the folder, and why they were not taken for pictures


@standard_defaults()
def invert_folder(
    generator: Generator,
    folder: AnyPath,
    out: AnyPath,
    *,
    encoder: Encoder | None = None,
    perceptual: Perceptual | None = None,
    steps: int | None = None,
    w_steps: int | None = None,
    tokens: bool = True,
    aligned: bool = False,
    batch: int | None = None,
    seed: int = 0,
    settings: InversionSettings | None = None,
    on_picture: OnPicture | None = None,
) -> FolderReport:
    """Write ``<out>/<picture>/inversion.safetensors`` for each picture in ``folder`` and below.

    An inversion that is there already is kept, so the same call continues where it was stopped. Its report says under
    "how" what it was asked for; where that is not what is asked for now, it is an error. Under ``accelerate launch``
    or ``torchrun`` the processes share the pictures, and the networks move to the device that accelerate gives each.

    Args:
        generator: The generator that shall draw the pictures.
        folder: Where the pictures are.
        out: Where the inversions go; not the same folder.
        encoder, perceptual, steps, w_steps, tokens, seed, settings: As for ``invert_crops``.
        aligned: Whether the pictures are crops already, of which the central square is taken.
        batch: How many pictures are inverted at once; None: as many as suit the generator, see ``batch_size``.
        on_picture: A function called after each batch with (pictures done, pictures in all) of this process.

    Raises:
        PictureError: There are no pictures in ``folder``.
        BaseMismatchError: An inversion that is there was made for another generator.
        ConfigError: ``batch`` is below 1; steps do not add up; ``out`` is ``folder``; or an inversion that is there
            was made in another way, or of another picture.
        ModelFileError: An inversion that is there is damaged.
        MissingDependencyError: The face detector or the perceptual distance is not installed; or, for several
            processes, accelerate.
    """
    batch = batch_size(generator) if batch is None else whole(batch, "batch", 1)
    folder, out, state = user_path(folder), user_path(out), processes.accelerator_or_alone()
    if out.resolve() == folder.resolve():
        raise ConfigError(f"The inversions of {folder} need a folder of their own: each gets the name of its picture.")
    base = generator.fingerprint()
    w_steps, token_steps = planned_steps(steps, w_steps, tokens=tokens, started=encoder is not None)
    perceptual = perceptual or Perceptual.load().to(generator.device)
    how: dict[str, Any] = {
        "w_steps": w_steps,
        "token_steps": token_steps,
        "tokens": tokens,
        "aligned": aligned,
        "seed": seed,
        "perceptual": perceptual.name,
        **way(encoder, settings),
    }
    found, left_out = list_pictures(folder, results=out)
    names = [path.relative_to(folder).as_posix() for path in found]
    if state.num_processes > 1:
        for network in (generator, encoder, perceptual):
            if network is not None:
                network.to(state.device)
    kept = [name for name in names if (out / name / NAME).exists()]
    for name in kept:
        _check_kept(out / name / NAME, base, how | {"picture": picture_digest(folder / name)})
    state.wait_for_everyone()  # until all have read the list
    mine = sorted(set(names) - set(kept))[state.process_index :: state.num_processes]
    inverted: list[str] = []
    skipped: dict[str, str] = {}
    for first in range(0, len(mine), batch):
        crops, unusable = _read(folder, mine[first : first + batch], generator.config.resolution, aligned)
        skipped |= unusable
        if crops:
            made = invert_crops(
                generator,
                torch.cat([to_tensor(crop.image) for crop in crops.values()]).to(generator.device),
                encoder=encoder,
                perceptual=perceptual,
                steps=w_steps + token_steps,
                w_steps=w_steps,
                tokens=tokens,
                seed=seed,
                settings=settings,
                base=base,
            )
            for (name, crop), inversion in zip(crops.items(), made, strict=True):
                report = {**inversion.report, "how": how | {"picture": picture_digest(folder / name)}}
                replace(inversion.in_photo(crop), report=report).save(out / name / NAME)
            inverted += crops
        if on_picture is not None:
            on_picture(min(first + batch, len(mine)), len(mine))
    shares: Sequence[Any] = [(inverted, skipped)]
    if state.num_processes > 1:
        from accelerate.utils import gather_object

        shares = gather_object(shares)
    everyone = sorted(name for share, _ in shares for name in share)
    skipped = {name: why for _, share in shares for name, why in share.items()}
    return FolderReport(tuple(everyone), tuple(kept), skipped, left_out)


def _read(folder: Path, names: Sequence[str], size: int, aligned: bool) -> tuple[dict[str, Crop], dict[str, str]]:
    """Crops by the names of pictures, and why there is none of others."""
    crops, skipped = {}, {}
    for name in names:
        try:
            crops[name] = read_photo(folder / name, search_for(aligned)).crop(size)
        except (FaceNotFoundError, PictureError) as error:
            message = str(error).removeprefix(f"{folder / name}: ")
            skipped[name] = message.replace(str(folder / name), name)  # a report may be shared
    return crops, skipped


def way(encoder: Encoder | None, settings: InversionSettings | None) -> dict[str, str]:
    """Digests of an encoder and of settings, which a report that names the way of an inversion cannot spell out."""
    network = None if encoder is None else (encoder.config, digest(encoder.state_dict()))
    return {"settings": _digest(settings or InversionSettings()), "encoder": _digest(network)}


def _digest(value: object) -> str:
    """Short digest of a value that the report cannot spell out: equal values have equal digests."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def picture_digest(picture: Path) -> str:
    """Short digest of a file: another picture of the same name has another."""
    return hashlib.sha256(picture.read_bytes()).hexdigest()[:16]


def _check_kept(path: Path, base: Fingerprint, how: Mapping[str, Any]) -> None:
    """Check that an inversion of an earlier run is what would be made now.

    One that did not note how it was made is taken as it is.
    """
    try:
        inversion = Inversion.from_pretrained(path)
    except ModelFileError as error:
        raise ModelFileError(f"{error}\nRemove it, and it is made again.") from error
    if inversion.base is not None:
        check_base(inversion.base, base, what=f"{path}, from an earlier run,")
    before = inversion.report.get("how", {})
    other = {name: value for name, value in how.items() if before.get(name, value) != value}
    if "picture" in other:
        raise ConfigError(f"{path} is of another picture of that name. Remove it, or name another folder.")
    if other:
        words = [f"other {x}" if x in ("encoder", "settings") else f"{x} {before[x]}, not {how[x]}" for x in other]
        raise ConfigError(f"{path} was made in another way: {'; '.join(words)}. Name another folder.")
