"""The cards of what ships, and the rights to the pictures of a mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from card_parts import run_snippets
from tiny import token_set
from write_cards import shipped

from refinestyle_hub.cards.facts import read_card
from refinestyle_hub.cards.licences import check_rights
from refinestyle_hub.cards.metadata import check
from refinestyle_hub.cards.rendering import render
from refinestyle_hub.errors import CardError
from refinestyle_hub.storage.model_folder import Folder


CHECKOUT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted(shipped()))
def test_shipped_card_is_what_is_written(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring them up to date: python tools/write_cards.py."""
    source, folder, name, subfolder = shipped()[file]
    if not folder.is_dir():
        pytest.skip(f"the generator of {name} has not been fetched here: refinestyle get {name}")
    cards = CHECKOUT / "model_cards"
    text = (cards / file).read_text(encoding="utf-8")
    assert render(folder, read_card(source, subfolder), name, text, subfolder, pictures=cards) == text
    check(text)
    monkeypatch.chdir(CHECKOUT)
    run_snippets(text)


def test_no_card_without_its_artefact() -> None:
    cards = {path.name for path in (CHECKOUT / "model_cards").glob("*.md")} - {"README.md"}
    assert cards <= set(shipped())


def test_a_mix_needs_the_rights_to_the_pictures_of_all_its_parts(tmp_path: Path) -> None:
    stated = replace(token_set(seed=1), metadata={"name": "mine", "pictures": 3, "rights": "Drawn by me."})
    silent = replace(token_set(seed=2), metadata={"name": "found", "pictures": 5})
    (stated + stated.scale(0.5)).save_pretrained(tmp_path)
    check_rights(Folder(tmp_path))
    blank = replace(silent, metadata={**silent.metadata, "rights": "  "})
    for mix in (stated + silent, stated.lerp(silent, 0.2) + stated, silent.scale(0.5), blank, stated + blank):
        mix.save_pretrained(tmp_path)
        with pytest.raises(CardError, match="5 pictures that 'found' was made from"):
            check_rights(Folder(tmp_path))
