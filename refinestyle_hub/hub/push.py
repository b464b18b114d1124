"""Models to the Hub: one commit of the files and a card that was checked before anything is sent."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from .. import cards
from ..cards import README, Card
from ..errors import CardError, HubConnectionError, ModelNotFoundError
from ..storage.index import CONFIG, MODEL_FILE, model_folders
from ..storage.model_folder import INDEX, Folder, is_repo_id
from .sources import LIBRARY, Repo, bundled_models, open_source, translated


__all__ = ["LICENCE_FILE", "Pushable", "push_folder", "with_base_terms"]

REFERENCE = re.compile(  # to a file, in a README.md: Markdown, HTML, and the fields of its head
    r"""(?mx) \]\( \s* (?: <([^>\n]+)> | ((?:[^()<>\s] | \([^()\s]*\))+) )
    | ^[ ]{0,3} \[[^\]\n]+\]: \s* (?: <([^>\n]+)> | (\S+) )
    | \b (?:src|href) \s*=\s* (?: "([^"]+)" | '([^']+)' | ([^\s"'>]+) )
    | ^[ -]* (?:thumbnail|url|license_link): [ ]* (?: "([^"\n]+)" | '([^'\n]+)' | (\S.*?) ) [ ]* (?: [ ]\#.* )? $"""
)
SHOWN = (".jpeg", ".jpg", ".png", ".webp", ".md", ".txt", ".pdf")  # endings of what a card may name beside them
LICENCE_FILE = re.compile(r"(?i)(licen[cs]e|notice|copying|copyright|terms)(\.txt|\.md)?")


class Pushable:
    """Mixin: ``push_to_hub`` for a class that has ``save_pretrained(folder, variant)``."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: Card | None = None,
        variant: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        message: str | None = None,
    ) -> str:
        """``save_pretrained`` and ``push_folder`` in one; returns the address of the commit.

        Raises what they raise.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            self.save_pretrained(folder, variant)  # type: ignore[attr-defined]
            return push_folder(
                folder,
                repo_id,
                card=card,
                private=private,
                revision=revision,
                create_pr=create_pr,
                token=token,
                message=message,
            )


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    card: Card | None = None,
    facts: Mapping[str, Any] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    message: str | None = None,
) -> str:
    """Upload a saved part or pipeline as one commit; returns the commit's address.

    What goes are the model's files, cards and licences, and the pictures and texts that a card names, one in the
    folder or ``card``; nothing else in the folder, such as the pictures that a domain was made from.

    The model card is written first. What people wrote outside its marked sections is kept: in the folder's README.md
    or, if nobody wrote into that one, in the repo's. The licence of the base model is looked up and noted.

    Args:
        card: what the card says; by default the folder's ``card.json``, or if there is none, the repo's, under the
            licence that README.md states now: the repo's, if the folder still says what was pushed last.
        facts: fields of the card that go before that, such as ``{"license": "mit"}``.
        private: whether a new repo is; one that exists stays what it is.
        revision: branch to commit to; made from the main one if there is none.

    Raises:
        CardError: no licence, no statement of the right to the pictures of a domain, or something that the Hub would
            refuse. Nothing was uploaded.
        ModelNotFoundError: no such folder or part of it, or no possible id.
        ModelFileError: the folder, or that of a part, holds no model.
        HubAccessError, HubConnectionError: no right to write, no connection. Nothing was committed.
    """

    if not is_repo_id(repo_id):
        raise ModelNotFoundError(f"{repo_id!r} is not a Hub id: that is owner/name.")
    source = Folder(Path(folder))
    _note_unnamed(source)
    kind, _ = cards.kind_of(source.root)
    cards.check_rights(source)
    files: dict[str, Path | bytes] = dict(_pushed(source))
    given = replace(card or Card(), **facts or {})  # not what the repo's card names: others write that one
    files |= _beside(source, _named("", given, ""))
    remote, readme = _present(repo_id, revision, token)
    local, online = cards.read_text(source.find(README)), cards.read_text(readme)
    old = local if cards.edited(local) else online or local
    if card is None:
        card = cards.read_card(remote if readme and not source.find(cards.FACTS) else source)
        unchanged = readme is not None and cards.read_card(remote).license == card.license
        card = cards.relicensed(card, online if unchanged else local or online)
    card = with_base_terms(replace(card, **facts or {}), token)
    text = cards.render(source.root, card, repo_id, old)
    cards.check(text)
    files |= {cards.FACTS: cards.dump_card(card), README: text.encode()}
    return _commit(
        repo_id,
        files,
        message or f"Upload {kind.word} with refinestyle-hub",
        revision=revision,
        new_branch=revision is not None and remote.revision != revision,
        parent=remote.commit,
        create_pr=create_pr,
        private=private,
        token=token,
    )


