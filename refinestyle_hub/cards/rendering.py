"""A card from the files of a model and its facts; what people wrote into an old one stays."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..boundary.paths import AnyPath, user_path
from ..errors import CardError, counted
from ..storage.atomic import write_folder
from ..storage.model_folder import Folder
from .facts import FACTS, README, Card, Metric, dump_card, read_text
from .kinds import base_rows, file_rows, kind_of
from .licences import relicensed
from .metadata import NO_LICENCE, WRITTEN, front_matter, metadata, split


__all__ = ["edited", "render", "write_card"]


CITATIONS = """@inproceedings{xia2024refinestyle,
  title     = {RefineStyle: Dynamic Convolution Refinement for StyleGAN},
  author    = {Siwei Xia and Xueqi Hu and Li Sun and Qingli Li},
  booktitle = {Pattern Recognition and Computer Vision (PRCV)},
  year      = {2024},
  note      = {arXiv:2410.06104}
}
@inproceedings{karras2020analyzing,
  title     = {Analyzing and Improving the Image Quality of {StyleGAN}},
  author    = {Tero Karras and Samuli Laine and Miika Aittala and Janne Hellsten and Jaakko Lehtinen and Timo Aila},
  booktitle = {CVPR},
  year      = {2020}
}"""


# --- Rendering ------------------------------------------------------------------------------------------------------


def render(
    folder: Path, card: Card, name: str, old: str = "", subfolder: str = "", pictures: Path | None = None
) -> str:
    """The card of the part or pipeline saved in ``folder``.

    Args:
        name: The name that users load it by: a Hub id or a bundled name.
        old: The card to bring up to date. What people wrote into it stays, and its licence if ``card`` has none.
        pictures: The folder that the card's pictures are relative to, by default ``folder``. Absent ones are left out.

    Raises:
        CardError: The part needs a generator, and there is no ``base_model``; or the old card cannot be read.
    """
    kind, config = kind_of(folder)
    known, body = split(old)
    if card.license is None:
        card = relicensed(card, old)
    if card.base_model is None and subfolder:  # a part of a pipeline goes with its generator
        card = replace(card, base_model=name)
    if card.base_model is None and kind.needs_base:
        unnamed = (
            "The card must name the generator that it is for, a Hub id or a bundled one: Card(base_model=...), or "
            "--base-model."
        )
        raise CardError(unnamed if card.license else f"{unnamed}\n{NO_LICENCE}")
    address = f'"{name}", subfolder="{subfolder}"' if subfolder else f'"{name}"'
    title = card.title or f"{(subfolder or name).rpartition('/')[2]}: {kind.word}"
    rows = kind.rows(folder, config) | base_rows(config) | file_rows(folder)
    shown = [picture for picture in card.pictures if ((pictures or folder) / picture.file).is_file()]
    sections = {
        "about": [f"# {title}", card.summary, kind.about, _table(["", ""], rows.items())],
        "pictures": [f"![{picture.caption}]({picture.file})\n\n{picture.caption}" for picture in shown],
        "use": ["## Use", f"```python\n{kind.snippet(address, card.base_model or name, config)}\n```"],
        "training": _training(card),
        "metrics": _metrics(card.metrics),
        "limits": ["## Limits", "\n".join(f"- {limit}" for limit in card.limits)] if card.limits else [],
        "licence": ["## Licence", _licence(card)],
        "citation": ["## Citation", "\n".join(["```bibtex", CITATIONS, *filter(None, [card.citation]), "```"])],
    }
    texts = {key: "\n\n".join(filter(None, parts)) for key, parts in sections.items() if parts}
    yaml = front_matter(metadata(kind, config, card, "/".join(filter(None, [name, subfolder]))), known)
    return f"---\n{yaml}\n---\n\n{_update(body, texts)}"


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    plain = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in plain)


def _metrics(metrics: Iterable[Metric]) -> list[str]:
    rows = []
    for f in metrics:
        detail = [
            counted(f.samples, "sample") if f.samples else "",
            "" if f.seed is None else f"seed {f.seed}",
            f.version,
            f"`{f.command}`" if f.command else "",
        ]
        rows.append([f.name, f"{f.value:.4g} {f.unit}".strip(), f.dataset, ", ".join(filter(None, detail))])
    return ["## Metrics", _table(["Metric", "Value", "Measured on", "How"], rows)] if rows else []


def _training(card: Card) -> list[str]:
    command = f"```\n{card.training}\n```" if card.training else ""
    parts = [card.data, command, f"Cost: {card.cost}." if card.cost else ""]
    return ["## Data and training", *parts] if any(parts) else []


def _licence(card: Card) -> str:
    if card.license is None:
        text = "Not stated yet."
    elif card.license == "other":
        text = f"[{card.license_name}]({card.license_link})."
    else:
        text = f"`{card.license}`."
    if card.base_license:
        text += (
            f" It is of use only with its generator, whose terms (`{card.base_license}`) also hold for the pictures."
        )
    return text


# --- Marked sections ------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- begin refinestyle: {} -->", "<!-- end refinestyle: {} -->"
SECTION = re.compile(r"<!-- begin refinestyle: (\w+) -->\n.*?<!-- end refinestyle: \1 -->\n?", re.DOTALL)


def _update(body: str, sections: dict[str, str]) -> str:
    """``body`` with its marked sections replaced; new ones go before what follows the last one."""
    marked = {key: f"{BEGIN.format(key)}\n{text}\n{END.format(key)}\n" for key, text in sections.items()}
    present = [match[1] for match in SECTION.finditer(body)]
    new = "\n".join(text for key, text in marked.items() if key not in present)
    if not present:
        return f"{new}\n{body.strip()}\n" if body.strip() else new
    body = SECTION.sub(lambda match: marked.get(match[1], ""), body).strip("\n") + "\n"
    if not new:
        return body
    last = max((match.end() for match in SECTION.finditer(body)), default=0)
    return f"{body[:last]}\n{new}{body[last:]}"


def edited(text: str) -> bool:
    """Whether people added to a card: words outside its marked sections, or keys to its metadata."""
    known, body = split(text)
    return bool(SECTION.sub("", body).strip()) or not known.keys() <= WRITTEN


# --- Writing --------------------------------------------------------------------------------------------------------


def write_card(folder: AnyPath, card: Card, name: str) -> None:
    """Write ``card.json`` and README.md into the folder of a saved part or pipeline."""
    root = user_path(folder)
    text = render(root, card, name, read_text(Folder(root).find(README)))
    write_folder(root, {FACTS: dump_card(card), README: text.encode()})
