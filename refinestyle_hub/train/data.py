"""Pictures and labels for the training loops: folder, zip or ``datasets`` id -> uint8 tensors, decoded once.

The portraits carry ``labels.jsonl`` (one JSON object a line: ``id``, attributes, ``split``) and ``parameters.npz``
(the rendering parameters, row by row with the labels). Both are looked for in the folder, or beside the zip.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import ConfigError, PictureError
from ..images import SUFFIXES, PictureSource, load_picture
from ..runtime.optional import optional


__all__ = [
    "Batch",
    "Labels",
    "Pictures",
    "batches",
    "label_rows",
    "mirror",
    "open_labels",
    "open_pictures",
    "other_side",
    "parameters_of",
    "picture_key",
]

CACHE_BYTES = 6 << 30  # a larger set is decoded again at each use


class Pictures:
    """A fixed set of square pictures, uint8 ``[3, R, R]``, R the resolution.

    Decoded at first use and kept in memory as long as all of them fit, so that starting costs nothing.

    Args:
        names: one name per picture, unique.
        read: index -> anything that `load_picture` takes.
        resolution: R. Pictures of another size lose what exceeds the central square, and are resampled.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], PictureSource], resolution: int) -> None:
        self.names = tuple(names)
        self.resolution = resolution
        self._read = read
        shape = (len(self.names), 3, resolution, resolution)
        self._cache = torch.empty(shape, dtype=torch.uint8) if np.prod(shape) <= CACHE_BYTES else None
        self._decoded = np.zeros(len(self.names), dtype=bool)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """Picture ``index``, uint8 ``[3, R, R]``. Raises PictureError if the file is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} pictures; number {index} is not among them.")
        if self._cache is None:
            return self._decode(index)
        if not self._decoded[index]:
            self._cache[index] = self._decode(index)
            self._decoded[index] = True
        return self._cache[index]

    def take(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Several pictures, uint8 ``[N, 3, R, R]``."""
        return torch.stack([self[int(i)] for i in indices])

    def _decode(self, index: int) -> Tensor:
        try:
            image = load_picture(self._read(index))
        except PictureError as error:
            raise PictureError(f"{self.names[index]}: {error}") from error
        size = (self.resolution, self.resolution)
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class Batch:
    """Pictures uint8 ``[N, 3, R, R]``, their indices ``[N]``, and which were flipped left to right (bool ``[N]``)."""

    pictures: Tensor
    indices: Tensor
    flipped: Tensor


def open_pictures(source: str | Path, resolution: int, split: str | None = "train") -> Pictures:
    """The pictures of an image folder (searched recursively), a zip, or a ``datasets`` id or saved dataset.

    Args:
        source: folder, ``.zip`` file, Hub id of a dataset, or folder written by ``Dataset.save_to_disk``.
        resolution: height and width to deliver, pixels.
        split: the part to open; None opens everything. A source that knows no splits is all "train".

    Raises:
        PictureError: nothing at `source`, or no picture in it.
        ConfigError: the source has no such split.
        MissingDependencyError: a dataset without the package ``datasets``.
    """
    path = Path(source)
    if path.is_file() and zipfile.is_zipfile(path):
        names, read = _zip_members(path)
    elif _is_saved_dataset(path) or not path.exists():
        return _open_dataset(str(source), resolution, split)
    elif path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES}
        names, read = sorted(files), files.__getitem__
    else:
        raise PictureError(f"{path} is neither a folder nor a zip of pictures.")
    names = _of_split(names, path, split)
    return Pictures(names, lambda index: read(names[index]), resolution)


def batches(
    pictures: Pictures,
    size: int,
    *,
    seed: int = 0,
    position: int = 0,
    rank: int = 0,
    world: int = 1,
    flip: bool = True,
) -> Iterator[Batch]:
    """Endless shuffled batches; the same ones whatever the number of processes and however often it was interrupted.

    Args:
        pictures: the set; every picture comes once per epoch.
        size: pictures per batch and process. The `world` batches of a step, joined by rank, are one of `size * world`.
        seed: of the order and of the flips.
        position: pictures already seen by all processes together, as counted when the run was saved.
        rank: number of this process.
        world: how many processes there are.
        flip: mirror each picture with probability 1/2.
    """
    if not len(pictures):
        raise PictureError("There are no pictures to train on.")

    def load(start: int) -> Batch:
        chosen = [order(p) for p in range(start, start + size)]
        indices = torch.tensor([index for index, _ in chosen])
        flipped = torch.tensor([coin and flip for _, coin in chosen])
        taken = pictures.take(indices)
        return Batch(torch.where(flipped[:, None, None, None], taken.flip(-1), taken), indices, flipped)

    order = _Order(len(pictures), seed)
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as pool:  # decodes the next batch meanwhile
        start = position + rank * size
        ready = pool.submit(load, start)
        while True:
            start += size * world
            batch, ready = ready.result(), pool.submit(load, start)
            yield batch


