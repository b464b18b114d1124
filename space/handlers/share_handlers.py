"""What happens in Share: files out and in, domains from the Hub, and to one's own account on it.

The docstring of ``export`` is what clients of the API read.
"""

from __future__ import annotations

import contextlib
import html
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from refinestyle_hub import cards
from refinestyle_hub.cards.origins import origin
from refinestyle_hub.hub.push import with_base_terms
from refinestyle_hub.hub.sources import bundled_models
from refinestyle_hub.storage.model_folder import Folder, is_repo_id
from refinestyle_hub.tokens.token_set import TokenSet

from .. import limits, messages
from ..files import marked
from ..images import side_by_side
from ..jobs import Jobs, RenderSpec
from ..session import Look, Session, Shelf, Subject, clean_name
from ..tokenfiles import check, domain_file, inversion_file, name_of, read_tokens


FACE = "the face"
LICENCES = ["cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "apache-2.0", "openrail"]


def may_push() -> bool:
    """Whether the app runs where visitors can sign in."""
    return bool(os.environ.get("SPACE_ID") and os.environ.get("OAUTH_CLIENT_ID"))


class ShareHandlers:
    """The handlers of Share for one pipeline.

    Args:
        base_model: what the model is called: on the Hub, or its bundled name. Domains for any other are not pushed:
            nobody could load what they go with.
        api: makes the client for a token; ``huggingface_hub.HfApi``.
    """

    def __init__(self, jobs: Jobs, base_model: str, api: Callable[..., Any] = HfApi) -> None:
        self.jobs, self.base_model, self.api = jobs, base_model, api

    # --- Out ---

    def enter(self, session: Session) -> tuple[Any, ...]:
        """The tab was opened: what can be saved, pushed and removed, and the button that saves the last."""
        names = [*([FACE] if session.look.subject else []), *session.shelf.domains]
        last = names[-1] if names else None
        return gr.update(choices=names, value=last), self.offer(last, session)

    def export(self, what: str | None, session: Session) -> str:
        """Save the face or a domain of this session as a .safetensors file, without a pixel of any photo.

        Args:
            what: "the face", or the name of a domain made or loaded in this session.

        Returns:
            The file. ``Inversion.from_pretrained`` and ``TokenSet.from_pretrained`` of refinestyle-hub load it.
        """
        with messages.explained():
            if what == FACE and session.look.subject is not None:
                return inversion_file(session.look.subject.inversion)
            if not what or what == FACE:
                raise messages.refuse(messages.NOTHING_TO_EXPORT)
            return domain_file(self._domain(what, session.shelf), str(what))

    def offer(self, what: str | None, session: Session) -> Any:
        """The download button for what was chosen."""
        return gr.update(value=self.export(what, session) if what else None, interactive=bool(what))

    def remove(self, name: str | None, session: Session) -> str:
        """A domain leaves the session."""
        if name not in session.shelf.domains:
            return messages.NOTHING_TO_REMOVE
        session.forget(str(name))
        return f"{html.escape(str(name))} is removed."

    def _domain(self, name: object, shelf: Shelf) -> TokenSet:
        if name not in shelf.domains:
            raise messages.refuse(messages.UNKNOWN_DOMAIN, name=name, known=list(shelf.domains))
        return shelf.domains[str(name)]

    # --- In ---

    def load_file(self, file: str | None, session: Session) -> str:
        """A file was brought: a domain for the shelf, or a face that becomes the session's face."""
        with messages.explained():
            if not file:
                raise messages.refuse(messages.NO_FILE)
            found = read_tokens(file, self.jobs.pipe)
            if isinstance(found, TokenSet):
                return self._kept(name_of(found, file), found, session)
            ((drawn,),) = self.jobs.draw(found, [RenderSpec()], {})  # stands for the photo as well
            session.put(Look(Subject.of(found, drawn if found.crop is None else found.crop.numpy())))
            return "The face is on the canvas."

    def load_id(self, repo_id: str | None, session: Session) -> str:
        """A domain of the Hub, read as anybody could read it; nothing of it stays on the disk."""
        with messages.explained():
            name = str(repo_id or "").strip()
            if not is_repo_id(name):
                raise messages.refuse(messages.BAD_HUB_ID)
            session.shelf.check_room()
            commit = self._checked_repo(name)
            with tempfile.TemporaryDirectory() as cache:
                found = TokenSet.from_pretrained(name, revision=commit, token=False, cache_dir=cache)
            domain = check(found, self.jobs.pipe)
            assert isinstance(domain, TokenSet)
            return self._kept(clean_name(name.rpartition("/")[2]), domain, session)

    def _checked_repo(self, name: str) -> str:
        """The newest commit of a repo whose files are those of a domain, by names and sizes, before any is read."""
        api = self.api(token=False)  # nobody's, whatever the app itself may read
        try:
            commit = str(api.model_info(name).sha)
            entries = api.list_repo_tree(name, revision=commit)
            sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
        except HfHubHTTPError as error:
            raise messages.refuse("There is no public model {name} on the Hub.", name=name) from error
        except Exception as error:
            raise messages.refuse("The Hub cannot be reached just now. Try again, or load a file.") from error
        for needed in ("config.json", "tokens.safetensors"):
            if needed not in sizes:
                raise messages.refuse("{name} holds no domain: it has no {needed}.", name=name, needed=needed)
            if sizes[needed] > limits.MAX_TOKEN_BYTES:
                raise messages.refuse(messages.FILE_TOO_LARGE)
        return commit

    def _kept(self, name: str, domain: TokenSet, session: Session) -> str:
        """What is told of a domain that came; the canvas then shows it, alone."""
        kept = session.shelf.add(name, domain, self.jobs.pipe.domains)
        session.put(replace(session.look, domains={kept: 1.0}))
        return f"**{html.escape(kept)}** is there, and on the canvas."

    def link(self, request: gr.Request) -> tuple[Any, Any]:
        """The page was opened with ``?domain=owner/name``: it is filled in, to be checked when Load is pressed."""
        wanted = dict(request.query_params).get("domain")
        return (wanted, gr.update(selected="share")) if wanted else (gr.skip(), gr.skip())

    # --- To one's own account ---

    def push(
        self, name: str | None, licence: str, public: bool, preview: bool, session: Session,
        profile: gr.OAuthProfile | None, oauth: gr.OAuthToken | None,
    ) -> str:  # fmt: skip
        """Put a domain into a new repo of the signed-in user; private unless ``public``."""
        with messages.explained():
            if profile is None or oauth is None:
                raise messages.refuse(messages.SIGN_IN)
            if licence not in LICENCES:
                raise messages.refuse(f"Choose a licence: {', '.join(LICENCES)}.")
            if not is_repo_id(self.base_model) and self.base_model not in bundled_models():
                raise messages.refuse(messages.NO_PUBLIC_BASE)
            domain = self._domain(name, session.shelf)
            repo_id = f"{profile.username}/{clean_name(name)}"
            files = self._files(domain, repo_id, licence, preview)
            self._commit(self.api(token=oauth.token), repo_id, files, not public)
            link = f" · link to this demo with it: `?domain={repo_id}`" if public else ""
            return f"[{repo_id}](https://huggingface.co/{repo_id}) is yours{link}"

    def _files(self, domain: TokenSet, repo_id: str, licence: str, preview: bool) -> dict[str, bytes]:
        shown = (cards.Picture("preview.png", "The same faces without and with the domain."),) if preview else ()
        card = cards.Card(license=licence, base_model=self.base_model, data=origin(domain.metadata), pictures=shown)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "domain"
            domain.save_pretrained(folder)
            cards.check_rights(Folder(folder))
            card = with_base_terms(card)
            if preview:
                (folder / "preview.png").write_bytes(self._preview(domain))
            (folder / cards.FACTS).write_bytes(cards.dump_card(card))
            (folder / cards.README).write_text(cards.render(folder, card, repo_id), encoding="utf-8")
            return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def _preview(self, domain: TokenSet) -> bytes:
        seeds = tuple(range(limits.SEEDS))
        drawn = self.jobs.draw(seeds, [RenderSpec(), RenderSpec(domains={"it": 1.0})], {"it": domain})
        return marked(side_by_side([picture for row in drawn for picture in row], limits.SEEDS, limits.THUMB))

    def _commit(self, api: Any, repo_id: str, files: dict[str, bytes], private: bool) -> None:
        """A new repo and one commit. What the Hub says is not passed on: it could hold the token."""
        told = {401: messages.MAY_NOT, 403: messages.MAY_NOT, 409: messages.TAKEN, 429: messages.TOO_OFTEN}
        created = False
        try:
            api.create_repo(repo_id, private=private, exist_ok=False)
            created = True
            operations = [CommitOperationAdd(name, content) for name, content in files.items()]
            api.create_commit(repo_id, operations, commit_message="Upload a domain made with RefineStyle")
        except Exception as error:
            if created:  # empty: it would be in the way of the next try
                with contextlib.suppress(Exception):
                    api.delete_repo(repo_id)
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
            messages.log.warning("a push failed: %s", status or type(error).__name__)
            raise messages.refuse(told.get(status, messages.NOT_PUSHED)) from None
