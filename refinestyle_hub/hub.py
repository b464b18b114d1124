"""Names to files: bundled models and local folders; ``from_pretrained`` and ``save_pretrained`` for every part.

A class becomes loadable by deriving from ``Pretrained`` and naming its ``part`` and ``config_class``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from .errors import ConfigError, ModelFileError, ModelNotFoundError
from .files import (
    config_from_json,
    config_to_json,
    dump_json,
    encode_tensors,
    read_header,
    read_json,
    read_tensors,
    write_folder,
)


__all__ = ["Folder", "PipelineIndex", "Pretrained", "bundled_models", "open_source", "read_index", "save_index"]

CONFIG = "config.json"
INDEX = "model_index.json"
BUNDLED = Path(__file__).parent / "pretrained"

P = TypeVar("P", bound="Pretrained")


# --- Where files are ------------------------------------------------------------------------------------------------


def _checked_name(name: str) -> PurePosixPath:
    """A relative path without any way out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise ModelFileError(f"{name!r} is not a path inside a model: use a relative one such as domains/sketch.")
    return path


@dataclass(frozen=True)
class Folder:
    """A model in a local folder; files are asked for by their path relative to it."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def find(self, name: str) -> Path | None:
        """The file ``name``, or None. Raises ModelFileError if the name or a link leads out of the folder."""
        path = self.root / _checked_name(name)
        if not path.is_file():
            return None
        allowed = [self.root.resolve()]
        if self.root.parent.name == "snapshots":  # huggingface_hub's cache: snapshots/<commit>/x -> blobs/<hash>
            allowed.append(self.root.parent.parent.resolve() / "blobs")
        if not any(path.resolve().is_relative_to(folder) for folder in allowed):
            raise ModelFileError(f"{path} is a link out of its model folder; copy the file there instead.")
        return path

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a subfolder, sorted."""
        path = self.root / _checked_name(folder)
        return sorted(p.name for p in path.iterdir() if p.is_file()) if path.is_dir() else []


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{INDEX}"))


def _looks_like_path(name: str) -> bool:
    return bool(re.match(r"[.~/\\]|[A-Za-z]:[/\\]", name)) or name.count("/") > 1 or name.endswith(".safetensors")


