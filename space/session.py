"""What a visitor's session holds between events, and nothing that is shared with others."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.tokens.token_set import TokenSet

from . import limits, messages
from .images import Pixels, opened, webp


CHANGING = threading.RLock()  # of all sessions: what is read and then changed; it takes no time


@dataclass(frozen=True, eq=False)
class Subject:
    """An inverted face. Immutable, so sessions may share one."""

    inversion: Inversion  # without its crop
    crop_webp: bytes  # what was inverted; as good as the eye can tell
    photo: str | None = None  # the file that the crop was cut from; the cache may have swept it
    found: bool = True  # or a first likeness, while the photo is read

    @staticmethod
    def of(inversion: Inversion, crop: Pixels, photo: str | None = None, found: bool = True) -> Subject:
        """Raises the message for a visitor if it is too large to keep."""
        subject = Subject(replace(inversion, crop=None), webp(crop), photo, found)
        tensors = subject.inversion.state_dict().values()
        if sum(t.numel() * t.element_size() for t in tensors) + len(subject.crop_webp) > limits.SUBJECT_BYTES:
            raise messages.refuse(messages.TOO_LARGE_FOR_SESSION)
        return subject

    @property
    def crop(self) -> Pixels:
        """What was inverted."""
        return opened(self.crop_webp)

    def __deepcopy__(self, memo: dict[int, Any]) -> Subject:
        return self


@dataclass(frozen=True)
class Look:
    """Everything that says what is on the canvas: whose face, and how it is changed."""

    source: Subject | int  # an inverted face, or the seed of one that is drawn
    edits: Mapping[str, float] = field(default_factory=dict)  # direction -> strength
    domains: Mapping[str, float] = field(default_factory=dict)  # domain -> strength

    @property
    def subject(self) -> Subject | None:
        """The inverted face, if it is one."""
        return self.source if isinstance(self.source, Subject) else None


class Shelf:
    """The domains of a session, by name."""

    def __init__(self) -> None:
        self.domains: dict[str, TokenSet] = {}

    def add(self, name: str, tokens: TokenSet, taken: Collection[str] = ()) -> str:
        """Keep a domain; returns the name it got, another one where that was taken.

        Raises the message for a visitor if there is no room.
        """
        self.check_room(tokens.nbytes)
        title, count = name, 1
        while title in self.domains or title in taken:
            count += 1
            title = f"{name}-{count}"
        self.domains[title] = tokens
        return title

    def check_room(self, size: int = 0) -> None:
        """Raises the message for a visitor if there is no room for one of ``size`` bytes."""
        held = sum(tokens.nbytes for tokens in self.domains.values())
        if len(self.domains) >= limits.SHELF or held + size > limits.SHELF_BYTES:
            raise messages.refuse(messages.SHELF_FULL)


class Session:
    """A look with those before and after it, and the domains.

    Events of one session may run at the same time, such as an inversion and an edit; a value would lose the one that
    ends first, so they share this object. Each change is one assignment.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.shown: tuple[Look, bool] | None = None  # what the canvas has: a look, and whether in its photo
        self.past: list[Look] = []
        self.future: list[Look] = []
        self.in_photo = False  # the canvas shows the whole photo
        self.wanted = self.begun = 0  # numbers of the newest reading of a photo; earlier ones are given up
        self.panel: str | None = None  # the photo that the panel has
        self.waits: str | None = None  # the photo in its box, while its faces are looked for
        self.tiles: dict[str, str] = {}  # the gallery of styles: a file by domain
        self.shelf = Shelf()

    def put(self, look: Look) -> None:
        """Go on to another look; what was undone before is gone."""
        if look != self.look:
            self.past, self.future, self.look = self._kept([*self.past, self.look], look), [], look

    def undo(self) -> None:
        """Back to the look before."""
        if self.past:
            self.future, self.look = [*self.future, self.look], self.past[-1]
            self.past = self.past[:-1]

    def redo(self) -> None:
        """Forward again."""
        if self.future:
            self.past, self.look = [*self.past, self.look], self.future[-1]
            self.future = self.future[:-1]

    def reset(self) -> None:
        """The face as it was."""
        self.put(Look(self.look.source))

    def place(self) -> None:
        """From the face to the whole photo, and back."""
        self.in_photo = not self.in_photo

    def exchange(self, old: Subject | int, new: Subject | int) -> None:
        """One source takes the place of another in all looks: the same face, known better."""

        def of(look: Look) -> Look:
            return replace(look, source=new) if look.source is old else look

        with CHANGING:
            past, self.future, self.look = list(map(of, self.past)), list(map(of, self.future)), of(self.look)
            self.past = self._kept(past, self.look)

    def forget(self, domain: str) -> None:
        """A domain leaves the session, and the looks that have it are gone with it."""
        self.shelf.domains.pop(domain, None)
        self.put(replace(self.look, domains={n: s for n, s in self.look.domains.items() if n != domain}))
        self.past = [look for look in self.past if domain not in look.domains]
        self.future = [look for look in self.future if domain not in look.domains]
        self.shown = None  # what can be chosen is less

    @staticmethod
    def _kept(past: list[Look], now: Look) -> list[Look]:
        """The newest looks, of few inverted faces; beside them one of which only a first likeness was found."""
        faces = dict.fromkeys(look.subject for look in [now, *reversed(past)])  # the newest first; None was drawn
        found, first = ([face for face in faces if face and face.found is yes] for yes in (True, False))
        kept = [None, *found[: limits.FACES], *first[:1]]
        return [look for look in past if look.subject in kept][-limits.HISTORY :]


def clean_name(name: object, otherwise: str = "my-style") -> str:
    """A name that can be a file's and a repo's: letters, digits, dash, underscore."""
    plain = unicodedata.normalize("NFKD", str(name or "")).encode("ascii", "ignore").decode()  # ö is o
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")[: limits.MAX_NAME].strip("-_") or otherwise
