"""Terms that stay with weights: a generator that was fetched keeps them on its card, wherever it is pushed."""

from __future__ import annotations

from dataclasses import replace

from ..cards.facts import FACTS, Card, dump_card, read_card
from ..cards.kinds import generator_identity, kind_of
from ..config import GENERATOR_CONFIGS
from ..storage.index import join, model_folders
from ..storage.model_folder import Folder
from .fetched import PART, FetchedModel
from .sources import bundled_models, open_source


__all__ = ["with_terms"]


def fetched_origins(source: Folder) -> dict[str, FetchedModel]:
    """The generators in a saved model that are, or descend from, a fetched one.

    Returns:
        The bundled model, by the folder of the generator in ``source``.
    """
    fetched = [model for name in bundled_models() if isinstance(model := open_source(name), FetchedModel)]
    found = {}
    for folder in model_folders(source):
        _, config = kind_of(source.root / folder)
        if config["class"] in GENERATOR_CONFIGS:
            identity = generator_identity(source.root / folder, config)
            for model in fetched:
                if model.recipe.digest in (identity.digest, *identity.parents):
                    found[folder] = model
    return found


def with_terms(card: Card, source: Folder) -> tuple[Card, dict[str, bytes]]:
    """``card`` with the terms of fetched generators in a saved model, and a ``card.json`` for each that lacks one.

    Returns:
        The card of the whole, and contents by their names in the model.
    """
    files = {}
    for folder, model in fetched_origins(source).items():
        if folder and not source.find(join(folder, FACTS)):
            files[join(folder, FACTS)] = dump_card(read_card(model, PART))
        terms = f"**Terms of {model.root.name}, from which the generator comes.** {model.recipe.terms}"
        if not any(model.recipe.terms in limit for limit in card.limits):
            card = replace(card, limits=(*card.limits, terms))
    return card, files
