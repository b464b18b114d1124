"""What a visitor's session holds between events: values only, nothing that is shared or open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refinestyle_hub.faces import Face
from refinestyle_hub.inversion import Inversion

from . import limits, messages
from .images import Pixels


__all__ = ["Found", "Subject"]


@dataclass(frozen=True)
class Found:
    """The faces of an uploaded photo, so that they are looked for once."""

    photo: str  # its path, which Gradio derives from its bytes
    faces: Sequence[Face]


@dataclass(frozen=True, eq=False)
class Subject:
    """The face that a session works on."""

    inversion: Inversion
    crop: Pixels
    reconstruction: Pixels

    def __post_init__(self) -> None:
        tensors = self.inversion.state_dict().values()
        size = sum(t.numel() * t.element_size() for t in tensors) + self.crop.nbytes + self.reconstruction.nbytes
        if size > limits.STATE_BYTES:
            raise messages.refuse(messages.TOO_LARGE_FOR_SESSION)
