"""Models to the Hub: one commit of the files and a card that was checked before anything is sent."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

from .. import cards
from ..boundary.fields import check_options
from ..boundary.paths import AnyPath, user_path
from ..cards import README, Card
from ..errors import CardError, HubConnectionError, ModelNotFoundError
from ..storage.index import LICENCE_FILE, PICTURE_FILE, model_folders, shared_files
from ..storage.model_folder import Folder, is_repo_id
from .sources import LIBRARY, Repo, bundled_models, open_source, translated
from .terms import with_terms


if TYPE_CHECKING:
    from typing_extensions import Unpack


__all__ = ["PushOptions", "Pushable", "push_folder", "with_base_terms"]


class PushOptions(TypedDict, total=False):
    """How a commit is made: the keyword arguments that ``push_to_hub`` hands on to ``push_folder``."""

    private: bool | None  # whether a new repo is; one that exists stays what it is
    revision: str | None  # branch to commit to; made from the main one if there is none
    create_pr: bool  # open a pull request instead
    token: str | bool | None  # that may write: a token, by default the stored one
    message: str | None  # of the commit


class Pushable:
    """Mixin: ``push_to_hub`` for a class that has ``save_pretrained(folder, variant)``."""

    def push_to_hub(
        self, repo_id: str, *, card: Card | None = None, variant: str | None = None, **options: Unpack[PushOptions]
    ) -> str:
        """``save_pretrained`` and ``push_folder`` in one; returns the address of the commit.

        Raises what they raise.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            self.save_pretrained(folder, variant)  # type: ignore[attr-defined]
            return push_folder(folder, repo_id, card=card, **options)


def push_folder(
    folder: AnyPath,
    repo_id: str,
    *,
    card: Card | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Unpack[PushOptions],
) -> str:
    """Upload a saved part or pipeline as one commit; returns the commit's address.

    What goes along is a fixed list: weights, configs, cards, licences, ``preview.png`` and ``samples/*.png`` of the
    model and of its parts (``storage.index.shared_files``). A warning names what else is in the folder and stays.

    The model card is written first. What people wrote outside its marked sections is kept: in the folder's README.md
    or, if nobody wrote into that one, in the repo's. The licence of the base model is looked up and noted, and so are
    the terms of a generator that was fetched.

    Args:
        card: The facts of the card. None takes the folder's ``card.json``, or if there is none, the repo's, under the
            licence that README.md states now: the repo's, if the folder still says what was pushed last.
        facts: Fields of the card that override it, such as ``{"license": "mit"}``.
        options: private, revision, create_pr, token and message, see ``PushOptions``.

    Raises:
        CardError: There is no licence, no statement of the right to the pictures of a domain, or something that the
            Hub would refuse. Nothing was uploaded.
        ModelNotFoundError: There is no such folder or part of it, or the id is impossible.
        ModelFileError: The folder, or that of a part, holds no model.
        ConfigError: There is no such option.
        HubAccessError, HubConnectionError: There is no right to write, or no connection. Nothing was committed.
    """
    check_options(options, PushOptions.__annotations__)
    if not is_repo_id(repo_id):
        raise ModelNotFoundError(f"{repo_id!r} is not a Hub id, which is owner/name.", repo_id=repo_id)
    source, revision, token = Folder(user_path(folder)), options.get("revision"), options.get("token")
    kind, _ = cards.kind_of(source.root)
    cards.check_rights(source)
    files = _files(source)
    remote, readme = _present(repo_id, revision, token)
    local, online = cards.read_text(source.find(README)), cards.read_text(readme)
    old = local if cards.edited(local) else online or local
    if card is None:
        card = cards.read_card(remote if readme and not source.find(cards.FACTS) else source)
        unchanged = readme is not None and cards.read_card(remote).license == card.license
        card = cards.relicensed(card, online if unchanged else local or online)
    card, kept = with_terms(with_base_terms(replace(card, **facts or {}), token), source)
    text = cards.render(source.root, _shown(card), repo_id, old)
    cards.check(text)
    written = kept | {cards.FACTS: cards.dump_card(card), README: text.encode()}
    _warn_of_the_rest(source.root, {*files, *written})
    new_branch = revision is not None and remote.revision != revision
    message = options.get("message") or f"Upload {kind.word} with refinestyle-hub"
    return _commit(repo_id, {**files, **written}, message, new_branch, remote.commit, options)


def _files(source: Folder) -> dict[str, Path]:
    """The files of a model and of the parts that its index names: path in the repo -> local file."""
    files: dict[str, Path] = {}
    for folder in model_folders(source):
        cards.kind_of(source.root / folder)  # an index may name what is not there, and nobody could load that
        files |= {name: path for name in shared_files(source, folder) if (path := source.find(name))}
    return files


def _shown(card: Card) -> Card:
    """``card`` with the pictures that go along. Raises CardError if it names a licence that does not."""
    link = card.license_link
    if link and "://" not in link and not LICENCE_FILE.fullmatch(link):
        raise CardError(
            f"license_link {link!r} is neither an address nor a file that is pushed.\n"
            "Name the text LICENSE or LICENSE.md, in the folder of the model."
        )
    return replace(card, pictures=tuple(one for one in card.pictures if PICTURE_FILE.fullmatch(one.file)))


def _warn_of_the_rest(root: Path, pushed: Collection[str]) -> None:
    """Name what is in the folder and not pushed, but for hidden files; a folder that stays whole by its name."""
    going = {folder for name in pushed for folder in PurePosixPath(name).parents}
    rest = set()
    for path in root.rglob("*"):
        name = PurePosixPath(path.relative_to(root).as_posix())
        if path.is_file() and str(name) not in pushed and not any(part.startswith(".") for part in name.parts):
            outermost = next((folder for folder in [*name.parents][::-1] if folder not in going), None)
            rest.add(str(name) if outermost is None else f"{outermost}/")
    if rest:
        warnings.warn(
            f"Not pushed from {root}: {', '.join(sorted(rest))}.\nWhat goes along are models that model_index.json "
            "names, cards, licences, preview.png and samples/*.png.",
            stacklevel=3,
        )


def _present(repo_id: str, revision: str | None, token: str | bool | None) -> tuple[Repo, Path | None]:
    """The repo at the branch, else at the main one, where a new branch begins; and its README.md, if it has one."""
    repo = Repo(repo_id)
    for name in dict.fromkeys([revision, None]):
        repo = Repo(repo_id, revision=name, token=token)
        try:
            online = repo.find(README)
        except ModelNotFoundError:  # no such branch yet, or no such repo: the first push makes it
            continue
        if repo.unreachable:
            raise HubConnectionError(f"Nothing can be pushed now. {repo.missing(README)}", repo_id=repo_id)
        return repo, online
    return repo, None


def with_base_terms(card: Card, token: str | bool | None = None) -> Card:
    """``card`` with the licence that its base model states now; what it noted before stays where the base states none.

    Warns where the base cannot be found.

    Raises:
        CardError: The base is neither a Hub id nor a bundled model, so that nobody else could load it.
        HubAccessError, HubConnectionError: The base cannot be asked.
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
    new_branch: bool,
    parent: str | None,
    options: PushOptions,
) -> str:
    """Upload files (path in the repo -> local file or content) as one commit; returns its address.

    ``parent`` must still be the newest commit of the branch; else nothing is changed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    revision, create_pr, token = options.get("revision"), options.get("create_pr", False), options.get("token")
    api = HfApi(token=token, library_name=LIBRARY)
    with translated(repo_id, revision or "main", token):
        api.create_repo(repo_id, private=options.get("private"), exist_ok=True)
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
