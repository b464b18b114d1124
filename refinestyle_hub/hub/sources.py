"""Where models are: bundled with the package, in a local folder, or on the Hub.

Models come from the network here (published weights that are not on the Hub: ``torch_cache``), and ``push`` sends
them there. Everything on the Hub is huggingface_hub's business: its cache, its resumed downloads, its login, its
offline switch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypedDict

from ..boundary.fields import check_options
from ..boundary.paths import AnyPath, is_address, is_clearly_path, user_path
from ..errors import (
    ConfigError,
    HubAccessError,
    HubConnectionError,
    ModelFileError,
    ModelNotFoundError,
    RefineStyleHubError,
    printable,
)
from ..storage.model_folder import INDEX, Folder, Source, checked_name, is_repo_id, pickle_hint
from .fetched import FetchedModel, read_recipe


if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo
    from typing_extensions import Unpack


__all__ = ["LIBRARY", "HubOptions", "Repo", "bundled_models", "find_repos", "open_source", "translated"]

BUNDLED = Path(__file__).parent.parent / "pretrained"
LIBRARY = "refinestyle-hub"  # names this package in the Hub's download statistics
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubOptions(TypedDict, total=False):
    """How a repo on the Hub is read: the keyword arguments that every loading function hands on to ``open_source``."""

    revision: str | None  # branch, tag or commit; by default the main branch
    token: str | bool | None  # of a private repo: a token, True for the stored one, False for none
    cache_dir: AnyPath | None  # in place of huggingface_hub's own, also for what is fetched
    local_files_only: bool  # never open a connection
    force_download: bool  # fetch each file again, also one that is in the cache


class Repo:
    """A model repo on the Hub. The first file decides the commit, and all others come from the same one."""

    def __init__(self, repo_id: str, **options: Unpack[HubOptions]) -> None:
        self.repo_id = repo_id
        self.revision = options.get("revision") or "main"
        self.token = options.get("token")
        cache_dir = options.get("cache_dir")
        self.cache_dir = None if cache_dir is None else user_path(cache_dir)
        self.local_files_only = options.get("local_files_only", False)
        self.stale = options.get("force_download", False)  # what is in the cache is fetched again, once
        self.fetched: set[str] = set()  # names of files that were
        self.snapshot: Folder | None = None  # the cached files of the commit, once one was found
        self.unreachable: BaseException | None = None  # why files are now looked for in the cache alone

    def __str__(self) -> str:
        return f"{self.repo_id} (revision {self.commit or self.revision})"

    @property
    def commit(self) -> str | None:
        """The commit that files come from, 40 hexadecimal digits; None before the first file."""
        return self.snapshot.root.name if self.snapshot else None

    def find(self, name: str) -> Path | None:
        """The file ``name`` in the local cache, downloaded if need be; None if there is none, or none to be had now.

        Raises:
            ModelNotFoundError: There is no such repo or revision.
            HubAccessError: The token does not open the repo, or there is none.
            HubConnectionError: The download broke off.
            ModelFileError: The server answered with another commit than the one asked for.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        path = checked_name(name)
        revision = self.commit or self.revision
        with translated(self.repo_id, self.revision, self.token):
            try:
                file = hf_hub_download(
                    self.repo_id,
                    str(path),
                    revision=revision,
                    library_name=LIBRARY,
                    token=self.token,
                    cache_dir=self.cache_dir,
                    # asked once is enough: every try waits for its time-out
                    local_files_only=self.local_files_only or self.unreachable is not None,
                    force_download=self.stale and name not in self.fetched,
                )
                self.fetched.add(name)
            except LocalEntryNotFoundError as error:
                if isinstance(error.__cause__, HfHubHTTPError) and error.__cause__.response.status_code == 403:
                    raise error.__cause__ from None  # the Hub can be reached: it refuses
                self.unreachable = self.unreachable or error.__cause__ or error
                return None
            except EntryNotFoundError:
                return None
        snapshot = Folder(Path(file).parents[len(path.parts) - 1])
        if COMMIT.fullmatch(revision) and snapshot.root.name != revision:
            raise ModelFileError(f"{self.repo_id}: asked for commit {revision}, got {snapshot.root.name}.")
        self.snapshot = snapshot
        return snapshot.find(name)

    def _cached(self, name: str) -> object:
        """Path of a cached file as a string, ``_CACHED_NO_EXIST`` if there is none in the repo, None if not known."""
        from huggingface_hub import try_to_load_from_cache

        revision = self.commit or self.revision
        return try_to_load_from_cache(self.repo_id, name, self.cache_dir, revision)

    def is_absent(self, name: str) -> bool:
        """Whether a file that was not found is known not to exist, rather than out of reach."""
        from huggingface_hub import _CACHED_NO_EXIST

        return self.unreachable is None or self._cached(name) is _CACHED_NO_EXIST

    def find_first(self, names: Sequence[str]) -> tuple[str, Path] | None:
        """The first of ``names`` that is there, and its file.

        Cached ones are asked for first: without a network each of the others would cost half a minute of retries.
        """
        ordered = sorted(names, key=lambda name: not isinstance(self._cached(name), str))
        return next(((name, path) for name in ordered if (path := self.find(name))), None)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a subfolder, sorted: on the Hub, or in the cache where the Hub is out of reach."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        if self.unreachable is not None:
            return self.snapshot.names(folder) if self.snapshot else []
        api = HfApi(token=self.token, library_name=LIBRARY)
        with translated(self.repo_id, self.revision, self.token):
            try:
                entries = list(api.list_repo_tree(self.repo_id, folder or None, revision=self.commit or self.revision))
            except EntryNotFoundError:
                return []
        return sorted(PurePosixPath(entry.path).name for entry in entries if isinstance(entry, RepoFile))

    def missing(self, *names: str) -> RefineStyleHubError:
        """The error to raise when none of ``names`` was found."""
        if self.unreachable is None:
            hint = pickle_hint(self.names())
            return ModelNotFoundError(f"{self} has no {' or '.join(names)}.{hint}", repo_id=self.repo_id)
        text = f"{self}: {' or '.join(names)} is not in the cache, and "
        folder = PurePosixPath(names[-1]).parent
        include = "" if folder == PurePosixPath(".") else f" --include '{folder}/*'"
        place = f" --cache-dir '{self.cache_dir}'" if self.cache_dir else ""
        advice = f"\nFetch it once while online: hf download {self.repo_id} --revision {self.revision}{include}{place}"
        if self.local_files_only:
            text = f"{text}local_files_only=True forbids to download it.{advice}"
        elif type(self.unreachable).__name__ == "OfflineModeIsEnabled":
            text = f"{text}HF_HUB_OFFLINE is set.{advice}"
        else:
            text = f"{text}the Hub cannot be reached ({_line(self.unreachable)}).{advice}"
            return HubConnectionError(text, repo_id=self.repo_id)
        return ModelNotFoundError(text, repo_id=self.repo_id)


