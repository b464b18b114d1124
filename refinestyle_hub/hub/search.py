"""Domains on the Hub: find those made for a generator, look at one, keep a copy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..cards.facts import FACTS, PICTURES, README, read_card
from ..cards.licences import stated_licence
from ..cards.metadata import base_tag
from ..config import Fingerprint, TokenSetConfig
from ..generators.stylegan2 import Generator
from ..storage.atomic import write_folder
from ..storage.fingerprint import fingerprint, is_related
from ..storage.index import CONFIG
from ..storage.schema import config_from_json, read_json
from ..tokens.token_set import TokenSet
from .pretrained import locate_config
from .push import LICENCE_FILE
from .sources import find_repos, open_source


__all__ = ["DomainInfo", "FoundDomain", "domain_info", "download_domain", "find_domains", "is_own"]

TAG = "refinestyle-domain"


@dataclass(frozen=True)
class FoundDomain:
    """A hit of ``find_domains``: what the Hub knows without a download."""

    repo_id: str
    license: str | None
    downloads: int
    likes: int
    updated: str | None  # ISO date


@dataclass(frozen=True)
class DomainInfo:
    """What a domain says of itself."""

    source: str  # where it was found, with the commit
    base: Fingerprint | None
    fits: bool | None  # the generator asked about; None: not asked, or the domain does not name its base
    tokens: int  # largest T of a layer
    layers: tuple[str, ...]
    license: str | None
    title: str
    summary: str


def find_domains(
    base: Generator | str | os.PathLike[str], *, limit: int = 50, token: str | bool | None = None
) -> list[FoundDomain]:
    """Domains on the Hub that were made for a generator or for one it was fine-tuned from, most downloaded first.

    Args:
        base: a generator, or what ``Generator.from_pretrained`` takes.

    Raises:
        HubConnectionError: the Hub cannot be reached.
    """
    identity = fingerprint(_generator(base, token))
    found: dict[str, FoundDomain] = {}
    for digest in (identity.digest, *identity.parents):
        for repo in find_repos([TAG, base_tag(digest)], limit, token):
            licence = next((t.removeprefix("license:") for t in repo.tags or [] if t.startswith("license:")), None)
            updated = repo.last_modified.date().isoformat() if repo.last_modified else None
            hit = FoundDomain(repo.id, licence, repo.downloads or 0, repo.likes or 0, updated)
            found.setdefault(repo.id, hit)
    return list(found.values())[:limit]


def domain_info(
    name_or_path: str | os.PathLike[str],
    *,
    subfolder: str = "",
    base: Generator | str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DomainInfo:
    """What a domain says of itself, without its tokens.

    Args:
        subfolder: of a pipeline, such as "domains/sketch".
        base: also tell whether it fits this generator.

    Raises:
        ModelNotFoundError, ModelFileError, ConfigError, HubConnectionError: see ``TokenSet.from_pretrained``.
    """
    source = open_source(name_or_path, revision=revision, token=token)
    _, path = locate_config(source, TokenSet.part, subfolder or None)
    config = config_from_json("TokenSet", TokenSetConfig, read_json(path), path)
    card = read_card(source, subfolder)
    return DomainInfo(
        source=str(source),
        base=config.base,
        fits=_fits(config.base, base, token),
        tokens=max((layer.tokens for layer in config.layers.values()), default=0),
        layers=tuple(sorted(config.layers)),
        license=stated_licence(source, subfolder),
        title=card.title,
        summary=card.summary,
    )


def download_domain(
    name_or_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    subfolder: str = "",
    revision: str | None = None,
    token: str | bool | None = None,
) -> TokenSet:
    """Copy a domain and its card, with the card's pictures and licence, into a folder of its own, and return it.

    It is loaded first, so only a whole and valid one is kept.

    Raises:
        ModelNotFoundError, ModelFileError, ConfigError, HubConnectionError: see ``TokenSet.from_pretrained``.
    """
    source = open_source(name_or_path, revision=revision, token=token)
    tokens = TokenSet.from_source(source, subfolder=subfolder or None)
    card = read_card(source, subfolder)
    names = {FACTS, README, *(p.file for p in card.pictures if PurePosixPath(p.file).suffix in PICTURES)}
    if LICENCE_FILE.fullmatch(card.license_link or ""):
        names.add(card.license_link or "")
    beside = {name: source.find(str(PurePosixPath(subfolder, name))) for name in sorted(names)}
    tokens.save_pretrained(folder)
    write_folder(Path(folder), {name: path.read_bytes() for name, path in beside.items() if path})
    return tokens


def is_own(name: str, own: Collection[str]) -> bool:
    """Whether a name means one of a model's ``own`` domains, not a folder, file or Hub id.

    What is written as a path (./sketch) is one. Warns where a plain name could mean both.
    """
    if name in own and (Path(name) / CONFIG).exists():
        warnings.warn(
            f"{name!r} is the model's own domain here; the one in the folder of that name is ./{name}.", stacklevel=2
        )
    return name in own


def _generator(base: Generator | str | os.PathLike[str], token: str | bool | None) -> Generator:
    return base if isinstance(base, Generator) else Generator.from_pretrained(base, token=token)


def _fits(
    made_for: Fingerprint | None, base: Generator | str | os.PathLike[str] | None, token: str | bool | None
) -> bool | None:
    if made_for is None or base is None:
        return None
    return is_related(made_for, fingerprint(_generator(base, token)))
