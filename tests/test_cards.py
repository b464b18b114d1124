"""Model cards: what they say, that the Hub would take them, that people's edits stay, that their code runs."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from card_parts import run_snippets
from tiny import tiny_generator, token_set
from write_cards import write_cards

from refinestyle_hub.cards.facts import Card, Metric, Picture, dump_card, read_card
from refinestyle_hub.cards.licences import stated_licence
from refinestyle_hub.cards.metadata import check
from refinestyle_hub.cards.rendering import edited, render, write_card
from refinestyle_hub.config import DiscriminatorConfig, EncoderConfig, EncoderNetwork
from refinestyle_hub.editing.directions import Direction, Directions
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import CardError, ConfigError, ModelFileError, ModelNotFoundError
from refinestyle_hub.evaluation.attributes import AttributeConfig, AttributeNet
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.hub import sources
from refinestyle_hub.hub.push import with_base_terms
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.storage.index import PipelineIndex, save_index
from refinestyle_hub.storage.model_folder import Folder


GENERATOR = tiny_generator()
DOMAIN = replace(token_set(seed=1), base=GENERATOR.fingerprint(), metadata={"steps": 300, "loss": {"not": "shown"}})
SMALL: dict[str, Any] = {"widths": (4, 4, 4, 4), "width": 16, "depth": 1, "heads": 2, "rank": 2}
ENCODER = Encoder(EncoderConfig(GENERATOR.config.shape, EncoderNetwork(**SMALL), GENERATOR.fingerprint()))
DIRECTIONS = Directions({"smile": Direction(torch.randn(1, 16))}, GENERATOR.fingerprint())

CARD = Card(
    license="cc-by-nc-4.0",
    base_model="me/faces",
    base_license="nvidia-source-code-license",
    title="A sketch | in pencil",
    summary="Pencil portraits.",
    data="Ten pictures.",
    datasets=("me/portraits",),
    training="refinestyle adapt faces pictures/",
    cost="three minutes on two CPU cores",
    metrics=(
        Metric("Kernel distance", 0.0123456, "portraits-128, test split", samples=5000, seed=3, command="python q.py"),
        Metric("LPIPS", 1.5, "portraits-128, test split", unit="x 10", version="lpips 0.1.4, vgg"),
        Metric("Kernel distance", 0.05, "blurred portraits", reference=True),
    ),
    limits=("Only frontal faces.", "No hats."),
    pictures=(Picture("sheet.png", "Eight heads."), Picture("lost.png", "Not there.")),
    citation="@misc{me}",
    tags=("pencil",),
)


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    DOMAIN.save_pretrained(tmp_path / "sketch")
    (tmp_path / "sketch" / "sheet.png").write_bytes(b"png")
    return tmp_path / "sketch"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled pipeline "tiny", with every kind of part."""
    folder = tmp_path / "bundled" / "tiny"
    GENERATOR.save_pretrained(folder / "generator")
    Discriminator(DiscriminatorConfig(32, GENERATOR.config.channels)).save_pretrained(folder / "discriminator")
    ENCODER.save_pretrained(folder / "encoder")
    DIRECTIONS.save_pretrained(folder / "directions")
    DOMAIN.save_pretrained(folder / "domains" / "sketch")
    save_index(folder, PipelineIndex(("generator", "discriminator", "encoder", "directions"), ("sketch",)))
    monkeypatch.setattr(sources, "BUNDLED", folder.parent)
    return folder


