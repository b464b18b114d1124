"""The figures and sheets of ``domains.py``, kept as they are made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from domain_style import Style
from PIL import Image

from refinestyle_hub.images import contact_sheet, save_png, to_images
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json


__all__ = ["SHOWN", "Record"]

SHOWN = 8  # samples in the sheets; above them the references
REPORT = "domains.json"


class Record:
    """The folder of a table: what is in it is not made again."""

    def __init__(self, folder: Path, setup: Mapping[str, Any]) -> None:
        """Raises SystemExit where the folder has figures of another setup: they do not belong in one table."""
        self.folder = folder
        self.report: dict[str, Any] = {"setup": dict(setup), "styles": {}}
        if (folder / REPORT).exists():
            found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            if different := [key for key in setup if found["setup"].get(key) != setup[key]]:
                raise SystemExit(f"{folder} has figures of another {', '.join(different)}: name another --out.")
            self.report = found

    def rows(self, style: str) -> dict[str, dict[str, Any]]:
        """What is there."""
        found: dict[str, dict[str, Any]] = self.report["styles"].get(style, {}).get("rows", {})
        return found

    def add(self, style: Style, row: str, figures: Mapping[str, Any], strip: Image.Image) -> None:
        """Keep a row, and draw the sheet anew."""
        part = self.report["styles"].setdefault(
            style.name, {"references": [style.people.names[i] for i in style.chosen[: style.seen]], "rows": {}}
        )
        save_png(strip, self.strip(style.name, row))
        part["rows"][row] = {**figures, "threads": torch.get_num_threads()}
        write_folder(self.folder, {REPORT: dump_json(self.report)})
        side = (strip.height,) * 2
        strips = [contact_sheet([image.resize(side) for image in to_images(style.pictures[:SHOWN])], SHOWN)]
        for name in part["rows"]:
            with Image.open(self.strip(style.name, name)) as image:
                strips.append(image.convert("RGB"))
        save_png(contact_sheet(strips, 1), self.folder / f"{style.name}.png")

    def strip(self, style: str, row: str) -> Path:
        """Where the pictures of a row are."""
        return self.folder / "rows" / f"{style}-{re.sub(r'[^a-z0-9.]+', '-', row.lower())}.png"