def _pushed(source: Folder) -> Iterator[tuple[str, Path]]:
    """The files of a model: its own, those of the parts that its index names, and what the cards of these name."""

    for folder in model_folders(source):
        cards.kind_of(source.root / folder)  # an index may name what is not there, and nobody could load that
        for file in source.names(folder):
            name = PurePosixPath(folder, file).as_posix()
            if (MODEL_FILE.fullmatch(file) or LICENCE_FILE.fullmatch(file)) and (found := source.find(name)):
                yield name, found
        told = cards.read_text(source.find(PurePosixPath(folder, README).as_posix()))
        yield from _beside(source, _named(folder, cards.read_card(source, folder), told)).items()


def _note_unnamed(source: Folder) -> None:
    """Warn of models below the folder that it does not name, and that therefore do not go along."""

    found = {path.parent.relative_to(source.root) for path in source.root.rglob(CONFIG)}
    visible = {path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)}
    if unnamed := sorted(visible - {".", *model_folders(source)}):
        warnings.warn(f"Not pushed, since no {INDEX} in {source} names them: {', '.join(unnamed)}", stacklevel=3)


def _named(folder: str, card: Card, text: str) -> set[str]:
    """Paths in the repo that a card in ``folder`` shows or links to; addresses among them are no paths of files."""
    linked = (unquote(re.split("[?#]", "".join(found))[0]) for found in REFERENCE.findall(text))
    names = (*(picture.file for picture in card.pictures), card.license_link or "", *linked)
    return {PurePosixPath(folder, name).as_posix() for name in names if name}


def _beside(source: Folder, names: Iterable[str]) -> dict[str, Path]:
    """Of ``names`` the pictures and texts of the folder that may go along; nothing hidden, nothing from outside."""
    fit = []
    for name in names:
        path = PurePosixPath(name)
        inside = not path.is_absolute() and not set(name) & set("\\:\0")
        known = path.suffix.lower() in SHOWN or LICENCE_FILE.fullmatch(path.name)
        if inside and known and not any(part.startswith(".") for part in path.parts):
            fit.append(name)
    return {name: found for name in fit if (found := source.find(name))}


def _present(repo_id: str, revision: str | None, token: str | bool | None) -> tuple[Repo, Path | None]:
    """The repo at the branch, else at the main one, where a new branch begins; and its README.md, if it has one."""

    repo = Repo(repo_id)
    for name in dict.fromkeys([revision, None]):
        repo = Repo(repo_id, name, token)
        try:
            online = repo.find(README)
        except ModelNotFoundError:  # no such branch yet, or no such repo: the first push makes it
            continue
        if repo.unreachable:
            raise HubConnectionError(f"Nothing can be pushed now. {repo.missing(README)}")
        return repo, online
    return repo, None


def with_base_terms(card: Card, token: str | bool | None = None) -> Card:
    """``card`` with the licence that its base model states now; what it noted before stays where the base states none.

    Warns where the base cannot be found.

    Raises:
        CardError: the base is neither a Hub id nor a bundled model, so that nobody else could load it.
        HubAccessError, HubConnectionError: the base cannot be asked.
    """
    base = card.base_model
    if base is None:
        return card
    bundled = base in bundled_models()
    if not bundled and not is_repo_id(base):
        raise CardError(
            f"base_model {base!r} is neither a Hub id nor a bundled model, so others could not load it.\n"
            "Push the generator first, then name its id (owner/name)."
        )
    source = open_source(base) if bundled else Repo(base, token=token)
    try:
        return replace(card, base_license=cards.stated_licence(source, "generator") or card.base_license)
    except ModelNotFoundError as error:
        warnings.warn(f"The card does not name the licence of its base model. {error}", stacklevel=3)
        return card


def _commit(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    message: str,
    *,
    revision: str | None,
    new_branch: bool,
    parent: str | None,
    create_pr: bool,
    private: bool | None,
    token: str | bool | None,
) -> str:
    """Upload files (path in the repo -> local file or content) as one commit; returns its address.

    ``parent`` must still be the newest commit of the branch; else nothing is changed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name=LIBRARY)
    with translated(repo_id, revision or "main", token):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and new_branch:
            api.create_branch(repo_id, branch=revision, revision=parent, exist_ok=True)
        info = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in sorted(files.items())],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=None if create_pr else parent,
        )
    return str(info.pr_url or info.commit_url)
