"""Models to the Hub: what is sent, what is kept of people's edits, what is refused before anything is sent."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from remote_model import (
    CARD,
    DOMAIN,
    ENCODER,
    GENERATOR,
    assert_helps,
    assert_same,
)
from tiny import token_set

from refinestyle_hub.cards.facts import Card, Picture, dump_card, read_card
from refinestyle_hub.cards.rendering import write_card
from refinestyle_hub.errors import CardError, HubAccessError, HubConnectionError, ModelNotFoundError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.hub.push import push_folder
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.index import PipelineIndex, save_index
from refinestyle_hub.tokens.token_set import TokenSet


# huggingface_hub's own upload does what its HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_push_and_load(pipeline: str, hub: HubServer) -> None:
    address = DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert re.fullmatch(re.escape(hub.url) + r"/me/my-sketch/commit/[0-9a-f]{40}", address)
    assert len(hub.seen("POST .*/commit/")) == 1
    files = hub.files("me/my-sketch")
    assert set(files) == {".gitattributes", "README.md", "card.json", "config.json", "tokens.safetensors"}
    assert_same(TokenSet.from_pretrained("me/my-sketch"), DOMAIN)
    assert read_card(open_source("me/my-sketch")) == CARD
    text = files["README.md"].decode()
    for fact in ("license: cc-by-4.0", "base_model: me/faces", "| Steps | 300 |", "LPIPS", "seed: 0", "KB"):
        assert fact in text


def test_a_whole_pipeline_is_pushed(pipeline: str, hub: HubServer) -> None:
    pipe = RefineStylePipeline.from_pretrained("me/faces", token=hub.write_token)
    pipe.push_to_hub("me/more-faces", card=Card(license="cc-by-4.0"), token=hub.write_token, variant="fp16")
    assert len(hub.seen("POST .*/commit/")) == 1
    files = hub.files("me/more-faces")
    assert {"README.md", "model_index.json", "generator/model.fp16.safetensors"} <= set(files)
    again = RefineStylePipeline.from_pretrained("me/more-faces", token=hub.write_token)
    assert again.fingerprint == pipe.fingerprint
    assert set(again.domains) == set(pipe.domains)
    near = (again.generate([3], output_type="pt") - pipe.generate([3], output_type="pt")).abs().max()
    assert near < 0.05  # half precision


def test_card_snippet_runs(pipeline: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    code = re.search(r"```python\n(.*?)```", hub.files("me/my-sketch")["README.md"].decode(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["pictures"].shape == (4, 3, 32, 32)


def test_missing_licence_is_refused_before_anything_is_sent(pipeline: str, hub: HubServer) -> None:
    with pytest.raises(CardError) as error:
        DOMAIN.push_to_hub("me/my-sketch", card=replace(CARD, license=None), token=hub.write_token)
    assert_helps(error, "No licence", "Card(license=", "--license", "license_name")
    with pytest.raises(CardError) as error:
        DOMAIN.push_to_hub("me/my-sketch", token=hub.write_token)
    assert_helps(error, "must name the generator", "Card(base_model=", "--base-model", "No licence", "Card(license=")
    assert not hub.seen("POST|PUT")
    assert list(hub.repos) == ["me/faces"]


def test_a_domain_of_pictures_needs_a_statement_of_rights(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    """By itself, and as a part of a pipeline."""
    silent = replace(DOMAIN, metadata={"name": "sketch", "pictures": 5})
    with pytest.raises(CardError) as error:
        silent.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert_helps(error, "5 pictures that 'sketch' was made from", "--rights", "metadata=")
    folder = tmp_path / "whole"
    RefineStylePipeline(GENERATOR, domains={"sketch": silent}).save_pretrained(folder)
    with pytest.raises(CardError, match="5 pictures"):
        push_folder(folder, "me/whole", card=replace(CARD, base_model=None), token=hub.write_token)
    assert not hub.seen("POST|PUT")
    stated = replace(silent, metadata={**silent.metadata, "rights": "I drew them"})
    stated.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert "| Rights | I drew them |" in hub.files("me/my-sketch")["README.md"].decode()


def test_rights_are_asked_for_whatever_a_stranger_wrote(pipeline: str, hub: HubServer) -> None:
    """Into the metadata of a domain, where any JSON may stand."""
    silent = {"name": "ink", "pictures": "many"}
    for made in (silent, {"mixed_from": [5, None, {"mixed_from": [silent]}]}):
        with pytest.raises(CardError, match="the pictures that 'ink' was made from"):
            replace(DOMAIN, metadata=made).push_to_hub("me/odd", card=CARD, token=hub.write_token)
    for number, parts in enumerate((None, 7, "ink", {"a": "b"})):
        odd = replace(DOMAIN, metadata={"mixed_from": parts})
        odd.push_to_hub(f"me/odd-{number}", card=CARD, token=hub.write_token)


def test_the_licence_of_the_base_is_noted(pipeline: str, hub: HubServer) -> None:
    """As the base's own card states it, which people edit on the Hub."""
    DOMAIN.push_to_hub("me/before", card=CARD, token=hub.write_token)
    assert b"It is of use only with its generator" not in hub.files("me/before")["README.md"]
    hub.add("me/faces", {"README.md": b"---\nlicense: other\nlicense_name: nvidia-nc\nlicense_link: LICENSE\n---\n"})
    ENCODER.push_to_hub("me/encoder", card=Card(license="mit", base_model="me/faces"), token=hub.write_token)
    DOMAIN.push_to_hub("me/after", card=replace(CARD, base_model="mini-faces-128"), token=hub.write_token)
    assert read_card(open_source("me/encoder")).base_license == "nvidia-nc"
    assert b"whose terms (`nvidia-nc`) also hold" in hub.files("me/encoder")["README.md"]
    assert read_card(open_source("me/after")).base_license == "apache-2.0"


