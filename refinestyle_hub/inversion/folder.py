"""Invert every picture of a folder: in batches, by one process or many, and again where it was stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import ConfigError, FaceNotFoundError, ModelFileError, PictureError
from ..faces.align import Crop, crop_face
from ..images import SUFFIXES, load_picture, pictures_in, to_tensor
from ..pipeline import RefineStylePipeline
from ..runtime import processes
from ..storage.fingerprint import check_base, digest
from .inversion import Inversion
from .inversion_settings import InversionSettings, planned_steps


__all__ = ["FolderReport", "invert_folder"]

NAME = "inversion.safetensors"
OnPicture: TypeAlias = Callable[[int, int], None]  # pictures done and in all, of this process


@dataclass(frozen=True)
class FolderReport:
    """What became of the pictures, by their paths in the folder; the same in every process."""

    inverted: tuple[str, ...]  # now
    kept: tuple[str, ...]  # from an earlier run
    skipped: dict[str, str]  # and why: no face, not a picture


def invert_folder(
    pipe: RefineStylePipeline,
    folder: str | Path,
    out: str | Path,
    *,
    steps: int | None = None,
    w_steps: int | None = None,
    tokens: bool = True,
    aligned: bool = False,
    batch: int = 8,
    seed: int = 0,
    settings: InversionSettings | None = None,
    on_picture: OnPicture | None = None,
) -> FolderReport:
    """Write ``<out>/<picture>/inversion.safetensors`` for each picture in ``folder`` and below.

    An inversion that is there already is kept, so the same call goes on where it was stopped. Its report says under
    "how" what it was asked for; where that is not what is asked for now, it is an error. Under ``accelerate launch``
    or ``torchrun`` the processes share the pictures, and the pipeline moves to the device that accelerate gives each.

    Args:
        steps, w_steps, tokens, aligned, seed, settings: as for ``RefineStylePipeline.invert``.
        batch: pictures inverted at once.
        on_picture: called after each batch with (pictures done, pictures in all) of this process.

    Raises:
        PictureError: there are no pictures in ``folder``.
        BaseMismatchError: an inversion that is there was made for another generator.
        ConfigError: ``batch`` is below 1; steps that do not add up; ``out`` is ``folder``; an inversion that is there
            was made in another way, or of another picture.
        ModelFileError: an inversion that is there is damaged.
        MissingDependencyError: accelerate, the face detector or the perceptual distance is not installed.
    """
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, not {batch}.")
    folder, out, state = Path(folder), Path(out), processes.accelerator()
    if out.resolve() == folder.resolve():
        raise ConfigError(f"The inversions of {folder} need a folder of their own: each gets the name of its picture.")
    planned = planned_steps(steps, w_steps, tokens=tokens, started=pipe.encoder is not None)
    how: dict[str, Any] = {
        "w_steps": planned[0],
        "token_steps": planned[1],
        "tokens": tokens,
        "aligned": aligned,
        "seed": seed,
    }
    how |= _marks(pipe, settings or InversionSettings())
    names = sorted(path.relative_to(folder).as_posix() for path in pictures_in(folder))
    if not names:
        raise PictureError(f"There are no pictures in {folder}. Known endings: {', '.join(sorted(SUFFIXES))}.")
    if state.num_processes > 1:
        pipe.to(state.device)
    kept = [name for name in names if (out / name / NAME).exists()]
    for name in kept:
        path = out / name / NAME
        try:
            there = Inversion.from_pretrained(path)
        except ModelFileError as error:
            raise ModelFileError(f"{error}\nRemove it, and it is made again.") from error
        if there.base is not None:
            check_base(there.base, pipe.fingerprint, what=f"{path}, from an earlier run,")
        _check_how(path, there.report.get("how", {}), how | {"picture": _mark(folder / name)})
    state.wait_for_everyone()  # until all have looked
    mine = sorted(set(names) - set(kept))[state.process_index :: state.num_processes]
    inverted: list[str] = []
    skipped: dict[str, str] = {}
    for first in range(0, len(mine), batch):
        found: dict[str, tuple[Tensor, Crop | None]] = {}
        for name in mine[first : first + batch]:
            try:
                found[name] = _look(pipe, folder / name, aligned)
            except (FaceNotFoundError, PictureError) as error:
                skipped[name] = str(error).replace(str(folder / name), name)  # a report may be shared
        if found:
            crops = torch.cat([crop for crop, _ in found.values()])
            made = pipe.invert_crops(crops, steps=steps, w_steps=w_steps, tokens=tokens, seed=seed, settings=settings)
            for (name, (_, crop)), inversion in zip(found.items(), made, strict=True):
                if crop is not None:
                    quad = torch.from_numpy(crop.quad).float()
                    inversion = replace(inversion, quad=quad, source_size=crop.source_size)
                noted = how | {"picture": _mark(folder / name)}
                inversion = replace(inversion, report={**inversion.report, "how": noted})
                inversion.save(out / name / NAME)
                inverted.append(name)
        if on_picture is not None:
            on_picture(min(first + batch, len(mine)), len(mine))
    shares: Sequence[Any] = [(inverted, skipped)]
    if state.num_processes > 1:
        from accelerate.utils import gather_object

        shares = gather_object(shares)
    everyone = sorted(name for share, _ in shares for name in share)
    return FolderReport(tuple(everyone), tuple(kept), {n: why for _, share in shares for n, why in share.items()})


def _marks(pipe: RefineStylePipeline, settings: InversionSettings) -> dict[str, str]:
    """What cannot be said in a word, so that it can at least be told from another."""
    encoder = pipe.encoder
    whole = {
        "settings": settings,
        "encoder": None if encoder is None else (encoder.config, digest(encoder.state_dict())),
    }
    marks = {name: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for name, value in whole.items()}
    return {"perceptual": pipe.perceptual.name, **marks}


def _mark(picture: Path) -> str:
    """So that another picture of the same name is told from this one."""
    return hashlib.sha256(picture.read_bytes()).hexdigest()[:16]


def _check_how(path: Path, before: Mapping[str, Any], how: Mapping[str, Any]) -> None:
    """An inversion by itself, or of a version that did not note how it was made, says nothing."""
    other = {name: value for name, value in how.items() if before.get(name, value) != value}
    if "picture" in other:
        raise ConfigError(f"{path} is of another picture of that name. Remove it, or name another folder.")
    told = [f"other {x}" if x in ("encoder", "settings") else f"{x} {before[x]}, not {how[x]}" for x in other]
    if told:
        raise ConfigError(f"{path} was made in another way: {'; '.join(told)}. Name another folder.")


def _look(pipe: RefineStylePipeline, path: Path, aligned: bool) -> tuple[Tensor, Crop | None]:
    """The crop [1, 3, R, R], and where it is in the photo."""
    size = pipe.generator.config.resolution
    if aligned:
        return to_tensor(load_picture(path), size), None
    crop = crop_face(path, size)
    return to_tensor(crop.image, size), crop
