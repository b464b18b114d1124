"""The files of a model: the index of a pipeline, and the names of what is shared of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..boundary.paths import AnyPath
from ..errors import ConfigError, ModelNotFoundError, printable
from .atomic import write_folder
from .model_folder import INDEX, Source
from .schema import config_from_json, config_to_json, dump_json, read_json


__all__ = [
    "CONFIG",
    "LICENCE_FILE",
    "PICTURE_FILE",
    "WEIGHTS_FILE",
    "PipelineIndex",
    "join",
    "model_folders",
    "read_index",
    "save_index",
    "shared_files",
]


CONFIG = "config.json"
WEIGHTS_FILE = re.compile(r"(model|tokens)(\..+)?\.safetensors")
TEXT_FILE = re.compile(r"config\.json|model_index\.json|card\.json|README\.md")
LICENCE_FILE = re.compile(r"(?i)(licen[cs]e|notice|copying|copyright|terms)(\.txt|\.md)?")
PICTURE_FILE = re.compile(r"preview\.(png|jpg|jpeg|webp)|samples/[^/.][^/]*\.png")
SHARED = (WEIGHTS_FILE, TEXT_FILE, LICENCE_FILE, PICTURE_FILE)


# --- The pipeline's index -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PipelineIndex:
    """``model_index.json`` of a pipeline repo: which parts it has, each in the folder of its name."""

    parts: tuple[str, ...]  # "generator", and possibly "discriminator", "encoder", "directions"
    domains: tuple[str, ...] = ()  # names: the folders are domains/<name>
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by subject: the other than default ones

    def __post_init__(self) -> None:
        for name in (*self.parts, *self.domains):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise ConfigError(f"{name!r} cannot be a part or domain: use letters, digits, dot, dash, underscore.")


def read_index(source: Source, subfolder: str | None = None) -> PipelineIndex:
    """The index of a pipeline. Raises ModelNotFoundError when there is none at that place."""
    path = source.find(join(subfolder, INDEX))
    if path is None:
        error = source.missing(join(subfolder, INDEX))
        part = source.find(join(subfolder, CONFIG))
        if part is None:
            raise error
        kind = printable(read_json(part).get("class"))
        raise ModelNotFoundError(
            f"{error}\nIt is not a pipeline but one part, of class '{kind}'; load it by its class."
        )
    return config_from_json("RefineStylePipeline", PipelineIndex, read_json(path), path)


def model_folders(source: Source) -> list[str]:
    """Folders of a model in its source: its own, "", and those of the parts and domains that its index names."""
    if source.find(INDEX) is None:
        return [""]
    index = read_index(source)
    return ["", *index.parts, *(f"domains/{name}" for name in index.domains)]


def shared_files(source: Source, folder: str = "") -> list[str]:
    """The files that are shared of a model or a part: weights, configs, cards, licences, previews and samples.

    Names are those in the source. A list that is fixed: what a domain was made from may lie in its folder, and stays.
    """
    names = [*source.names(folder), *(f"samples/{name}" for name in source.names(join(folder, "samples")))]
    return [join(folder, name) for name in names if any(kind.fullmatch(name) for kind in SHARED)]


def save_index(folder: AnyPath, index: PipelineIndex) -> None:
    """Write ``model_index.json``; do it after the parts, so that the index never names one that is not there yet."""
    write_folder(folder, {INDEX: dump_json(config_to_json("RefineStylePipeline", index))})


def join(folder: str | None, name: str) -> str:
    """The path of ``name`` in a subfolder, if there is one."""
    return f"{folder.strip('/')}/{name}" if folder else name
