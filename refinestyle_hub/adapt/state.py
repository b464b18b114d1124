"""All that an adaptation has to remember between two steps, as a plain value and as one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, ModelFileError
from ..storage.atomic import write_folder
from ..storage.schema import FORMAT_VERSION
from ..storage.tensors import encode_tensors, read_header, read_tensors


__all__ = ["AdaptState"]

KIND = "AdaptState"


@dataclass(frozen=True, eq=False)
class AdaptState:
    """Tensors and numbers, no modules: it can be pickled, sent to another process, or saved."""

    tensors: Mapping[str, Tensor]  # leaves, their running average, moments, what terms have learnt
    numbers: Mapping[str, Any]  # what JSON holds: settings, seed, step, digests, the best so far
    path: Path | None = None  # the file that it was read from

    def __str__(self) -> str:
        return "The saved state" if self.path is None else str(self.path)

    def check_run(self, mine: Mapping[str, Any]) -> None:
        """Check that the state is of the run that ``mine`` describes, in whole or in part.

        Raises:
            ConfigError: It is of another run; the message names what differs.
            ModelFileError: It does not name its run.
        """
        other = self.numbers.get("run")
        if not isinstance(other, Mapping):
            raise ModelFileError("The saved state does not name its run. Remove it to begin again.")
        if different := [key for key in mine if mine[key] != other.get(key)]:
            were = other.get("settings")
            were = were if isinstance(were, Mapping) else {}
            if "settings" in different and were:
                changed = [name for name, value in mine["settings"].items() if value != were.get(name)]
                different[different.index("settings")] = f"settings ({', '.join(changed)})"
            asked = f"steps {other.get('steps')}, tokens {were.get('tokens')}, seed {other.get('seed')}"
            raise ConfigError(
                f"{self} is of another run: not the same {', '.join(different)}.\n"
                f"Ask for what was asked then ({asked}), or remove the state (or name another folder) to begin again."
            )

    def check_asked(self, steps: int, tokens: int, seed: int) -> None:
        """``check_run`` with what is known before any picture is read."""
        run = self.numbers.get("run")
        settings = run.get("settings") if isinstance(run, Mapping) else None
        settings = {**(settings if isinstance(settings, Mapping) else {}), "tokens": tokens}
        self.check_run({"settings": settings, "steps": steps, "seed": seed})

    def save(self, path: AnyPath) -> None:
        """Write one ``.safetensors`` file whose metadata is the JSON of the numbers, atomically.

        Raises:
            ModelFileError: A value is not finite.
        """
        path = user_path(path)
        header = {**self.numbers, "class": KIND, "format_version": FORMAT_VERSION}
        write_folder(path.parent, {path.name: encode_tensors(self.tensors, header, torch.float32)})

    @staticmethod
    def at(path: AnyPath | None) -> AdaptState | None:
        """Read what ``save`` wrote, or return None where there is no file yet. Raises as ``load`` does."""
        return None if path is None or not user_path(path).exists() else AdaptState.load(path)

    @staticmethod
    def load(path: AnyPath) -> AdaptState:
        """Read what ``save`` wrote.

        Raises:
            ModelFileError: The file is damaged, or of another kind.
        """
        path = user_path(path)
        header = read_header(path)
        if header.config is None or header.config.get("class") != KIND:
            raise ModelFileError(f"{path} is not the state of an adaptation. Remove it, or name another folder.")
        template = {name: torch.empty(shape, device="meta") for name, (_, shape) in header.tensors.items()}
        numbers = {key: value for key, value in header.config.items() if key not in ("class", "format_version")}
        return AdaptState(read_tensors(path, template, header=header), numbers, path)
