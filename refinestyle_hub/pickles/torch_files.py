"""The three layouts of files that hold tensors and a pickle: PyTorch's zip, its older stream, and a bare pickle.

All of them are read by ``unpickle``, so nothing in them is executed.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..boundary.contents import check_contents, fetch_again, start_of
from ..boundary.paths import AnyPath, user_path
from ..errors import ModelFileError, listed
from .builders import STORAGES, Name, Storage
from .unpickle import remaining, unpickle


__all__ = ["read_torch"]

MAX_BYTES = 4 << 30  # a 1024 px training state with both optimisers takes 1 GB
ZIP_START = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C  # begins the older stream, as a pickle of its own
STREAM_START = b"\x80\x02\x8a\n" + MAGIC.to_bytes(10, "little") + b"."


def read_torch(path: AnyPath) -> Any:
    """The tensors, plain containers and inert records in a ``.pt``, ``.pth`` or ``.pkl`` file, on the CPU.

    Raises:
        ModelNotFoundError: There is no such file.
        UnsafePickleError: It names something to run that no checkpoint needs.
        ModelFileError: It is damaged, or of another kind.
    """
    path = user_path(path)
    start = start_of(path)
    check_contents(path, start, "cannot be read as a checkpoint", "zip", "pickle")
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(
            f"{path} is larger than {MAX_BYTES >> 30} GiB, and no StyleGAN2 checkpoint is that large.\n"
            "Save the generator alone into a file of its own.",
            path=path,
        )
    try:
        if start.startswith(ZIP_START):
            return _read_zip(path)
        stream = io.BytesIO(path.read_bytes())
        return _read_stream(stream, path) if start.startswith(STREAM_START) else _read_pickle(stream, path)
    except ModelFileError:
        raise
    except Exception as error:  # damaged bytes break zipfile and torch in nearly any way
        raise ModelFileError(
            f"{path} cannot be read as a checkpoint: damaged ({type(error).__name__}).\n{fetch_again(path)}", path=path
        ) from error


def _check(condition: bool) -> None:
    if not condition:
        raise ValueError("malformed file")


def _filled(data: bytes, dtype: torch.dtype, numel: int) -> Storage:
    size = numel * dtype.itemsize
    _check(len(data) == size)
    if not size:
        return Storage(torch.empty(0, dtype=dtype))
    return Storage(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype))


def _persistent_id(pid: Any) -> tuple[torch.dtype, str, int]:
    """('storage', class, key, device, number of values, and in the stream None) -> (dtype, key, number of values)."""
    _check(type(pid) is tuple and len(pid) in (5, 6) and pid[0] == "storage" and pid[5:] in ((), (None,)))
    _, kind, key, _, numel = pid[:5]
    _check(type(kind) is Name and type(key) is str and type(numel) is int and numel >= 0)
    return STORAGES[kind.text], key, numel


def _read_zip(path: Path) -> Any:
    """``NAME/data.pkl`` and the storages ``NAME/data/KEY``, all of them stored without compression."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if not any(name.endswith("/data.pkl") for name in names):
            raise ModelFileError(
                f"{path} is a zip archive but none of PyTorch's, or damaged: it holds {listed(names) or 'nothing'}.\n"
                "Unpack it first, then name the file that was in it.",
                path=path,
            )
        if any("/code/" in name for name in names):
            raise ModelFileError(
                f"{path} is a TorchScript archive, which is a program, and not a checkpoint.\n"
                "Save the state_dict of the network instead: torch.save(model.state_dict(), FILE).",
                path=path,
            )
        # so that nothing unpacks to more than the file has
        _check(all(entry.compress_type == zipfile.ZIP_STORED for entry in entries))
        _check(sum(entry.file_size for entry in entries) <= path.stat().st_size)
        _check(len(set(names)) == len(names))
        (root,) = (name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl"))
        if f"{root}byteorder" in names:
            _check(archive.read(f"{root}byteorder") == b"little")
        storages: dict[str, Storage] = {}

        def persistent(pid: Any) -> Storage:
            dtype, key, numel = _persistent_id(pid)
            if key not in storages:
                storages[key] = _filled(archive.read(f"{root}data/{key}"), dtype, numel)
            _check(storages[key].flat.dtype == dtype and storages[key].flat.numel() == numel)
            return storages[key]

        return unpickle(io.BytesIO(archive.read(f"{root}data.pkl")), path, persistent=persistent)


def _read_stream(stream: BinaryIO, where: object) -> Any:
    """Five pickles (magic number, version, system, content, keys), then each storage as its length and its bytes."""
    _check(unpickle(stream, where) == MAGIC and unpickle(stream, where) == 1001)
    _check(unpickle(stream, where).get("little_endian") is True)
    storages: dict[str, Storage] = {}
    room = remaining(stream)

    def persistent(pid: Any) -> Any:
        nonlocal room
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":  # a class, with its source code
            return pid[1]
        dtype, key, numel = _persistent_id(pid)
        if key not in storages:
            room -= numel * dtype.itemsize  # their bytes must follow in the file, so no more is set aside
            _check(room >= 0)
            storages[key] = Storage(torch.zeros(numel, dtype=dtype))
        _check(storages[key].flat.dtype == dtype and storages[key].flat.numel() == numel)
        return storages[key]

    content = unpickle(stream, where, persistent=persistent)
    keys = unpickle(stream, where)
    _check(type(keys) is list and sorted(keys) == sorted(storages))
    for key in keys:
        flat = storages[key].flat
        _check(int.from_bytes(stream.read(8), "little") == flat.numel())
        flat.copy_(_filled(stream.read(flat.nbytes), flat.dtype, flat.numel()).flat)
    return content


def _read_pickle(stream: BinaryIO, where: object) -> Any:
    """A bare pickle, in which each tensor's storage is the bytes of an older stream of its own."""
    storages: dict[int, tuple[bytes, Storage]] = {}  # by identity: one text of bytes may be named many times

    def nested(data: Any) -> Storage:
        _check(type(data) is bytes)
        if id(data) not in storages:
            storage = _read_stream(io.BytesIO(data), where)
            _check(type(storage) is Storage)
            storages[id(data)] = data, storage
        return storages[id(data)][1]

    return unpickle(stream, where, builders={"torch.storage._load_from_bytes": nested})