def metadata_of(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match is not None
    data: dict[str, Any] = yaml.safe_load(match[1])
    return data


# --- what a card says


def test_card_of_a_domain_says_everything(domain: Path) -> None:
    text = render(domain, CARD, "me/sketch")
    for fact in (
        "# A sketch | in pencil",
        "Pencil portraits.",
        "| Tokens T per layer | 3 |",
        "| Steps | 300 |",
        DOMAIN.base.digest if DOMAIN.base else "",
        f"{(domain / 'tokens.safetensors').stat().st_size / 1e3:.1f} KB, {DOMAIN.num_values + 33:,} values",
        "![Eight heads.](sheet.png)",
        "Ten pictures.",
        "refinestyle adapt faces pictures/",
        "Cost: three minutes on two CPU cores.",
        "| Kernel distance | 0.01235 | portraits-128, test split | 5,000 samples, seed 3, `python q.py` |",
        "| LPIPS | 1.5 x 10 | portraits-128, test split | lpips 0.1.4, vgg |",
        "- Only frontal faces.\n- No hats.",
        "`cc-by-nc-4.0`. It is of use only with its generator, whose terms (`nvidia-source-code-license`)",
        "xia2024refinestyle",
        "@misc{me}",
    ):
        assert fact in text
    assert "lost.png" not in text
    assert "not" not in metadata_of(text)
    check(text)


def test_metadata_is_what_the_hub_indexes(domain: Path) -> None:
    data = metadata_of(render(domain, CARD, "me/sketch"))
    assert data["license"] == "cc-by-nc-4.0"
    assert data["library_name"] == "refinestyle-hub"
    assert data["pipeline_tag"] == "image-to-image"
    assert data["base_model"] == "me/faces"
    assert data["datasets"] == ["me/portraits"]
    assert DOMAIN.base is not None
    tag = f"refinestyle-base-{DOMAIN.base.digest}"
    assert data["tags"] == ["refinestyle", "refinestyle-domain", "stylegan2", "pencil", tag]
    (entry,) = data["model-index"]
    assert entry["name"] == "me/sketch"
    (result,) = entry["results"]  # the blurred portraits are in the table, for scale
    assert result["task"]["type"] == "image-to-image"
    assert result["dataset"] == {"name": "portraits-128, test split", "type": "portraits-128-test-split"}
    distance, lpips = result["metrics"]
    assert distance == {
        "type": "kernel_distance",
        "name": "Kernel distance",
        "value": 0.0123456,
        "args": {"samples": 5000, "seed": 3},
    }
    assert lpips["config"] == "lpips 0.1.4, vgg"


def test_a_base_that_is_no_repo_stays_out_of_the_metadata(domain: Path) -> None:
    text = render(domain, replace(CARD, base_model="mini-faces-128"), "me/sketch")
    assert "base_model" not in metadata_of(text)
    assert 'Generator.from_pretrained("mini-faces-128")' in text


def test_a_domain_names_its_generator(domain: Path) -> None:
    with pytest.raises(CardError, match=r"Card\(base_model=\.\.\.\), or --base-model\.$"):
        render(domain, replace(CARD, base_model=None), "me/sketch")
    with pytest.raises(CardError, match=r"(?s)Card\(base_model=\.\.\.\).*Card\(license=\.\.\.\)") as error:
        render(domain, Card(), "me/sketch")
    assert str(error.value).count("\n") == 2, "all that is missing, at once"


def test_a_table_keeps_its_rows(domain: Path) -> None:
    replace(DOMAIN, metadata={"prompt": "a pencil\n| sketch"}).save_pretrained(domain)
    assert "| Prompt | a pencil \\| sketch |" in render(domain, CARD, "me/sketch")


def test_terms_of_the_base_are_inherited(bundled: Path) -> None:
    card = Card(license="mit", base_model="tiny")
    for unstated in (card, replace(card, base_license="noted")):
        assert with_base_terms(unstated) == unstated, "a licence is never assumed"
    base = Card(license="other", license_name="nvidia-nc", license_link="LICENSE")
    (bundled / "generator" / "card.json").write_bytes(dump_card(base))
    assert with_base_terms(card) == replace(card, base_license="nvidia-nc")
    assert with_base_terms(replace(card, base_license="noted")).base_license == "nvidia-nc"
    assert with_base_terms(Card()) == Card()
    with pytest.raises(CardError, match="neither a Hub id nor a bundled model"):
        with_base_terms(replace(card, base_model=str(bundled)))


def test_the_nearest_card_states_the_licence(bundled: Path) -> None:
    source = Folder(bundled)
    assert stated_licence(source, "domains/sketch") is None
    (bundled / "card.json").write_bytes(dump_card(Card(license="mit")))
    assert stated_licence(source, "domains/sketch") == "mit"
    (bundled / "README.md").write_text("---\nlicense: other\nlicense_name: ours\nlicense_link: LICENSE\n---\n")
    assert stated_licence(source, "domains/sketch") == "ours"
    (bundled / "domains" / "sketch" / "card.json").write_bytes(dump_card(Card(license="cc0-1.0")))
    assert stated_licence(source, "domains/sketch") == "cc0-1.0"


def test_rendering_is_pure_and_needs_no_network_and_no_templates(
    domain: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    before = sorted((p, p.stat().st_mtime_ns) for p in domain.rglob("*"))
    assert render(domain, CARD, "me/sketch") == render(domain, CARD, "me/sketch")
    assert sorted((p, p.stat().st_mtime_ns) for p in domain.rglob("*")) == before


def test_facts_round_trip(tmp_path: Path) -> None:
    assert read_card(Folder(tmp_path)) == Card()
    for card in (CARD, Card(), Card(license="mit")):
        (tmp_path / "card.json").write_bytes(dump_card(card))
        assert read_card(Folder(tmp_path)) == card
    (tmp_path / "card.json").write_text('{"licence": "mit"}')
    with pytest.raises(ConfigError, match="unknown keys: licence"):
        read_card(Folder(tmp_path))


def test_a_folder_without_a_model_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="holds no model"):
        render(tmp_path, CARD, "me/x")
    with pytest.raises(ModelNotFoundError, match="There is no folder"):
        render(tmp_path / "nowhere", CARD, "me/x")
    Inversion(GENERATOR.mean_latent.expand(8, 16)).save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="only these have cards"):
        render(tmp_path, CARD, "me/x")


