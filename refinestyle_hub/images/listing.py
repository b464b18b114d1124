"""Which files of a folder or archive are pictures, and why the others are left out. There is no other listing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from ..boundary.paths import AnyPath, user_path
from ..errors import PictureError, listed
from .reading import FORMATS


__all__ = ["Listing", "endings", "left_out_lines", "left_out_of", "list_pictures", "no_pictures"]

# Made by systems beside the pictures of their users: copies, thumbnails, what was deleted
OF_SYSTEMS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
RESULTS = ("inversion.safetensors", "tokens.safetensors", "model_index.json")  # of this package, beside its pictures
HEIC = (".heic", ".heif", ".hif")


class Listing(NamedTuple):
    """What was found in a folder."""

    pictures: list[Path]  # in order
    left_out: dict[str, str]  # why, by the name within the folder; of a folder that is not searched one entry


def endings() -> set[str]:
    """The endings of pictures that Pillow opens here, in small letters, such as ".jpg"."""
    return {ending for ending, name in Image.registered_extensions().items() if name in FORMATS and name in Image.OPEN}


def left_out_of(parts: Sequence[str]) -> str | None:
    """Why the file whose name within a folder or archive has these ``parts`` is left out; None for a picture."""
    for part in parts:
        if why := _passed_over(part):
            return why
    ending = PurePosixPath(parts[-1]).suffix.lower()
    if ending in endings():
        return None
    if ending in HEIC:
        return "HEIC photos cannot be read here: export them as JPEG"
    return "its ending is none of a picture's"


def list_pictures(folder: AnyPath, *, results: AnyPath | None = None) -> Listing:
    """List the pictures of a folder and of those below, also of linked ones, by their endings.

    Hidden files and folders, what systems add of their own, and folders with results of this package are left out.

    Args:
        folder: The folder.
        results: A folder that is left out as well, since results will be written there.

    Raises:
        PictureError: There are no pictures; or no such folder.
    """
    folder, results = user_path(folder), None if results is None else user_path(results)
    if not folder.is_dir():
        raise PictureError(f"There is no folder {folder}.")
    pictures, left_out = [], {}
    waiting, known = [folder], {folder.resolve()}
    while waiting:
        place = waiting.pop()
        try:
            entries = sorted(os.listdir(place))
        except OSError as error:
            left_out[place.relative_to(folder).as_posix()] = f"it cannot be read: {error.strerror}"
            continue
        for name in entries:
            path = place / name
            why: str | None
            if path.is_dir():
                why = _passed_over(name) or _not_searched(path, results, known)
                if why is None:
                    waiting.append(path)
            elif not path.is_file():
                why = "it is a link to nothing" if path.is_symlink() else "it is no file"
            elif (why := left_out_of([name])) is None:
                pictures.append(path)
            if why is not None:
                left_out[path.relative_to(folder).as_posix()] = why
    if not pictures:
        raise no_pictures(folder, left_out)
    return Listing(sorted(pictures), dict(sorted(left_out.items())))


def no_pictures(place: object, left_out: Mapping[str, str] | None = None) -> PictureError:
    """The error that says that there are no pictures in a folder or archive."""
    text = f"There are no pictures in {place}. Known endings: {', '.join(sorted(endings()))}."
    others = "; ".join(f"{name}: {why}" for name, why in list((left_out or {}).items())[:3])
    return PictureError(f"{text}\nLeft out: {others}." if others else text)


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Lines for people: of each reason the first names, and how many more there are."""
    reasons: dict[str, list[str]] = {}
    for name, why in left_out.items():
        reasons.setdefault(why, []).append(name)
    return [f"left out, {why}: {listed(names)}" for why, names in reasons.items()]


def _passed_over(name: str) -> str | None:
    if name.startswith("."):
        return "it is hidden"
    return "it is the system's own" if name.lower() in OF_SYSTEMS else None


def _not_searched(folder: Path, results: Path | None, known: set[Path]) -> str | None:
    place = folder.resolve()
    if results is not None and place == results.resolve():
        return "the results go there"
    if any((folder / name).is_file() for name in RESULTS):
        return "it holds results of this package"
    if place in known:
        return "it was searched already, under another name"
    known.add(place)
    return None
