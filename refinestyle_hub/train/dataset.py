"""The pictures of a training: a folder, a zip or a dataset becomes uint8 tensors, decoded once, in endless batches."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..boundary.numbers import whole
from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, PictureError, counted
from ..images import PictureSource, left_out_lines, left_out_of, list_pictures, load_picture, no_pictures
from ..images.pixels import MAX_SIDE
from ..runtime.optional import optional
from .labels import label_rows, picture_key


__all__ = ["Batch", "Pictures", "batches", "open_held_out", "open_pictures"]

log = logging.getLogger(__name__)
CACHE_BYTES = 6 << 30  # a larger set is decoded again at each use


class Pictures:
    """A fixed set of square pictures, uint8 ``[3, R, R]``, R the resolution.

    Decoded at first use and kept in memory as long as all of them fit, so that starting costs nothing.

    Args:
        names: One name per picture, each unique.
        read: Returns anything that ``load_picture`` takes, for an index.
        resolution: R. Pictures of another size lose what exceeds the central square, and are resampled.
        left_out: What else there is in the folder or zip, and why it is not among them.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], PictureSource],
        resolution: int,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        resolution = whole(resolution, "The resolution", 1, MAX_SIDE)
        self.names = tuple(names)
        self.left_out = dict(left_out or {})
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
            raise IndexError(f"Of {counted(len(self), 'picture')} there is no number {index}.")
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
        source: PictureSource = ""
        try:
            source = self._read(index)
            image = load_picture(source)
        except PictureError as error:
            message = str(error).removeprefix(f"{source}: ") if isinstance(source, Path) else str(error)
            raise PictureError(f"{self.names[index]}: {message}") from error
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


def open_pictures(source: AnyPath, resolution: int, split: str | None = "train") -> Pictures:
    """The pictures of an image folder (searched recursively), a zip, or a ``datasets`` id or saved dataset.

    Args:
        source: A folder, ``.zip`` file, Hub id of a dataset, or folder written by ``Dataset.save_to_disk``.
        resolution: Height and width to deliver, in pixels.
        split: The part to open. None opens everything. A source that knows no splits is all "train".

    Raises:
        PictureError: There is nothing at ``source``, or no picture in it.
        ConfigError: The source has no such split.
        MissingDependencyError: It is a dataset, and the package ``datasets`` is not installed.
    """
    path = user_path(source)
    if path.is_file() and zipfile.is_zipfile(path):
        names, left_out, read = _zip_members(path)
    elif _is_saved_dataset(path) or not path.exists():
        return _open_dataset(str(source), resolution, split)
    elif path.is_dir():
        found, left_out = list_pictures(path)
        files = {file.relative_to(path).as_posix(): file for file in found}
        names, read = sorted(files), files.__getitem__
    else:
        raise PictureError(f"{path} is neither a folder nor a zip of pictures.")
    names = _of_split(names, path, split)
    for line in left_out_lines(left_out):
        log.warning("%s: %s", path, line)
    return Pictures(names, lambda index: read(names[index]), resolution, left_out)


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
        pictures: The set. Every picture comes once per epoch.
        size: Pictures per batch and process. The ``world`` batches of a step, joined by rank, are one of ``size *
            world``.
        seed: The seed of the order and of the flips.
        position: Pictures already seen by all processes together, as counted when the run was saved.
        rank: The number of this process.
        world: The number of processes.
        flip: Whether to mirror each picture with probability 1/2.
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


def open_held_out(data: str, validate: str, size: int) -> Pictures | None:
    """The split "val" of ``validate``, or where that is empty of ``data``; None if ``data`` has no such split.

    Of a ``validate`` that knows no splits but "train", everything.

    Raises:
        ConfigError: ``validate`` has other splits, but not that one.
    """
    try:
        return open_pictures(validate or data, size, "val")
    except ConfigError:
        return _everything(validate, size) if validate else None


def _everything(source: str, size: int) -> Pictures:
    everything = open_pictures(source, size, None)
    try:
        known = len(open_pictures(source, size, "train"))
    except ConfigError:
        known = 0
    if known < len(everything):
        raise ConfigError(f'{source} has splits, but none that is called "val".')
    return everything


# --- sources ---------------------------------------------------------------------------------------------------------


def _zip_members(path: Path) -> tuple[list[str], dict[str, str], Callable[[str], PictureSource]]:
    archive = zipfile.ZipFile(path)
    found = {
        entry.filename: left_out_of(entry.filename.split("/")) for entry in archive.infolist() if not entry.is_dir()
    }
    names = [name for name, why in found.items() if why is None]
    left_out = {name: why for name, why in found.items() if why is not None}

    def read(name: str) -> PictureSource:
        try:
            return cast(BinaryIO, archive.open(name))  # locks the archive while it reads: threads may share it
        except (RuntimeError, zipfile.BadZipFile) as error:  # encrypted, of an unknown compression, damaged
            raise PictureError(f"It cannot be read from {path.name}: {error}.") from error

    return sorted(names), left_out, read


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _open_dataset(source: str, resolution: int, split: str | None) -> Pictures:
    is_path = source.startswith((".", "/", "~")) or source.endswith(".zip") or source.count("/") > 1
    if is_path and not user_path(source).exists():  # do not go looking on the network
        raise PictureError(f"There is no folder or zip of pictures at {source}.")
    datasets = optional("datasets", f"{source}, which is taken for a dataset,", "refinestyle-hub[train]")
    try:
        loaded: Any = datasets.load_from_disk(source) if user_path(source).exists() else datasets.load_dataset(source)
    except Exception as error:  # the loader raises many kinds, some without a common base
        raise PictureError(f"{source} is neither a folder, a zip nor a dataset that loads: {error}") from error
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
        raise no_pictures(source)
    return names
