"""Figures kept in a file as they are measured, so that a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, ModelFileError
from ..storage.atomic import check_place, write_file
from ..storage.schema import dump_json, parse_json


__all__ = ["Record"]


class Record:
    """A file of figures by part and name, such as a method and a picture; several processes may add to it.

    Args:
        path: Where the file is, or will be.
        setup: What all of its figures have in common, in the types of JSON.

    Raises:
        ConfigError: The file has figures of another setup: they do not belong in one table.
        ModelFileError: The file is damaged, or holds something else.
        SaveError: It cannot be written.
    """

    def __init__(self, path: AnyPath, setup: Mapping[str, Any]) -> None:
        self.path, self.setup = user_path(path), dict(setup)
        check_place(self.path.parent)
        self._read()

    def rows(self, part: str) -> dict[str, dict[str, Any]]:
        """The figures of a part by name, as the file has them now."""
        return self._read().get(part, {})

    def add(self, part: str, name: str, figures: Mapping[str, Any]) -> None:
        """Keep figures, beside what other processes have kept."""
        rows = self._read()
        rows.setdefault(part, {})[name] = dict(figures)
        write_file(self.path, dump_json({"setup": self.setup, "rows": rows}))

    def _read(self) -> dict[str, dict[str, dict[str, Any]]]:
        if not self.path.exists():
            return {}
        found = parse_json(self.path.read_bytes(), self.path)
        if found.keys() != {"setup", "rows"}:
            raise ModelFileError(
                f"{self.path} holds something other than figures. Name another place.", path=self.path
            )
        if different := [key for key in self.setup if found["setup"].get(key) != self.setup[key]]:
            raise ConfigError(f"{self.path} has figures of another {', '.join(different)}. Name another place.")
        rows: dict[str, dict[str, dict[str, Any]]] = found["rows"]
        return rows
