"""What a file is by its first bytes, whatever its name says, and what to do where another one was due.

Downloads end as web pages, clones as Git LFS pointers, and endings lie. Every reader of weights asks here first.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import ModelFileError, ModelNotFoundError


__all__ = ["Contents", "check_contents", "contents_of", "fetch_again", "is_safetensors", "start_of"]

START = 2048  # bytes that are looked at


class Contents(NamedTuple):
    """A kind of file."""

    kind: str  # one word
    what: str  # as in "it is ..."
    advice: str  # what to do, one sentence


AGAIN = "Download or copy it again."
UNPACK = "Unpack it first, then name the file that was in it."
EMPTY = Contents("empty", "empty (0 bytes)", AGAIN)
POINTER = Contents(
    "lfs", "a Git LFS pointer, not the file itself", "Run git lfs pull in its repository, or download the file."
)
PAGE = Contents("page", "a web page", "The download may need a log-in or a confirmation: download the file itself.")
XML = Contents("xml", "an XML text, as servers send instead of a file", "Download the file itself.")
JSON = Contents("json", "a JSON text", "Name the file of the weights instead.")
TEXT = Contents("text", "a text", "Name the file of the weights instead.")
SAFETENSORS = Contents("safetensors", "a safetensors file", "Give it a name that ends in .safetensors.")
PICKLE = Contents("pickle", "a pickle", "It is never read here: refinestyle convert makes a folder of a checkpoint.")
ZIP = Contents("zip", "a zip archive, as PyTorch saves checkpoints", PICKLE.advice)
BYTES: list[tuple[int, bytes, Contents]] = [  # where, which bytes, what that is
    (0, b"version https://git-lfs", POINTER),
    (0, b"\x1f\x8b", Contents("gzip", "packed with gzip", UNPACK)),
    (0, b"BZh", Contents("bzip2", "packed with bzip2", UNPACK)),
    (0, b"\xfd7zXZ\0", Contents("xz", "packed with xz", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Contents("zstd", "packed with zstd", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Contents("7z", "a 7z archive", UNPACK)),
    (0, b"Rar!", Contents("rar", "a RAR archive", UNPACK)),
    (257, b"ustar", Contents("tar", "a tar archive", UNPACK)),
    (0, b"PK\x03\x04", ZIP),
    (0, b"PK\x05\x06", Contents("zip", "an empty zip archive", AGAIN)),
    (0, b"\x93NUMPY", Contents("numpy", "an array of numpy", "Name the file of the weights instead.")),
    (0, b"\x89HDF", Contents("hdf5", "an HDF5 file, as Keras saves weights", "PyTorch's weights are needed.")),
    (4, b"TFL3", Contents("tflite", "a TensorFlow Lite model", "PyTorch's weights are needed.")),
    (
        0,
        b"GGUF",
        Contents("gguf", "a GGUF file, which holds a language model", "Name the file of the weights instead."),
    ),
    (0, b"%PDF", Contents("pdf", "a PDF", "Name the file of the weights instead.")),
    (0, b"\x89PNG", Contents("picture", "a picture", "Name the file of the weights instead.")),
    (0, b"\xff\xd8\xff", Contents("picture", "a picture", "Name the file of the weights instead.")),
    (0, b"GIF8", Contents("picture", "a picture", "Name the file of the weights instead.")),
    (8, b"WEBP", Contents("picture", "a picture", "Name the file of the weights instead.")),
]


def start_of(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        ModelNotFoundError: There is no such file, or it is a folder.
        ModelFileError: It cannot be read.
    """
    if path.is_dir():
        raise ModelNotFoundError(f"{path} is a folder. Name the file in it.")
    if not path.is_file():
        dangling = " (a link to nothing)" if path.is_symlink() else ""
        raise ModelNotFoundError(f"There is no file {path}{dangling}.")
    try:
        with path.open("rb") as file:
            return file.read(START)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error


def contents_of(start: bytes) -> Contents | None:
    """What a file with these first bytes is; None where that is not known."""
    if not start:
        return EMPTY
    for place, found, contents in BYTES:
        if start[place : place + len(found)] == found:
            return contents
    if is_safetensors(start):
        return SAFETENSORS
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return PICKLE
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or (b"<html" in text[:500]):
        return PAGE
    if text.startswith((b"<?xml", b"<error", b"<svg")):
        return XML
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return JSON if text.startswith((b"{", b"[")) else TEXT
    return None


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a header of JSON, and that header."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 1 << 32


def fetch_again(path: Path) -> str:
    """What to do about a file that is damaged: in the Hub's cache another copy of it would not be asked for."""
    folder = next((part for part in path.parts if part.startswith("models--")), None)
    if folder is None or "snapshots" not in path.parts:
        return AGAIN
    repo, revision = (
        folder.removeprefix("models--").replace("--", "/", 1),
        path.parts[path.parts.index("snapshots") + 1],
    )
    return f"Fetch it again: force_download=True, or hf download {repo} --revision {revision} --force-download"


def check_contents(path: Path, start: bytes, otherwise: str, *wanted: str) -> None:
    """Refuse a file that is known to be of another kind than ``wanted``, and say what to do.

    Args:
        path: The file.
        start: Its first bytes.
        otherwise: What it then is not, such as "is not a safetensors file".
        wanted: The kinds that are not refused.

    Raises:
        ModelFileError: It is of another kind.
    """
    contents = contents_of(start)
    if contents is not None and contents.kind not in wanted:
        advice = fetch_again(path) if "snapshots" in path.parts else contents.advice
        raise ModelFileError(f"{path} {otherwise}: it is {contents.what}.\n{advice}", path=path)
