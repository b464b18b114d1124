"""Published weights that are not on the Hub, kept in torch's own cache."""

from __future__ import annotations

import os
import re
import threading
import urllib.request
from pathlib import Path

import torch


__all__ = ["torch_file"]

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PATIENCE = 4.0  # seconds to hear from a server before doing without


def torch_file(url: str) -> Path | None:
    """A file in torch's own cache, fetched there first if need be and checked against the digest in its name.

    None where it cannot be had: HF_HUB_OFFLINE is set, the server does not answer soon, or the download fails.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE) or not _answers(url):
        return None
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, RuntimeError):  # the connection broke, the cache cannot be written; another digest
        return None
    return path


def _answers(url: str) -> bool:
    """Whether the server answers soon. In a thread, since looking up its name has no time limit of its own."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()
