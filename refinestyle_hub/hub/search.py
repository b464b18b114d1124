"""Domains on the Hub: find those made for a generator, look at one, keep a copy."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..boundary.fields import check_options
from ..boundary.paths import AnyPath, is_address, user_path
from ..cards.facts import Card, read_card
from ..cards.licences import stated_licence
from ..cards.metadata import base_tag
from ..config import Fingerprint, TokenSetConfig
from ..errors import ConfigError, ModelFileError
from ..storage.atomic import write_folder
from ..storage.fingerprint import is_related
from ..storage.index import CONFIG, WEIGHTS_FILE, join, shared_files
from ..storage.schema import config_from_json, read_json
from ..storage.tensors import read_header
from .pretrained import Pretrained, locate_config
from .sources import HubOptions, find_repos, open_source


if TYPE_CHECKING:
    from typing_extensions import Unpack


__all__ = ["DomainInfo", "FoundDomain", "domain_info", "download", "find_domains", "is_own"]

P = TypeVar("P", bound=Pretrained)

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


def find_domains(base: Fingerprint, *, limit: int = 50, token: str | bool | None = None) -> list[FoundDomain]:
    """Domains on the Hub that were made for a generator or for one it was fine-tuned from, most downloaded first.

    Raises:
        HubConnectionError: The Hub cannot be reached.
    """
    found: dict[str, FoundDomain] = {}
    for digest in (base.digest, *base.parents):
        for repo in find_repos([TAG, base_tag(digest)], limit, token):
            licence = next((t.removeprefix("license:") for t in repo.tags or [] if t.startswith("license:")), None)
            updated = repo.last_modified.date().isoformat() if repo.last_modified else None
            hit = FoundDomain(repo.id, licence, repo.downloads or 0, repo.likes or 0, updated)
            found.setdefault(repo.id, hit)
    return list(found.values())[:limit]


def domain_info(
    name_or_path: AnyPath,
    *,
    subfolder: str = "",
    base: Fingerprint | None = None,
    **options: Unpack[HubOptions],
) -> DomainInfo:
    """What a domain says of itself, without its tokens.

    Args:
        name_or_path: As for ``from_pretrained``: a folder, a Hub id, or one ``.safetensors`` file, which has no card.
        subfolder: Its place in a pipeline, such as "domains/sketch".
        base: A generator, to say also whether the domain fits it.

    Raises:
        ModelNotFoundError, ModelFileError, ConfigError, HubConnectionError: See ``from_pretrained``.
    """
    check_options(options, HubOptions.__annotations__)
    if _is_file(name_or_path):
        source, path, card, licence = None, user_path(name_or_path), Card(), None
        if subfolder or options.get("revision"):
            raise ConfigError(f"{path} is one file: a subfolder and a revision are for folders and repos.")
        data = read_header(path).config
        if data is None:
            raise ModelFileError(f"{path} carries no config of its own: name the folder that has its {CONFIG}.")
    else:
        source = open_source(name_or_path, **options)
        _, path = locate_config(source, "", subfolder or None)
        data, card, licence = read_json(path), read_card(source, subfolder), stated_licence(source, subfolder)
    config = config_from_json("TokenSet", TokenSetConfig, data, path)
    return DomainInfo(
        source=str(source or path),
        base=config.base,
        fits=None if base is None or config.base is None else is_related(config.base, base),
        tokens=max((layer.tokens for layer in config.layers.values()), default=0),
        layers=tuple(sorted(config.layers)),
        license=licence,
        title=card.title,
        summary=card.summary,
    )


def download(
    kind: type[P],
    name_or_path: AnyPath,
    folder: AnyPath,
    *,
    subfolder: str = "",
    **options: Unpack[HubOptions],
) -> P:
    """Copy a part, such as a ``TokenSet``, into a folder of its own with its card, licence and previews; return it.

    It is loaded first, so only a whole and valid one is kept. One ``.safetensors`` file, as the app saves it, becomes
    such a folder, without a card.

    Raises:
        ModelNotFoundError, ModelFileError, ConfigError, HubConnectionError: See ``from_pretrained``.
    """
    if _is_file(name_or_path):
        part = kind.from_pretrained(name_or_path, subfolder=subfolder or None, **options)
        part.save_pretrained(folder)
        return part
    source = open_source(name_or_path, **options)
    part = kind.from_source(source, subfolder=subfolder or None)
    prefix = join(subfolder, "")
    found = {name.removeprefix(prefix): source.find(name) for name in shared_files(source, subfolder)}
    saved = {name for name in found if name == CONFIG or WEIGHTS_FILE.fullmatch(name)}
    beside = {name: path.read_bytes() for name, path in found.items() if path and name not in saved}
    part.save_pretrained(folder)
    write_folder(folder, beside)
    return part


def _is_file(name_or_path: AnyPath) -> bool:
    return not is_address(name_or_path) and user_path(name_or_path).is_file()


def is_own(name: str, own: Collection[str]) -> bool:
    """Whether a name means one of a model's ``own`` domains, not a folder, file or Hub id.

    What is written as a path (./sketch) is one. Warns where a plain name could mean both.
    """
    if name in own and (user_path(name) / CONFIG).exists():
        warnings.warn(
            f"{name!r} is the model's own domain here; the one in the folder of that name is ./{name}.", stacklevel=2
        )
    return name in own