# --- what the Hub would refuse


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "No licence is stated"),
        ("license: unknown", "No licence is stated"),
        ("license: Apache 2", "not an id of the Hub's list"),
        ("license: other", "needs license_name and license_link"),
        ("license: mit\nbase_model: ./faces", "base_model './faces' is not a Hub id"),
        ("license: mit\nbase_model: [me/a, /work/b]", "base_model '/work/b'"),
        ("license: mit\ntags: [1]", "tags must be a list of words"),
        ("license: [", "cannot be read"),
    ],
)
def test_bad_metadata_is_refused(line: str, words: str) -> None:
    with pytest.raises(CardError, match=re.escape(words)) as error:
        check(f"---\nlibrary_name: x\n{line}\n---\n# Card\n")
    assert str(error.value).count("\n") <= 2


def test_good_metadata_passes() -> None:
    check("---\nlicense: other\nlicense_name: nvidia-nc\nlicense_link: LICENSE\nbase_model: [me/a]\n---\n")


def test_metrics_are_finite(domain: Path) -> None:
    text = render(domain, replace(CARD, metrics=(Metric("LPIPS", float("nan"), "test"),)), "me/sketch")
    with pytest.raises(CardError, match="not a finite number"):
        check(text)


# --- edits by hand


def test_edits_outside_the_marks_survive(domain: Path) -> None:
    first = render(domain, CARD, "me/sketch")
    edited = first.replace("## Limits\n", "## Limits, wrongly edited\n")
    edited = edited.replace("library_name:", "language: en\nlibrary_name:").replace("- pencil", "- pencil\n- graphite")
    edited = edited.replace(
        "<!-- begin refinestyle: metrics -->", "Before the metrics.\n\n<!-- begin refinestyle: metrics -->"
    )
    edited += "\n## My notes\n\nA \\1 and a \\g<0>.\n"
    again = render(domain, replace(CARD, limits=("Only heads.",)), "me/sketch", edited)
    assert "## Limits\n\n- Only heads." in again
    assert "wrongly edited" not in again
    assert "Before the metrics.\n\n<!-- begin refinestyle: metrics -->" in again
    assert again.endswith("\n## My notes\n\nA \\1 and a \\g<0>.\n")
    assert metadata_of(again)["language"] == "en"
    assert "graphite" in metadata_of(again)["tags"]
    assert render(domain, replace(CARD, limits=("Only heads.",)), "me/sketch", again) == again, "a fixed point"


def test_unchanged_card_is_unchanged(domain: Path) -> None:
    text = render(domain, CARD, "me/sketch")
    assert render(domain, CARD, "me/sketch", text) == text
    assert render(domain, CARD, "me/sketch", text.replace("\n", "\r\n")) == text


def test_sections_come_and_go(domain: Path) -> None:
    without = render(domain, replace(CARD, limits=(), metrics=()), "me/sketch") + "\nMine.\n"
    assert "## Limits" not in without
    grown = render(domain, CARD, "me/sketch", without)
    assert "## Limits" in grown
    assert grown.rstrip().endswith("Mine.")
    shrunk = render(domain, replace(CARD, limits=(), metrics=()), "me/sketch", grown)
    assert "## Limits" not in shrunk
    assert shrunk.rstrip().endswith("Mine.")


