"""What is known of labelled pictures: attributes, rendering parameters, and the split of each picture.

The portraits carry ``labels.jsonl`` (one JSON object a line: ``id``, attributes, ``split``) and ``parameters.npz``
(the rendering parameters, row by row with the labels). Both stand in the folder of the pictures, or beside their zip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, counted


__all__ = ["Labels", "label_rows", "mirror", "open_labels", "picture_key"]


@dataclass(frozen=True)
class Labels:
    """What is known of each picture, row by row.

    Attributes:
        names: The names of the columns: first the attributes, then the rendering parameters (local shape, expression).
        num_attributes: The number of columns that are attributes.
        values: float32 ``[N, K]``, in the units of the data (degrees for angles, 0..1 for shares and colours).
        hair: The hair style of each picture, int64 ``[N]``, an index into ``hair_styles``.
        hair_styles: The names of the styles.
    """

    names: tuple[str, ...]
    num_attributes: int
    values: Tensor
    hair: Tensor
    hair_styles: tuple[str, ...]


LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601

# name of a column -> its value in a line of labels.jsonl; colours are brought to 0..1
ATTRIBUTES: dict[str, Callable[[dict[str, Any]], float]] = {
    "smile": lambda row: row["smile"],
    "mouth_open": lambda row: row["mouth_open"],
    "brow": lambda row: row["brow"],
    "age": lambda row: row["age"],
    "gender": lambda row: row["gender"],
    "yaw": lambda row: row["yaw"],
    "pitch": lambda row: row["pitch"],
    "gaze_x": lambda row: row["gaze"][0],
    "gaze_y": lambda row: row["gaze"][1],
    "glasses": lambda row: float(row["glasses"]),
    "beard": lambda row: row["beard"],
    "makeup": lambda row: row["makeup"],
    "hair_length": lambda row: row["hair_length"],
    "hair_lightness": lambda row: float(np.dot(LUMA, row["hair_rgb"])) / 255,
    "hair_red": lambda row: row["hair_rgb"][0] / 255,
    "hair_green": lambda row: row["hair_rgb"][1] / 255,
    "hair_blue": lambda row: row["hair_rgb"][2] / 255,
    "skin_tone": lambda row: row["tone"],
    "iris_red": lambda row: row["iris"][0] / 255,
    "iris_green": lambda row: row["iris"][1] / 255,
    "iris_blue": lambda row: row["iris"][2] / 255,
    "light_azimuth": lambda row: row["light"][0],
    "light_elevation": lambda row: row["light"][1],
}
LATERAL = {"yaw", "gaze_x", "light_azimuth"}  # angles to one side


def open_labels(source: AnyPath, pictures: Sequence[str]) -> Labels:
    """Read the labels of pictures by their names, from the source that they were opened from.

    Raises:
        ConfigError: ``labels.jsonl`` or ``parameters.npz`` is missing, a line lacks an attribute, or a picture has no
            labels.
    """
    rows, file = label_rows(source), _beside(source) / "parameters.npz"
    if rows is None or not file.is_file():
        raise ConfigError(f"Labels are in labels.jsonl and parameters.npz, in or beside {source}: one is missing.")
    with np.load(file, allow_pickle=False) as arrays:
        parameters = dict(arrays)
    keys = [picture_key(name) for name in pictures]
    missing = [name for name, key in zip(pictures, keys, strict=True) if key not in rows]
    if missing:
        raise ConfigError(f"No labels of {counted(len(missing), 'picture')}, {missing[0]} among them.")
    places = {key: place for place, key in enumerate(rows)}
    chosen = [places[key] for key in keys]
    try:
        values = [[[read(rows[key]) for read in ATTRIBUTES.values()] for key in keys]]
        styles = tuple(sorted({row["hair"] for row in rows.values()}))
    except KeyError as error:
        raise ConfigError(f"A line of the labels.jsonl of {source} has no {error}.") from error
    values += [parameters[group][chosen] for group in ("local", "expression")]
    names = [str(n) for group in ("local", "expression") for n in parameters[f"{group}_names"]]
    return Labels(
        names=(*ATTRIBUTES, *names),
        num_attributes=len(ATTRIBUTES),
        values=torch.from_numpy(np.concatenate(values, axis=1, dtype=np.float32)),
        hair=torch.tensor([styles.index(rows[key]["hair"]) for key in keys]),
        hair_styles=styles,
    )


def mirror(names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """How a left-right flip of the picture changes its labels: ``values[..., order] * sign``.

    Angles to one side change their sign; ``l-x`` and ``r-x``, ``xLeft`` and ``xRight`` change places.

    Returns:
        order: int64 ``[K]``; sign: float32 ``[K]``, 1 or -1.
    """
    places = {name: place for place, name in enumerate(names)}
    order = torch.tensor([places[_other_side(name)] for name in names])
    return order, torch.tensor([-1.0 if name in LATERAL else 1.0 for name in names])


def _other_side(name: str) -> str:
    for one, other in (("l-", "r-"), ("r-", "l-")):
        if name.startswith(one):
            return other + name.removeprefix(one)
    for one, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(one):
            return name.removesuffix(one) + other
    return name


def _beside(source: AnyPath) -> Path:
    path = user_path(source)
    return path if path.is_dir() else path.parent


def picture_key(name: str) -> str:
    """000123.jpg -> "123", the id in labels.jsonl; other names stand for themselves."""
    stem = Path(name).stem
    return str(int(stem)) if stem.isdecimal() else stem


def label_rows(source: AnyPath) -> dict[str, dict[str, Any]] | None:
    """The lines of labels.jsonl by id, in the order of the file; None without such a file.

    Raises:
        ConfigError: A line is no JSON object with an id.
    """
    file = _beside(source) / "labels.jsonl"
    if not file.is_file():
        return None
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            rows[str(row["id"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{file}, line {number}: not a JSON object with an id. Mend or move the file."
            ) from error
    return rows