class _Order:
    """Position in an endless shuffled sequence -> (index, coin). Epoch e is a permutation seeded by (seed, e)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = -1

    def __call__(self, position: int) -> tuple[int, bool]:
        epoch, place = divmod(position, self.count)
        if epoch != self.epoch:
            random = np.random.default_rng((self.seed, epoch))
            self.order, self.coins = random.permutation(self.count), random.random(self.count) < 0.5
            self.epoch = epoch
        return int(self.order[place]), bool(self.coins[place])


# --- sources ---------------------------------------------------------------------------------------------------------


def _zip_members(path: Path) -> tuple[list[str], Callable[[str], PictureSource]]:
    archive = zipfile.ZipFile(path)
    names = [n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES and not n.startswith("__MACOSX")]

    def read(name: str) -> PictureSource:
        try:
            return cast(BinaryIO, archive.open(name))  # locks the archive while it reads: threads may share it
        except (RuntimeError, zipfile.BadZipFile) as error:  # encrypted, of an unknown compression, damaged
            raise PictureError(f"It cannot be read from {path.name}: {error}.") from error

    return sorted(names), read


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _open_dataset(source: str, resolution: int, split: str | None) -> Pictures:
    is_path = source.startswith((".", "/", "~")) or source.endswith(".zip") or source.count("/") > 1
    if is_path and not Path(source).exists():  # do not go looking on the network
        raise PictureError(f"There is no folder or zip of pictures at {source}.")
    datasets = optional("datasets", f"{source}, which is taken for a dataset,", "refinestyle-hub[train]")
    try:
        loaded: Any = datasets.load_from_disk(source) if Path(source).exists() else datasets.load_dataset(source)
    except Exception as error:  # the loader raises many kinds, some without a common base
        raise PictureError(f"{source} is no folder, no zip, and not a dataset that can be loaded: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split == "val" and split not in loaded and "validation" in loaded:  # as datasets are used to call it
            split = "validation"
        if split is not None and split not in loaded:
            raise ConfigError(f"{source} has no split {split!r}; it has {', '.join(loaded)}.")
        loaded = datasets.concatenate_datasets(list(loaded.values())) if split is None else loaded[split]
    elif split not in (None, "train"):
        raise ConfigError(f"{source} has no splits, so no {split!r}.")
    columns = [name for name, feature in loaded.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise PictureError(f"The dataset {source} has no column of type Image.")
    return Pictures([f"{i:06d}" for i in range(len(loaded))], lambda i: loaded[i][columns[0]], resolution)


def _of_split(names: list[str], source: Path, split: str | None) -> list[str]:
    rows = label_rows(source)
    if split is not None and rows is not None:
        splits = {key: row.get("split", "train") for key, row in rows.items()}
        names = [name for name in names if splits.get(picture_key(name)) == split]
        if not names:
            raise ConfigError(f"{source} has no split {split!r}; it has {', '.join(sorted(set(splits.values())))}.")
    elif split not in (None, "train"):
        raise ConfigError(f"{source} has no labels.jsonl that names splits, so no {split!r}.")
    if not names:
        raise PictureError(f"{source} holds no pictures. Known endings: {', '.join(sorted(SUFFIXES))}.")
    return names


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """What is known of each picture of a `Pictures`, row by row.

    Attributes:
        names: of the columns: first the attributes, then the rendering parameters (local shape, expression).
        num_attributes: how many of the columns are attributes.
        values: float32 ``[N, K]``, in the units of the data (degrees for angles, 0..1 for shares and colours).
        hair: hair style of each picture, int64 ``[N]``, an index into `hair_styles`.
        hair_styles: their names.
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


def open_labels(source: str | Path, pictures: Pictures) -> Labels:
    """The labels of `pictures`, opened from the same source.

    Raises:
        ConfigError: no ``labels.jsonl`` or ``parameters.npz``, or a picture without labels.
    """
    rows, parameters = label_rows(source), parameters_of(source)
    if rows is None or parameters is None:
        raise ConfigError(f"Labels are in labels.jsonl and parameters.npz, in or beside {source}: one is missing.")
    keys = [picture_key(name) for name in pictures.names]
    missing = [name for name, key in zip(pictures.names, keys, strict=True) if key not in rows]
    if missing:
        raise ConfigError(f"{len(missing)} pictures have no labels, {missing[0]} among them.")
    places = {key: place for place, key in enumerate(rows)}
    chosen = [places[key] for key in keys]
    values = [[[read(rows[key]) for read in ATTRIBUTES.values()] for key in keys]]
    values += [parameters[group][chosen] for group in ("local", "expression")]
    names = [str(n) for group in ("local", "expression") for n in parameters[f"{group}_names"]]
    styles = tuple(sorted({row["hair"] for row in rows.values()}))
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
    order = torch.tensor([places[other_side(name)] for name in names])
    return order, torch.tensor([-1.0 if name in LATERAL else 1.0 for name in names])


def other_side(name: str) -> str:
    for one, other in (("l-", "r-"), ("r-", "l-")):
        if name.startswith(one):
            return other + name.removeprefix(one)
    for one, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(one):
            return name.removesuffix(one) + other
    return name


def _beside(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def picture_key(name: str) -> str:
    """000123.jpg -> "123", the id in labels.jsonl; names that are no numbers stand for themselves."""
    stem = Path(name).stem
    return str(int(stem)) if stem.isdecimal() else stem


def label_rows(source: str | Path) -> dict[str, dict[str, Any]] | None:
    """The lines of labels.jsonl by id, in the order of the file; None without such a file."""
    file = _beside(Path(source)) / "labels.jsonl"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        return {str(row["id"]): row for row in map(json.loads, lines)}


def parameters_of(source: str | Path) -> dict[str, Any] | None:
    """The arrays of parameters.npz, row by row with labels.jsonl; None without such a file."""
    file = _beside(Path(source)) / "parameters.npz"
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as parameters:
        return dict(parameters)