def test_old_base_tag_does_not_stay(domain: Path) -> None:
    old = render(domain, CARD, "me/sketch")
    moved = replace(DOMAIN, base=tiny_generator(seed=9).fingerprint())
    moved.save_pretrained(domain)
    tags = metadata_of(render(domain, CARD, "me/sketch", old))["tags"]
    assert sum(tag.startswith("refinestyle-base-") for tag in tags) == 1


def test_licence_of_the_old_card_stays(domain: Path) -> None:
    old = "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\nWords.\n"
    text = render(domain, replace(CARD, license=None), "me/sketch", old)
    check(text)
    assert "[mine](LICENSE)" in text
    assert text.rstrip().endswith("Words.")
    text = render(domain, CARD, "me/sketch", old)
    assert not {"license_name", "license_link"} & metadata_of(text).keys(), "they went with the old licence"


def test_what_people_added_is_told_from_what_was_written(domain: Path) -> None:
    text = render(domain, CARD, "me/sketch")
    assert not edited("")
    assert not edited(text)
    assert edited(text + "\nMine.\n")
    assert edited(text.replace("library_name:", "language: en\nlibrary_name:"))


def test_a_card_with_a_byte_order_mark(domain: Path) -> None:
    (domain / "README.md").write_text("\ufeff---\nlicense: mit\n---\nWords.\n", encoding="utf-8")
    write_card(domain, replace(CARD, license=None), "me/sketch")
    assert metadata_of((domain / "README.md").read_text(encoding="utf-8"))["license"] == "mit"


# --- code


def test_snippet_of_the_attribute_network(bundled: Path, tmp_path: Path) -> None:
    config = AttributeConfig(("smile",), 1, (0.0,), (1.0,), ("bald",), resolution=32, widths=(4, 4, 4, 4), features=4)
    AttributeNet(config).save_pretrained(bundled / "attributes")
    text = render(bundled / "attributes", Card(license="mit"), "tiny", subfolder="attributes")
    assert set(run_snippets(text)["readings"]) == {"smile"}


def test_snippets_of_a_bundled_model(bundled: Path, tmp_path: Path) -> None:
    paths = write_cards(tmp_path)
    names = {path.name for path in paths}
    assert names == {"tiny-generator.md", "tiny-encoder.md", "tiny-directions.md", "tiny-domains-sketch.md"}
    for path in paths:
        assert run_snippets(path.read_text())["pictures"].shape == (4, 3, 32, 32)


def test_snippets_of_parts_that_have_no_card_of_their_own(bundled: Path) -> None:
    card = Card(license="mit", base_model="tiny")
    (judged,) = run_snippets(render(bundled / "discriminator", card, "tiny", subfolder="discriminator"))["logits"].T
    assert judged.shape == (4,)
    pictures = run_snippets(render(bundled, card, "tiny"))["pictures"]
    assert [picture.size for picture in pictures] == [(32, 32)] * 4


def test_card_of_an_encoder_says_what_it_reads_and_answers(bundled: Path) -> None:
    text = render(bundled / "encoder", CARD, "me/encoder")
    check(text)
    for fact in (
        "| Input | 32 x 32, RGB, [-1, 1] |",
        "w+ of 8 x 16, and T = 2 tokens",
        "| Stages | two, 1 refinement iteration without gradient feedback |",
    ):
        assert fact in text


def test_cards_take_facts_and_pictures(bundled: Path, tmp_path: Path) -> None:
    (bundled / "generator" / "card.json").write_bytes(dump_card(replace(CARD, base_model=None)))
    (tmp_path / "sheet.png").write_bytes(b"png")
    write_cards(tmp_path)
    text = (tmp_path / "tiny-generator.md").read_text()
    assert "![Eight heads.](sheet.png)" in text
    (tmp_path / "tiny-generator.md").write_text(text + "\nBy hand.\n")
    write_cards(tmp_path)
    assert (tmp_path / "tiny-generator.md").read_text() == text + "\nBy hand.\n"


def test_write_card_beside_a_part(domain: Path) -> None:
    write_card(domain, CARD, "me/sketch")
    assert read_card(Folder(domain)) == CARD
    check((domain / "README.md").read_text())
