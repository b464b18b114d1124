"""Domains on the Hub: found by their generator, described, kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from remote_model import (
    CARD,
    DOMAIN,
    GENERATOR,
    assert_same,
    saved,
)
from safetensors.torch import save_file
from tiny import tiny_generator

from refinestyle_hub.cards.facts import Picture
from refinestyle_hub.errors import CardError, ConfigError, HubAccessError, ModelFileError, ModelNotFoundError
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.hub.push import push_folder
from refinestyle_hub.hub.search import domain_info, download, find_domains
from refinestyle_hub.tokens.token_set import TokenSet


# huggingface_hub's own upload does what its HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_domains_of_a_base_are_found(pipeline: str, hub: HubServer) -> None:
    other = tiny_generator(seed=5)
    DOMAIN.push_to_hub("me/sketch", card=CARD, token=hub.write_token)
    DOMAIN.push_to_hub("me/bronze", card=replace(CARD, license="mit"), token=hub.write_token)
    replace(DOMAIN, base=other.fingerprint()).push_to_hub("me/elsewhere", card=CARD, token=hub.write_token)
    hub.repos["me/bronze"].downloads = 7
    found = find_domains(GENERATOR.fingerprint())
    assert [(d.repo_id, d.license, d.downloads) for d in found] == [
        ("me/bronze", "mit", 7),
        ("me/sketch", "cc-by-4.0", 0),
    ]
    assert found[0].updated == "2026-11-20"
    assert [d.repo_id for d in find_domains(other.fingerprint())] == ["me/elsewhere"]
    tuned = StyleGAN2Generator.from_state(
        replace(other.config, parents=(GENERATOR.fingerprint().digest,)), other.state_dict()
    )
    assert [d.repo_id for d in find_domains(tuned.fingerprint())] == ["me/elsewhere", "me/bronze", "me/sketch"]
    assert [d.repo_id for d in find_domains(GENERATOR.fingerprint(), limit=1)] == ["me/bronze"]


def test_domain_info_downloads_no_tokens(pipeline: str, hub: HubServer) -> None:
    DOMAIN.push_to_hub("me/sketch", card=replace(CARD, title="Sketch", summary="Pencil."), token=hub.write_token)
    hub.requests.clear()
    info = domain_info("me/sketch", base=GENERATOR.fingerprint())
    assert (info.base, info.fits, info.tokens) == (GENERATOR.fingerprint(), True, 3)
    assert (info.license, info.title, info.summary) == ("cc-by-4.0", "Sketch", "Pencil.")
    assert set(info.layers) == set(DOMAIN.layers)
    assert not hub.seen("tokens.safetensors")
    assert domain_info("me/sketch", base=tiny_generator(seed=5).fingerprint()).fits is False
    assert domain_info("me/faces", subfolder="domains/sketch").fits is None


def test_a_domain_inside_a_model(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    """It is under the model's licence, unless it states one of its own; without subfolder= those there are named."""
    hub.add("me/faces", {"README.md": b"---\nlicense: mit\n---\n"})
    assert domain_info("me/faces", subfolder="domains/sketch").license == "mit"
    hub.add("me/faces", {"domains/sketch/card.json": b'{"license": "cc0-1.0"}'})
    assert domain_info("me/faces", subfolder="domains/sketch").license == "cc0-1.0"
    for ask in (domain_info, lambda name: download(TokenSet, name, tmp_path / "copy")):
        with pytest.raises(ModelNotFoundError, match=r"It is a pipeline.*subfolder: .*domains/sketch"):
            ask("me/faces")
    assert_same(download(TokenSet, "me/faces", tmp_path / "copy", subfolder="domains/sketch"), DOMAIN)


