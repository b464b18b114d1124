"""What the tests of hostile files share: a domain, and what a refusal has to be like."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tiny import token_set

from refinestyle_hub.convert import convert
from refinestyle_hub.errors import ModelFileError, RefineStyleHubError


DOMAIN = token_set(seed=1)
WEIGHTS = "tokens.safetensors"


def assert_refused(load: Callable[[], object], *words: str) -> None:
    with pytest.raises(RefineStyleHubError) as error:
        load()
    text = str(error.value)
    assert text.count("\n") <= 2, text
    for word in words:
        assert word in text, text


def with_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def refused(
    path: Path, content: bytes, error: type[RefineStyleHubError] = ModelFileError, match: str | None = None
) -> None:
    """Converting a file of this content raises the error, in few words, and leaves nothing."""
    path.write_bytes(content)
    before = sorted(path.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        convert(path, path.parent / "out", license="mit")
    assert len(str(caught.value).splitlines()) <= 3
    assert len(str(caught.value)) < 600
    assert sorted(path.parent.iterdir()) == before


@contextmanager
def numbered_storages() -> Iterator[None]:
    """Let PyTorch name storages by their number, not by their place in memory: the same bytes on every machine."""
    numbers: dict[int, int] = {}
    place = torch.UntypedStorage._cdata
    number = property(lambda storage: 10**14 + numbers.setdefault(place.__get__(storage), len(numbers)))
    with mock.patch.object(torch.UntypedStorage, "_cdata", number, create=True):
        yield
