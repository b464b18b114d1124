"""What a visitor's session holds between events: values only, nothing that is shared with others or open."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from refinestyle_hub.faces.detect import Face
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.tokens.token_set import TokenSet

from . import limits, messages
from .images import Pixels, png


__all__ = ["DetectedFaces", "Shelf", "Subject", "clean_name"]


@dataclass(frozen=True)
class DetectedFaces:
    """The faces of an uploaded photo, kept so that they are detected once."""

    photo: str  # its path, which Gradio derives from its bytes
    faces: Sequence[Face]


@dataclass(frozen=True, eq=False)
class Subject:
    """The face that a session works on. Its pictures are kept as PNG, a third as large and exact."""

    inversion: Inversion  # without its crop
    crop_png: bytes
    reconstruction_png: bytes

    @staticmethod
    def of(inversion: Inversion, crop: Pixels, reconstruction: Pixels) -> Subject:
        """Raises the message for a visitor if it is too large to keep."""
        subject = Subject(replace(inversion, crop=None), png(crop), png(reconstruction))
        tensors = subject.inversion.state_dict().values()
        pictures = len(subject.crop_png) + len(subject.reconstruction_png)
        if sum(t.numel() * t.element_size() for t in tensors) + pictures > limits.SUBJECT_BYTES:
            raise messages.refuse(messages.TOO_LARGE_FOR_SESSION)
        return subject

    @property
    def crop(self) -> Pixels:
        """What was inverted."""
        return _pixels(self.crop_png)

    @property
    def reconstruction(self) -> Pixels:
        """What the generator made of it."""
        return _pixels(self.reconstruction_png)


class Shelf:
    """The domains of a session, by name.

    Events of one session may add at the same time, such as a run in Adapt and an upload; a value would lose the one
    that ends first, so they share this object.
    """

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

    def with_domain(self, name: str, tokens: TokenSet) -> Shelf:
        """These domains and one more, which is not kept; it replaces another of its name."""
        both = Shelf()
        both.domains = {**self.domains, name: tokens}
        return both

    def check_room(self, size: int = 0) -> None:
        """Raises the message for a visitor if there is no room for one of ``size`` bytes."""
        held = sum(tokens.nbytes for tokens in self.domains.values())
        if len(self.domains) >= limits.SHELF or held + size > limits.SHELF_BYTES:
            raise messages.refuse(messages.SHELF_FULL)


def clean_name(name: object, otherwise: str = "my-style") -> str:
    """A name that can be a file's and a repo's: letters, digits, dash, underscore."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", str(name or "")).strip("-_")[: limits.MAX_NAME].strip("-_")
    return re.sub(r"-{2,}", "-", kept) or otherwise


def _pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)