def test_download(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    DOMAIN.push_to_hub("me/sketch", card=CARD, token=hub.write_token)
    assert_same(download(TokenSet, "me/sketch", tmp_path / "sketch"), DOMAIN)
    names = {p.name for p in (tmp_path / "sketch").iterdir()}
    assert names == {"README.md", "card.json", "config.json", "tokens.safetensors"}
    hub.fail(".*")
    assert_same(TokenSet.from_pretrained(tmp_path / "sketch"), DOMAIN)


def test_a_file_becomes_a_folder(tmp_path: Path) -> None:
    """As the app saves a domain, so that it can be pushed."""
    DOMAIN.save_pretrained(tmp_path / "sketch")
    file = (tmp_path / "sketch" / "tokens.safetensors").rename(tmp_path / "ink.safetensors")
    assert_same(download(TokenSet, str(file), tmp_path / "ink"), DOMAIN)
    assert_same(TokenSet.from_pretrained(tmp_path / "ink"), DOMAIN)
    with pytest.raises(ConfigError, match="is one file"):
        download(TokenSet, file, tmp_path / "no", subfolder="domains/sketch")
    assert not (tmp_path / "no").exists()


def test_domain_info_reads_a_file(tmp_path: Path) -> None:
    """As the app saves a domain; of another file it says what is wrong with that."""
    DOMAIN.save_pretrained(tmp_path / "sketch")
    file = (tmp_path / "sketch" / "tokens.safetensors").rename(tmp_path / "ink.safetensors")
    info = domain_info(str(file), base=GENERATOR.fingerprint())
    assert (info.source, info.fits, info.tokens, info.license) == (str(file), True, 3, None)
    assert set(info.layers) == set(DOMAIN.layers)
    with pytest.raises(ConfigError, match="is one file"):
        domain_info(file, subfolder="domains/sketch")
    GENERATOR.save_pretrained(tmp_path / "generator")
    with pytest.raises(ModelFileError, match="is of class 'StyleGAN2Generator', not 'TokenSet'"):
        domain_info(tmp_path / "generator" / "model.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ModelFileError, match=r"carries no config of its own: name the folder"):
        domain_info(tmp_path / "bare.safetensors")
    (tmp_path / "notes.txt").write_text("ink")
    with pytest.raises(ModelFileError, match="is not a safetensors file"):
        domain_info(tmp_path / "notes.txt")


def test_a_copy_has_the_previews_and_the_licence(pipeline: str, hub: HubServer, tmp_path: Path) -> None:
    """And nothing else, whatever the card names."""
    folder = tmp_path / "sketch"
    DOMAIN.save_pretrained(folder)
    (folder / "preview.png").write_bytes(b"a picture")
    (folder / "LICENSE").write_text("terms")
    (folder / "samples").mkdir()
    (folder / "samples" / "1.png").write_bytes(b"another")
    terms = {"license": "other", "license_name": "mine", "license_link": "LICENSE"}
    pictures = (Picture("preview.png", "Heads."), Picture("extra.png", "No preview."), Picture("lost.png", "Lost."))
    push_folder(folder, "me/sketch", card=replace(CARD, pictures=pictures, **terms), token=hub.write_token)
    hub.add("me/sketch", {"extra.png": b"on the card, but not a preview", "samples/run.py": b"", "setup.py": b""})
    download(TokenSet, "me/sketch", tmp_path / "copy")
    copy = tmp_path / "copy"
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {
        "LICENSE", "README.md", "card.json", "config.json", "preview.png", "samples/1.png", "tokens.safetensors",
    }  # fmt: skip


def test_a_private_domain_is_asked_for_with_the_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/sketch", saved(DOMAIN.save_pretrained, tmp_path / "sketch"), private=True)
    with pytest.raises((HubAccessError, ModelNotFoundError), match="me/sketch") as caught:
        domain_info("me/sketch", token=False)
    assert caught.value.repo_id == "me/sketch"
    assert domain_info("me/sketch", base=GENERATOR.fingerprint(), token=hub.read_token).fits is True
    assert_same(download(TokenSet, "me/sketch", tmp_path / "copy", token=hub.read_token), DOMAIN)


@pytest.mark.parametrize("readme", [b"\xff\xfe", b"---\nlicense: [\n---\n"])
def test_a_card_that_cannot_be_read(tmp_path: Path, readme: bytes) -> None:
    DOMAIN.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes(readme)
    with pytest.raises(CardError, match=r"is not UTF-8 text|cannot be read"):
        domain_info(tmp_path)


def test_a_licence_is_a_word(tmp_path: Path) -> None:
    """Not a value of YAML that names itself a million times over."""
    DOMAIN.save_pretrained(tmp_path)
    nested = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))
    (tmp_path / "README.md").write_text(f"---\n{nested}license: *a11\n---\n")
    assert domain_info(tmp_path).license is None


def test_broken_domain_is_not_kept(hub: HubServer, tmp_path: Path) -> None:
    files = saved(DOMAIN.save_pretrained, tmp_path / "domain")
    files["tokens.safetensors"] = files["tokens.safetensors"][:-8]
    hub.add("me/broken", files)
    with pytest.raises(ModelFileError):
        download(TokenSet, "me/broken", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
