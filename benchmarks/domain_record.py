"""The figures and sheets of ``domains.py``, kept as they are made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from domain_style import Style
from PIL import Image

from refinestyle_hub.evaluation.record import Record
from refinestyle_hub.images import contact_sheet, save_png, to_images


__all__ = ["SHOWN", "Figures"]

SHOWN = 8  # samples in the sheets; above them the references


class Figures:
    """The folder of the tables of all styles: what is in it is not made again."""

    def __init__(self, folder: Path, setup: Mapping[str, Any]) -> None:
        """Raises ConfigError where the folder has figures of another setup: they do not belong in one table."""
        self.folder, self.record = folder, Record(folder / "domains.json", setup)

    def rows(self, style: str) -> dict[str, dict[str, Any]]:
        """What is there."""
        return self.record.rows(style)

    def add(self, style: Style, row: str, figures: Mapping[str, Any], strip: Image.Image) -> None:
        """Keep a row, and draw the sheet anew."""
        save_png(strip, self.strip(style.name, row))
        references = [style.people.names[i] for i in style.chosen[: style.seen]]
        kept = {**figures, "references": references, "threads": torch.get_num_threads()}
        self.record.add(style.name, row, kept)
        side = (strip.height,) * 2
        strips = [contact_sheet([image.resize(side) for image in to_images(style.pictures[:SHOWN])], SHOWN)]
        for name in self.rows(style.name):
            with Image.open(self.strip(style.name, name)) as image:
                strips.append(image.convert("RGB"))
        save_png(contact_sheet(strips, 1), self.folder / f"{style.name}.png")

    def strip(self, style: str, row: str) -> Path:
        """Where the pictures of a row are."""
        return self.folder / "rows" / f"{style}-{re.sub(r'[^a-z0-9.]+', '-', row.lower())}.png"
