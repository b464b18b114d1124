"""What the tests of the demo share: a tiny pipeline with all parts, and ways to call its handlers."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, token_set

from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space.handlers.photo_handlers import PhotoHandlers
from space.session import Look, Session
from space.turns import Turns


def whole(pipe: RefineStylePipeline) -> RefineStylePipeline:
    """The pipeline with a discriminator, which makes steps of an adaptation fast, and with two domains."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator(DiscriminatorConfig(resolution=32, channels=TINY.channels)).eval()
    made = RefineStylePipeline(pipe.generator, discriminator, pipe.directions, {"ink": domain(1), "wax": domain(2)})
    made.perceptual = pipe.perceptual
    return made


def domain(seed: int, scale: float = 0.2) -> TokenSet:
    """Random tokens for the tiny generator."""
    return token_set(seed, rank=2, residual="pre", bias=True).scale(scale)


def request(session: str = "me", **query: str) -> Any:
    """As far as the handlers look at one."""
    return SimpleNamespace(session_hash=session, query_params=query, headers={}, client=None)


def pixels(file: Any) -> Any:
    """Of a picture file, or of what an API client gets for one."""
    with Image.open(file["path"] if isinstance(file, dict) else file) as picture:
        return np.array(picture)


def style(folder: Path, count: int = 5, size: int = 48) -> list[str]:
    """Pictures of a style, without faces."""
    rng = np.random.default_rng(0)
    files = []
    for place in range(count):
        picture = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        picture[..., 2] = 0
        files.append(str(folder / f"style{place}.png"))
        Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST).save(files[-1])
    return files


def told(message: str) -> Any:
    """The block ends with this message for the visitor."""
    return pytest.raises(gr.Error, match=re.escape(message))


def jobs_of(demo: gr.Blocks) -> Any:
    """The device boundary of an app."""
    return next(event.fn.__self__ for event in demo.fns.values() if event.api_name == "invert").jobs  # type: ignore


def visitor() -> Session:
    """A session that has just begun, with a drawn face."""
    return Session(Look(0))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def invert(on: PhotoHandlers, photo: str | None, name: str = "me", **other: Any) -> tuple[Session, list[Any]]:
    """A session, and all that its canvas was told while a photo was read: in four steps, unless told otherwise."""
    session = visitor()
    return session, [view for view, *_ in reading(on, session, photo, name, **other)]


def reading(on: PhotoHandlers, session: Session, photo: str | None, name: str = "me", **other: Any) -> Any:
    """A reading of a photo as it begins."""
    values = {"aligned": False, "face": 0, "steps": 4, "tokens": True, "seed": 0, "detected": {}}
    number, _ = on.begin(session, photo)
    return on.read(session, photo, *{**values, "number": number, **other}.values(), request(name))


def seen(address: str) -> Any:
    """The pixels of a picture that travels as an address."""
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture)


def alike(one: Any, other: Any) -> bool:
    """Whether two pictures differ by what JPEG does to them alone."""
    return one.shape == other.shape and float(np.abs(one.astype(int) - other).mean()) < 6


def busy(turns: Turns) -> bool:
    """Whether work is done at this moment."""
    return bool(getattr(turns, "_running", ()))  # not there before the first work


@contextmanager
def held(turns: Turns, kind: str = "draw") -> Iterator[None]:
    """Work of this kind that lasts as long as the context."""
    begun, over = threading.Event(), threading.Event()
    ended = turns.start(kind, lambda: (begun.set(), over.wait(60)))
    assert begun.wait(60)
    try:
        yield
    finally:
        over.set()
        ended.result(60)
