"""The files of a model: the index of a pipeline, and the names that they have."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, ModelNotFoundError, printable
from .atomic import write_folder
from .model_folder import INDEX, Source
from .schema import config_from_json, config_to_json, dump_json, read_json


__all__ = ["CONFIG", "MODEL_FILE", "PipelineIndex", "join", "model_folders", "read_index", "save_index"]


CONFIG = "config.json"
MODEL_FILE = re.compile(r"config\.json|model_index\.json|card\.json|README\.md|(model|tokens)(\..+)?\.safetensors")


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


def read_index(source: Source, subfolder: str | None = None) -> PipelineIndex:
    """The index of a pipeline. Raises ModelNotFoundError when there is none at that place."""
    path = source.find(join(subfolder, INDEX))
    if path is None:
        error = source.missing(join(subfolder, INDEX))
        part = source.find(join(subfolder, CONFIG))
        if part is None:
            raise error
        kind = printable(read_json(part).get("class"))
        raise ModelNotFoundError(f"{error}\nIt is no pipeline, but one part, of class '{kind}': load it by its class.")
    return config_from_json("RefineStylePipeline", PipelineIndex, read_json(path), path)


def model_folders(source: Source) -> list[str]:
    """Folders of a model in its source: its own, "", and those of the parts and domains that its index names."""
    if source.find(INDEX) is None:
        return [""]
    index = read_index(source)
    return ["", *index.parts, *(f"domains/{name}" for name in index.domains)]


def save_index(folder: str | os.PathLike[str], index: PipelineIndex) -> None:
    """Write ``model_index.json``; do it after the parts, so that the index never names one that is not there yet."""
    write_folder(Path(folder), {INDEX: dump_json(config_to_json("RefineStylePipeline", index))})


def join(folder: str | None, name: str) -> str:
    """The path of ``name`` in a subfolder, if there is one."""
    return f"{folder.strip('/')}/{name}" if folder else name
