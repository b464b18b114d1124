"""What is shown of a domain that a command makes: ``card.json``, on what it was made from and how, and a preview."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..boundary.paths import user_path


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
    from ..cards.origins import origin
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


def shown(place: str) -> str | None:
    """A name or Hub id as it stands in a command that others read; None for a path, which is nobody's business."""
    return None if user_path(place).exists() else place