def test_a_base_that_others_cannot_load(hub: HubServer) -> None:
    with pytest.raises(CardError, match=r"'\./faces' is neither a Hub id nor a bundled model"):
        DOMAIN.push_to_hub("me/my-sketch", card=replace(CARD, base_model="./faces"), token=hub.write_token)
    with pytest.warns(UserWarning, match="does not name the licence of its base model. There is no model me/faces"):
        DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)


@pytest.mark.parametrize("name", ["sketch", "not an id/x", "a/b/c", "../x"])
def test_an_id_that_cannot_be(name: str, hub: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match="is not a Hub id"):
        DOMAIN.push_to_hub(name, card=CARD, token=hub.write_token)
    assert hub.requests == []


def test_a_licence_edited_on_the_hub_stays(pipeline: str, hub: HubServer) -> None:
    """Unless the push itself names another; all other facts stay in either case."""
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    text = hub.files("me/my-sketch")["README.md"].decode().replace("license: cc-by-4.0", "license: cc0-1.0")
    hub.add("me/my-sketch", {"README.md": text.encode()})
    replace(DOMAIN, metadata={}).push_to_hub("me/my-sketch", token=hub.write_token)
    assert read_card(open_source("me/my-sketch")) == replace(CARD, license="cc0-1.0")
    assert b"license: cc0-1.0" in hub.files("me/my-sketch")["README.md"]