def open_source(name_or_path: str | os.PathLike[str]) -> Folder:
    """Where the files of a model are.

    A name without a slash that is one of ``bundled_models()`` means that model; anything else (and every
    ``pathlib.Path``) is a folder.

    Raises:
        ModelNotFoundError: neither.
    """
    if isinstance(name_or_path, str) and name_or_path in bundled_models():
        return Folder(BUNDLED / name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return Folder(path)
    if isinstance(name_or_path, os.PathLike) or _looks_like_path(name_or_path):
        raise ModelNotFoundError(f"No such directory: {path} (looked from {Path.cwd()}).")
    bundled = ", ".join(bundled_models()) or "none"
    raise ModelNotFoundError(f"No model {name_or_path!r}: not a bundled one ({bundled}) and no folder of that name.")


# --- The pipeline's index -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PipelineIndex:
    """``model_index.json`` of a pipeline repo: which parts it has, each in the folder of its name."""

    parts: tuple[str, ...]  # "generator", and possibly "discriminator", "encoder", "directions"
    domains: tuple[str, ...] = ()  # names: the folders are domains/<name>

    def __post_init__(self) -> None:
        for name in (*self.parts, *self.domains):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise ConfigError(f"{name!r} cannot be a part or domain: use letters, digits, dot, dash, underscore.")


def read_index(source: Folder) -> PipelineIndex:
    """The index of a pipeline repo. Raises ModelNotFoundError when the source is not one."""
    path = source.find(INDEX)
    if path is None:
        raise ModelNotFoundError(f"{source} has no {INDEX}: it is not a pipeline. Load its part by the part's class.")
    return config_from_json("RefineStylePipeline", PipelineIndex, read_json(path), path)


def save_index(folder: str | os.PathLike[str], index: PipelineIndex) -> None:
    """Write ``model_index.json``; do it after the parts, so that the index never names one that is not there yet."""
    write_folder(Path(folder), {INDEX: dump_json(config_to_json("RefineStylePipeline", index))})


# --- Parts ----------------------------------------------------------------------------------------------------------


def _weights_name(stem: str, variant: str | None) -> str:
    if variant is not None and not re.fullmatch(r"[a-z0-9]{1,16}", variant):
        raise ConfigError(f"variant must be a short name such as 'fp16', not {variant!r}.")
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _variants(source: Folder, folder: str, stem: str) -> list[str]:
    """Variants of a part's weights that are there, "" for the plain one."""
    pattern = re.compile(rf"{re.escape(stem)}(?:\.([a-z0-9]+))?\.safetensors")
    matches = (pattern.fullmatch(name) for name in source.names(folder))
    return sorted(match[1] or "" for match in matches if match)


def _locate_config(source: Folder, part: str, subfolder: str | None) -> tuple[str, Path]:
    """The folder of a part inside its source, and its config.json."""
    folders = [subfolder.strip("/")] if subfolder is not None else list(dict.fromkeys(["", part]))
    for folder in folders:
        path = source.find(f"{folder}/{CONFIG}".lstrip("/"))
        if path is not None:
            return folder, path
    hint = ""
    if source.find(INDEX) is not None:
        index = read_index(source)
        known = [*index.parts, *(f"domains/{name}" for name in index.domains)]
        hint = f"\nIt is a pipeline; give one of its folders as subfolder: {', '.join(known)}."
    raise ModelNotFoundError(f"{source} has no {' or '.join(f'{f}/{CONFIG}'.lstrip('/') for f in folders)}.{hint}")


def _locate_weights(source: Folder, folder: str, stem: str, variant: str | None) -> Path:
    """The weights file; without ``variant`` the plain one, or fp16 where only that ships."""
    found = _variants(source, folder, stem)
    wanted = variant or ("fp16" if found == ["fp16"] else "")
    path = source.find(f"{folder}/{_weights_name(stem, wanted or None)}".lstrip("/"))
    if path is None:
        there = ", ".join(repr(v or None) for v in found) or "none"
        raise ModelNotFoundError(
            f"{source} has no {f'{folder}/{_weights_name(stem, variant)}'.lstrip('/')}.\n"
            f"Available as variant=: {there}."
        )
    return path


class Pretrained:
    """Mixin: ``from_pretrained`` and ``save_pretrained`` for a class with a config and named tensors.

    A subclass sets ``part`` and ``config_class`` and has ``config`` and ``state_dict()``. As it stands the mixin
    serves ``nn.Module`` classes built as ``cls(config)`` without non-persistent buffers; a value type overrides
    ``template`` and ``from_state``.
    """

    part: ClassVar[str] = ""  # its folder in a pipeline repo; "": none of its own
    stem: ClassVar[str] = "model"  # its weights are <stem>[.variant].safetensors
    config_class: ClassVar[type]
    config: Any

    @classmethod
    def template(cls, config: Any) -> Mapping[str, Tensor]:
        """Names, shapes and dtypes of the tensors that belong to ``config``, on the meta device."""
        with torch.device("meta"):
            module = cls(config)  # type: ignore[call-arg]
        assert isinstance(module, nn.Module)
        return module.state_dict()

    @classmethod
    def from_state(cls: type[P], config: Any, tensors: Mapping[str, Tensor]) -> P:
        """An instance around ``tensors``, which fit ``template(config)``; modules come in eval mode."""
        with torch.device("meta"):  # nothing is initialised at random only to be overwritten
            module = cls(config)  # type: ignore[call-arg]
        assert isinstance(module, nn.Module)
        module.load_state_dict(tensors, assign=True)
        return module.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], variant: str | None = None) -> None:
        """Write ``config.json`` and the weights into ``folder``: all of it or nothing, the same bytes every time.

        Args:
            folder: made when it does not exist; other files in it are left alone.
            variant: None for float32, "fp16" for half precision.

        Raises:
            ModelFileError: ``folder`` is a file, or a value is NaN, infinite, or too large for the variant.
        """
        if variant not in (None, "fp16"):
            raise ConfigError(f"variant must be None or 'fp16', not {variant!r}.")
        config = config_to_json(type(self).__name__, self.config)
        dtype = torch.float16 if variant else torch.float32
        state: Mapping[str, Tensor] = self.state_dict()  # type: ignore[attr-defined]
        weights = encode_tensors(state, config, dtype)
        write_folder(Path(folder), {_weights_name(self.stem, variant): weights, CONFIG: dump_json(config)})

    @classmethod
    def from_pretrained(
        cls: type[P],
        name_or_path: str | os.PathLike[str],
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> P:
        """Load from a bundled name, a local folder, or one ``.safetensors`` file that carries its config.

        Args:
            subfolder: where in it, such as "domains/sketch"; by default the root, then the part's usual folder.
            variant: "fp16" for the half-precision file; by default the plain one, or fp16 where only that ships.
            dtype: of the tensors once loaded, whatever the file has.

        Raises:
            ModelNotFoundError: no such model, part or variant.
            ModelFileError: damaged, or anything but exactly the tensors of its config, all finite.
            ConfigError: a config of a newer major format, or with a value out of range.
        """
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return cls._read(path, None, dtype)
        return cls.from_source(open_source(name_or_path), subfolder=subfolder, variant=variant, dtype=dtype)

    @classmethod
    def from_source(
        cls: type[P],
        source: Folder,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> P:
        """``from_pretrained`` from an opened source: several parts of one repo come from the same revision."""
        folder, config_path = _locate_config(source, cls.part, subfolder)
        return cls._read(_locate_weights(source, folder, cls.stem, variant), config_path, dtype)

    @classmethod
    def _read(cls: type[P], weights: Path, config_path: Path | None, dtype: torch.dtype) -> P:
        inside = read_header(weights).config
        data = read_json(config_path) if config_path else inside
        if data is None:
            raise ModelFileError(f"{weights} carries no config of its own; load the folder that has its {CONFIG}.")
        if inside is not None and inside != data:
            raise ModelFileError(
                f"{config_path} is not the config that {weights.name} was saved with.\n"
                "Save the model again (a save may have been cut off), or restore the edited file."
            )
        config: Any = config_from_json(cls.__name__, cls.config_class, data, config_path or weights)
        return cls.from_state(config, read_tensors(weights, cls.template(config), dtype))