def _line(error: BaseException) -> str:
    """An error in one line, with the one that caused it."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")
    if error.__cause__ is None or hasattr(error, "response"):  # an answer of the Hub speaks for itself
        return text
    return f"{text} ({_line(error.__cause__)})"


@contextmanager
def translated(repo_id: str, revision: str, token: str | bool | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into this package's errors, which never show the token."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except RefineStyleHubError:
        raise
    except HFValidationError:
        raise ModelNotFoundError(f"{repo_id!r} is not a Hub id, which is owner/name.", repo_id=repo_id) from None
    except GatedRepoError:
        raise HubAccessError(
            f"{repo_id} is gated. Accept its conditions on its page on the Hub,\n"
            "then log in (hf auth login) or pass token=.",
            repo_id=repo_id,
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"There is no model {repo_id} on the Hub (and no folder of that name here), or it is private.\n"
            "Check the name; for a private one log in (hf auth login) or pass token=.",
            repo_id=repo_id,
        ) from None
    except LocalTokenNotFoundError:
        raise HubAccessError(
            f"{repo_id}: token=True asks for a stored token, and there is none.\nLog in first (hf auth login).",
            repo_id=repo_id,
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFoundError(f"{repo_id} has no revision {revision!r} on the Hub.", repo_id=repo_id) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # the disk's, not the network's
        text = re.sub(r"hf_\w+", "***", _line(error))  # the form of the Hub's tokens
        if isinstance(token, str) and token:
            text = text.replace(token, "***")
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise HubAccessError(
                f"The Hub refuses access to {repo_id} ({text}).\n"
                "Log in with a token that has the right role (hf auth login), or pass token=.",
                repo_id=repo_id,
            ) from None
        raise HubConnectionError(
            f"The Hub failed at {repo_id}: {text}.\nTry again; finished files are not sent twice.", repo_id=repo_id
        ) from None


def find_repos(tags: Sequence[str], limit: int, token: str | bool | None = None) -> list[ModelInfo]:
    """Model repos on the Hub that have all ``tags``, most downloaded first."""
    from huggingface_hub import HfApi

    with translated("the list of models", "main", token):
        return list(
            HfApi(token=token, library_name=LIBRARY).list_models(
                filter=list(tags), limit=limit, sort="downloads", full=True
            )
        )


# --- Names ----------------------------------------------------------------------------------------------------------


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{INDEX}"))


def open_source(name_or_path: AnyPath, **options: Unpack[HubOptions]) -> Source:
    """Where the files of a model are; nothing is read or downloaded yet.

    In this order: one of ``bundled_models()``, a local folder, a Hub id ``owner/name``. A ``pathlib.Path`` is always
    a folder, and so is a name that begins with ``.``, ``/`` or ``~``, ends with ``/`` or has a backslash.

    Raises:
        ModelNotFoundError: There is nothing of that name.
        ConfigError: A revision is asked of something that has none, or there is no such option.
    """
    check_options(options, HubOptions.__annotations__)
    if isinstance(name_or_path, bytes):  # a path, as some functions of the system give it
        name_or_path = os.fsdecode(name_or_path)
    if is_address(name_or_path):
        raise ModelNotFoundError(
            f"{printable(name_or_path, 200)} is an address, and not a Hub id, which is owner/name.\n"
            "Name the model by its id, or by the folder that it was downloaded to."
        )
    path, source = user_path(name_or_path), None
    if isinstance(name_or_path, str) and name_or_path in bundled_models():
        source = _bundled(name_or_path, options)
    elif path.is_dir():
        source = Folder(path)
    if source is not None:
        if options.get("force_download") and not isinstance(source, FetchedModel):
            raise ConfigError(f"force_download= is for models on the Hub; {name_or_path} is a local folder.")
        if options.get("revision") is not None:
            raise ConfigError(f"revision= is for models on the Hub; {name_or_path} is the local folder {source}.")
        return source
    text = os.fspath(name_or_path)
    if path.is_file():
        alone = "\nIf it is a domain: TokenSet.from_pretrained loads it, and commands take it as --domain."
        hint = alone if path.suffix == ".safetensors" else pickle_hint([path.name])
        raise ModelNotFoundError(f"{path} is a file; a model is a folder.{hint}")
    if is_clearly_path(name_or_path) or text.endswith(".safetensors"):
        raise ModelNotFoundError(f"No such file or directory: {path} (looked from {Path.cwd()}).")
    if is_repo_id(text):
        return Repo(text, **options)
    if path.is_symlink():
        raise ModelNotFoundError(f"{path} is a link to nothing. Link it anew, or name the folder itself.")
    bundled = ", ".join(bundled_models()) or "none"
    raise ModelNotFoundError(
        f"There is no model {text[:100]!r}. It is not a bundled one ({bundled}), there is no folder of that name,\n"
        "and it is not a Hub id, which is owner/name."
    )


def _bundled(name: str, options: HubOptions) -> Folder:
    folder = Folder(BUNDLED / name)
    recipe = read_recipe(folder)
    if recipe is None:
        return folder
    offline, again = options.get("local_files_only", False), options.get("force_download", False)
    return FetchedModel(folder.root, recipe, options.get("cache_dir"), offline, again)
