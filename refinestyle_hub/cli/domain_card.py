"""What is shown of a domain that a command makes: ``card.json``, on what it was made from and how, and a preview."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..boundary.paths import user_path
from ..errors import counted


if TYPE_CHECKING:
    from ..pipeline import RefineStylePipeline
    from ..tokens.token_set import TokenSet


__all__ = ["PREVIEW", "save_preview", "shown", "write_card"]

PREVIEW = "preview.png"  # in the domain's folder
SAMPLES = range(8)  # seeds
SIDE = 256  # pixels of a sample, at most


def save_preview(pipe: RefineStylePipeline, domain: TokenSet, file: Path) -> None:
    """Draw random samples: a row without the domain, and a row in it."""
    from ..images import contact_sheet, save_png

    side = min(SIDE, pipe.generator.config.resolution)
    images = [i for s in (0.0, 1.0) for i in pipe.generate(SAMPLES, domains={domain: s}, resolution=side)]
    save_png(contact_sheet(images, columns=len(SAMPLES)), file)


def write_card(
    out: Path,
    made: Mapping[str, Any],
    model: str,
    command: str,
    *,
    cost: str = "",
    limits: tuple[str, ...] = (),
    changed: bool = True,
) -> None:
    """Write how a domain with a preview was made. What else its card says stays; of one that changed, not its metrics.

    Args:
        out: The folder of the domain.
        made: Its metadata.
        model: What it was made for, as the user named it.
        command: That made it.
        cost: How long that took, and where.
        limits: What it falls short of.
        changed: Whether its tokens are others than those that the metrics were measured of.
    """
    from ..cards.facts import FACTS, Picture, dump_card, read_card
    from ..hub.sources import bundled_models
    from ..storage.atomic import write_folder
    from ..storage.model_folder import Folder, is_repo_id

    known = read_card(Folder(out))
    public = model in bundled_models() or (is_repo_id(model) and not user_path(model).exists())
    picture = Picture(PREVIEW, "Random seeds of the generator; below, the same in this domain.")
    card = replace(
        known,
        base_model=model if public else known.base_model,
        data=origin(made),
        training=command,
        cost=cost,
        limits=(*known.limits, *limits),
        metrics=() if changed else known.metrics,
        pictures=(picture,),
    )
    write_folder(out, {FACTS: dump_card(card)})


def origin(made: Mapping[str, Any]) -> str:
    """What the metadata of a domain say that it was made from; of a mix, what those of each part say."""
    parts, pictures = made.get("mixed_from"), made.get("pictures")  # as a stranger may have written them
    if isinstance(parts, list):
        return "\n".join(["A mix of domains.", *dict.fromkeys(_told(parts))])
    if isinstance(pictures, int) and pictures:
        what = f"{counted(pictures, 'picture')} of the style, which are not part of this repo"
        rights = str(made.get("rights") or "").strip().rstrip(".") or "nothing is stated"
        return f"Made from {what}. Rights to them, as the maker states: {rights}."
    if "target_text" in made:
        return f'Made without pictures, from the text "{made.get("source_text")}" to "{made["target_text"]}".'
    return "It does not say what it was made from."


def _told(parts: list[Any]) -> Iterator[str]:
    """A line on each part of a mix; of a part that is a mix as well, those on its own parts."""
    for part in parts:
        if isinstance(part, Mapping):
            if isinstance(mixed := part.get("mixed_from"), list):
                yield from _told(mixed)
            else:
                yield f"- {part['name']}: {origin(part)}" if part.get("name") else f"- {origin(part)}"


def shown(place: str) -> str | None:
    """A name or Hub id as it stands in a command that others read; None for a path, which is nobody's business."""
    return None if user_path(place).exists() else place