def test_push_to_a_new_branch(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    hub.add("me/my-sketch", {"README.md": hub.files("me/my-sketch")["README.md"] + b"\nMy own words.\n"})
    before = hub.repos["me/my-sketch"].branches["main"]
    replace(DOMAIN, metadata={}).push_to_hub("me/my-sketch", revision="next", token=hub.write_token)
    assert hub.repos["me/my-sketch"].branches["main"] == before
    assert b"My own words." in hub.files("me/my-sketch", "next")["README.md"]
    assert TokenSet.from_pretrained("me/my-sketch", revision="next").metadata == {}
    DOMAIN.push_to_hub("me/my-sketch", revision="next", token=hub.write_token)
    assert_same(TokenSet.from_pretrained("me/my-sketch", revision="next"), DOMAIN)
    DOMAIN.push_to_hub("me/fresh", revision="dev", card=CARD, token=hub.write_token)
    assert set(hub.files("me/fresh")) == {".gitattributes"}
    assert_same(TokenSet.from_pretrained("me/fresh", revision="dev"), DOMAIN)


def test_edits_on_the_hub_survive_the_next_push(pipeline: str, hub: HubServer) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    text = hub.files("me/my-sketch")["README.md"].decode()
    text = text.replace("license: cc-by-4.0", "license: cc0-1.0\nlanguage: en") + "\nMy own words.\n"
    hub.add("me/my-sketch", {"README.md": text.encode()})
    newer = replace(DOMAIN, metadata={"steps": 600})
    newer.push_to_hub("me/my-sketch", token=hub.write_token)  # facts and licence are those of the repo
    text = hub.files("me/my-sketch")["README.md"].decode()
    for fact in ("My own words.", "language: en", "Ten pictures.", "| Steps | 600 |"):
        assert fact in text
    assert "| Steps | 300 |" not in text


def test_local_readme_is_pushed_with_its_edits(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "sketch"
    hub.add("me/faces", {"README.md": b""})
    DOMAIN.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nHand-written.\n")
    push_folder(folder, "me/my-sketch", card=replace(CARD, license=None), token=hub.write_token)
    text = hub.files("me/my-sketch")["README.md"].decode()
    assert "license: mit" in text
    assert "Hand-written." in text
    assert "## Use" in text
    facts = {"license": "cc0-1.0", "base_model": "me/faces"}
    push_folder(folder, "me/my-sketch", facts=facts, token=hub.write_token)
    assert read_card(open_source("me/my-sketch")) == replace(CARD, license="cc0-1.0"), "facts of the repo stay"
    with pytest.raises(ModelNotFoundError, match="no folder"):
        push_folder(folder / "nowhere", "me/my-sketch", token=hub.write_token)


def test_edits_on_the_hub_survive_a_folder_with_a_card_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    """As ``convert`` writes it. What people write into that one goes first; nobody's licence is taken back."""
    folder = tmp_path / "faces"

    def push() -> str:
        push_folder(folder, "me/faces", token=hub.write_token)
        return hub.files("me/faces")["README.md"].decode()

    GENERATOR.save_pretrained(folder)
    write_card(folder, Card(license="mit", title="Faces"), "faces")
    theirs = push().replace("license: mit", "license: cc0-1.0\nlanguage: en") + "\nTheir words.\n"
    hub.add("me/faces", {"README.md": theirs.encode()})
    text = push()
    for kept in ("Their words.", "language: en", "license: cc0-1.0", "`cc0-1.0`"):
        assert kept in text
    write_card(folder, Card(license="cc-by-4.0", title="Faces"), "faces")
    assert "license: cc-by-4.0" in push(), "changed here since the last push"
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMy words.\n")
    text = push()
    assert "My words." in text
    assert "Their words." not in text


def test_licences_are_pushed(hub: HubServer, tmp_path: Path) -> None:
    GENERATOR.save_pretrained(tmp_path)
    licences = {"LICENSE", "NOTICE.txt", "COPYING", "terms.md"}
    for name in (*licences, "licences.txt", "LICENSE.py"):
        (tmp_path / name).write_text("terms")
    card = Card(license="other", license_name="mine", license_link="terms.md")
    with pytest.warns(UserWarning, match=r"Not pushed from .*: LICENSE\.py, licences\.txt\.\n"):
        push_folder(tmp_path, "me/faces", card=card, token=hub.write_token)
    assert licences == set(hub.files("me/faces")) - {
        ".gitattributes", "README.md", "card.json", "config.json", "model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("link", ["RULES.md", "rights/LICENSE", "../LICENSE"])
def test_a_licence_that_would_lead_nowhere_is_refused(hub: HubServer, tmp_path: Path, link: str) -> None:
    GENERATOR.save_pretrained(tmp_path / "model")
    card = Card(license="other", license_name="mine", license_link=link)
    with pytest.raises(CardError) as error:
        push_folder(tmp_path / "model", "me/faces", card=card, token=hub.write_token)
    assert_helps(error, repr(link), "LICENSE.md")
    assert not hub.seen("POST|PUT")


def test_a_readme_that_is_no_text(hub: HubServer, tmp_path: Path) -> None:
    GENERATOR.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(CardError, match="is not UTF-8 text"):
        push_folder(tmp_path, "me/faces", card=Card(license="mit"), token=hub.write_token)
    assert not hub.seen("POST|PUT")


def test_only_previews_and_samples_are_pushed(hub: HubServer, tmp_path: Path) -> None:
    """Never what a domain was made from, though it may lie in its folder, and whatever a card shows or links to."""
    part, root = "domains/sketch", tmp_path / "model"
    RefineStylePipeline(GENERATOR, domains={"sketch": DOMAIN}).save_pretrained(root)
    model = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    DOMAIN.save_pretrained(root / "other")
    yes = {"preview.png", "samples/1.png", "samples/all looks.png", f"{part}/preview.jpg", f"{part}/samples/a.png",
           "LICENSE", f"{part}/NOTICE"}  # fmt: skip
    no = {"1.png", "notes.md", "inversion.safetensors", "drawings/1.jpg", "drawings/README.md", "shown.png",
          f"{part}/1.png", f"{part}/faces/preview.png", "samples/1.jpg", "samples/deep/1.png",
          "samples/list.txt"}  # fmt: skip
    hidden = {".run/step0050.png", ".secret.json", "samples/.1.png", f"{part}/.run/preview.png"}
    for name in (*yes, *no, *hidden, "../outside.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    pictures = tuple(Picture(name, "Shown.") for name in ("preview.png", "shown.png", "../outside.png"))
    card = replace(CARD, base_model=None, pictures=pictures)
    (root / part / "card.json").write_bytes(dump_card(card))
    (root / "README.md").write_text(
        "---\nlicense: mit\nthumbnail: shown.png\n---\n![a](1.png) <img src='drawings/1.jpg'> ![](../outside.png)\n"
        "[notes](notes.md) ![](.run/step0050.png)\n"
    )
    left = sorted(["1.png", f"{part}/1.png", f"{part}/faces/", "drawings/", "inversion.safetensors", "notes.md",
                   "other/", "samples/1.jpg", "samples/deep/", "samples/list.txt", "shown.png"])  # fmt: skip
    with pytest.warns(UserWarning, match=rf"Not pushed from [^\n]*: {re.escape(', '.join(left))}\.\n"):
        push_folder(root, "me/mine", card=card, token=hub.write_token)
    written = {".gitattributes", "README.md", "card.json", f"{part}/card.json"}
    files = hub.files("me/mine")
    assert set(files) == model | yes | written
    assert b"![Shown.](preview.png)" in files["README.md"]
    assert b"![Shown.](shown.png)" not in files["README.md"], "a reader of the card would see a broken picture"


def test_words_on_the_hub_ask_for_no_local_file(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    """Others may write there: neither their text nor their card.json fetches a picture from here."""
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    theirs = replace(CARD, pictures=(Picture("2.png", "Mine."),))
    text = hub.files("me/my-sketch")["README.md"] + b"\n![](1.png)\n"
    hub.add("me/my-sketch", {"README.md": text, "card.json": dump_card(theirs)})
    folder = tmp_path / "mine"
    DOMAIN.save_pretrained(folder)
    for name in ("1.png", "2.png", "3.png"):
        (folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"Not pushed from .*: 1\.png, 2\.png, 3\.png\.\n"):
        push_folder(folder, "me/my-sketch", token=hub.write_token)
    assert b"![](1.png)" in hub.files("me/my-sketch")["README.md"]
    assert not {"1.png", "2.png", "3.png"} & set(hub.files("me/my-sketch"))


def test_push_of_a_pipeline(hub: HubServer, tmp_path: Path) -> None:
    GENERATOR.save_pretrained(tmp_path / "generator")
    save_index(tmp_path, PipelineIndex(("generator",)))
    (tmp_path / "notes.txt").write_text("not part of a model")
    (tmp_path / ".secret.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"Not pushed from .*: notes\.txt\.\n"):
        push_folder(tmp_path, "me/faces", card=Card(license="apache-2.0"), token=hub.write_token)
    assert set(hub.files("me/faces")) == {
        ".gitattributes", "README.md", "card.json", "model_index.json", "generator/config.json",
        "generator/model.safetensors",
    }  # fmt: skip
    assert_same(Generator.from_pretrained("me/faces"), GENERATOR)


def test_an_index_that_names_more_than_there_is(hub: HubServer, tmp_path: Path) -> None:
    GENERATOR.save_pretrained(tmp_path / "generator")
    save_index(tmp_path, PipelineIndex(("generator",), ("sketch",)))
    with pytest.raises(ModelNotFoundError, match=r"no folder .*sketch"):
        push_folder(tmp_path, "me/faces", card=Card(license="apache-2.0"), token=hub.write_token)
    assert not hub.seen("POST|PUT")


def test_push_without_the_right_to_write(pipeline: str, hub: HubServer) -> None:
    for token in (hub.read_token, False):
        with pytest.raises((HubAccessError, ModelNotFoundError)) as error:
            DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=token)
        assert_helps(error, "token")
    assert list(hub.repos) == ["me/faces"]


def test_push_that_breaks_off_commits_nothing(pipeline: str, hub: HubServer) -> None:
    unknown = replace(token_set(seed=3), base=DOMAIN.base)  # what the Hub has already is not sent again
    hub.fail("PUT /lfs", status=400)
    with pytest.raises(HubConnectionError):
        unknown.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert set(hub.files("me/my-sketch")) == {".gitattributes"}
    hub.failures.clear()
    unknown.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    assert_same(TokenSet.from_pretrained("me/my-sketch"), unknown)


def test_push_does_not_run_over_someone_else(pipeline: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repo moves after its card was read: nothing is overwritten."""
    from refinestyle_hub import cards

    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
    check = cards.check

    def meanwhile(text: str) -> None:
        hub.add("me/my-sketch", {"README.md": b"---\nlicense: mit\n---\nTheir edit."})
        check(text)

    monkeypatch.setattr(cards, "check", meanwhile)
    with pytest.raises(HubConnectionError, match="412"):
        replace(DOMAIN, metadata={}).push_to_hub("me/my-sketch", token=hub.write_token)
    assert b"Their edit." in hub.files("me/my-sketch")["README.md"]


def test_push_as_pull_request_and_to_private(pipeline: str, hub: HubServer) -> None:
    DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token, private=True)
    assert hub.repos["me/my-sketch"].private
    address = replace(DOMAIN, metadata={}).push_to_hub("me/my-sketch", token=hub.write_token, create_pr=True)
    assert address.endswith("/discussions/1")
    assert TokenSet.from_pretrained("me/my-sketch", revision="refs/pr/1", token=hub.read_token).metadata == {}
    assert b"| Steps | 300 |" in hub.files("me/my-sketch")["README.md"]


def test_push_while_offline(hub: HubServer) -> None:
    hub.fail(".*", status=503)
    with pytest.raises(HubConnectionError, match="Nothing can be pushed now"):
        DOMAIN.push_to_hub("me/my-sketch", card=CARD, token=hub.write_token)
