"""What a hostile checkpoint may try, and what comes of it: a typed error, no output folder, and nothing executed.

The attacker writes the file and knows this code. The user only runs ``convert`` on it.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvidia_layout as nvidia
import pytest
import torch
from hostile_parts import refused

from refinestyle_hub.convert import convert
from refinestyle_hub.errors import ModelFileError, UnsafePickleError
from refinestyle_hub.pickles.builders import Record
from refinestyle_hub.pickles.torch_files import MAGIC, read_torch
from refinestyle_hub.pickles.unpickle import unpickle


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# --- Execution ------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def containers(value: Any) -> dict[str, bytes]:
    """The same hostile value in each kind of file."""
    stream, zipped = io.BytesIO(), io.BytesIO()
    torch.save({"g_ema": value}, zipped)
    torch.save({"g_ema": value}, stream, _use_new_zipfile_serialization=False)
    nested = io.BytesIO()
    torch.save(value, nested, _use_new_zipfile_serialization=False)
    return {
        "a.pkl": pickle.dumps({"G_ema": value}),
        "b.pkl": pickle.dumps({"G_ema": value}, protocol=2),
        "zip.pt": zipped.getvalue(),
        "stream.pt": stream.getvalue(),
        "nested.pkl": pickle.dumps({"G_ema": Call(torch.storage._load_from_bytes, nested.getvalue())}),
    }


@pytest.mark.parametrize("function", [os.system, eval, exec, open, __import__, getattr, shutil.rmtree])
def test_calls_are_refused_by_name_in_every_container(tmp_path: Path, function: Callable[..., Any]) -> None:
    marker = tmp_path / "marker"
    for name, content in containers(Call(function, f"touch {marker}")).items():
        refused(tmp_path / name, content, UnsafePickleError, function.__name__)
        (tmp_path / name).unlink()
    assert not marker.exists()


def raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"  # STACK_GLOBAL


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
ORDERED = name("collections", "OrderedDict")


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(raw(name("collections", "OrderedDict.__init__.__globals__")), id="dotted name"),
        pytest.param(raw(name("torch", "serialization.os.system")), id="through an allowed module"),
        pytest.param(raw(name("torch._utils", "importlib")), id="neighbour of an allowed name"),
        pytest.param(raw(b"cnt\nsystem\n(S'true'\ntR"), id="protocol 0"),
        pytest.param(raw(b"(S'true'\nios\nsystem\n"), id="INST"),
        pytest.param(raw(b"(cos\nsystem\n" + text("true") + b"o"), id="OBJ"),
        pytest.param(raw(ORDERED, b")}\x92"), id="NEWOBJ_EX"),
        pytest.param(raw(b"\x82\x01"), id="extension registry"),
        pytest.param(raw(b"Pid\n"), id="persistent id of protocol 0"),
        pytest.param(raw(text("x"), b"Q"), id="persistent id without storages"),
        pytest.param(raw(text("os.system"), text("true"), b"\x85R"), id="call of a text"),
        pytest.param(raw(ORDERED, b")R)R"), id="call of a result"),
        pytest.param(raw(name("torch", "FloatStorage"), b"K\x05\x85R"), id="call of a storage class"),
        pytest.param(raw(ORDERED, b"]R"), id="arguments in a list"),
        pytest.param(raw(REBUILD, b"}", text("__code__"), b"Nsb"), id="attributes of a function"),
        pytest.param(raw(ORDERED, b"N}", text("__class__"), b"Ns\x86b"), id="slots of a class"),
        pytest.param(raw(ORDERED, b")R)b"), id="state that is no dictionary"),
        pytest.param(raw(REBUILD, b"(NK\x00))tR"), id="tensor without a storage"),
    ],
)
def test_tricks_of_the_instructions(tmp_path: Path, attack: bytes) -> None:
    refused(tmp_path / "attack.pkl", attack)


def test_source_code_in_the_file_is_never_compiled(tmp_path: Path) -> None:
    """NVIDIA's own loader executes ``module_src``. Here it may hold anything."""
    source = nvidia.write_pickle(tmp_path / "net.pkl", {"G_ema": nvidia.Generator(resolution=8)})
    assert nvidia.SOURCE.encode() in source.read_bytes()
    content = read_torch(source)
    assert type(content["G_ema"]) is Record
    assert convert(source, tmp_path / "out", license="mit").parts == ("generator",)


def test_names_in_a_record_stay_data(tmp_path: Path) -> None:
    """``__setstate__`` and the like in an object's attributes are entries of a dictionary."""
    network = nvidia.Generator(resolution=8)
    network.__dict__["__setstate__"] = network.__dict__["__class__"] = "os.system"
    record = read_torch(nvidia.write_pickle(tmp_path / "net.pkl", network))
    assert type(record) is Record
    assert record.state["__class__"] == "os.system"


# --- Memory and time ------------------------------------------------------------------------------------------------


def unpickled(content: bytes) -> Any:
    return unpickle(io.BytesIO(content), "the file")


def stream(size: tuple[int, ...], stride: tuple[int, ...], claimed: int = 4) -> bytes:
    """PyTorch's older layout: one tensor over a storage of four values, of which the pickle claims another number."""
    token = object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", claimed, None) if value is token else None

    buffer = io.BytesIO()
    for head in (MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(head, buffer, 2)
    Pickler(buffer, 2).dump({"x": Call(torch._utils._rebuild_tensor_v2, token, 0, size, stride, False, {})})
    pickle.dump(["0"], buffer, 2)
    return buffer.getvalue() + struct.pack("<q", 4) + struct.pack("<4f", 0, 1, 2, 3)


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ((1 << 40,), (0,)),
        ((1 << 20, 1 << 20), (0, 0)),
        ((5,), (1,)),
        ((2,), (4,)),
        ((2,), (1 << 62,)),
        ((4,) * 9, (0,) * 9),
    ],
)
def test_tensors_larger_than_their_storage(tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    refused(tmp_path / "tensor.pt", stream(size, stride), match="damaged")


def test_tensors_within_their_storage(tmp_path: Path) -> None:
    for size, stride, values in (
        ((2, 2), (1, 2), [[0.0, 2.0], [1.0, 3.0]]),
        ((2, 2), (0, 1), [[0.0, 1.0]] * 2),
        ((), (), 0.0),
        ((0, 3), (1, 1), []),
    ):
        (tmp_path / "tensor.pt").write_bytes(stream(size, stride))
        assert read_torch(tmp_path / "tensor.pt")["x"].tolist() == values


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(b"\x8e" + struct.pack("<Q", 1 << 62) + b"xx", id="bytes"),
        pytest.param(b"\x8d" + struct.pack("<Q", 1 << 40) + b"xx", id="text"),
        pytest.param(b"\x96" + struct.pack("<Q", 1 << 40) + b"xx", id="bytearray"),
        pytest.param(b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"xx", id="number"),
    ],
)
def test_lengths_that_the_file_does_not_have(tmp_path: Path, claim: bytes) -> None:
    tracemalloc.start()
    try:
        refused(tmp_path / "claim.pkl", raw(claim), match="damaged")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_storages_that_the_file_does_not_have(tmp_path: Path) -> None:
    """Nothing is set aside for a storage whose bytes cannot follow."""
    for claimed in (3, 5, 1 << 31, 1 << 61):
        started = time.process_time()
        refused(tmp_path / "claim.pt", stream((1,), (1,), claimed), match="damaged")
        assert time.process_time() - started < 5


def test_one_storage_named_many_times_is_read_once(tmp_path: Path) -> None:
    """The memo passes the same bytes to ten thousand storages: 40 GB if each had a copy."""
    buffer = io.BytesIO()
    with pytest.warns(UserWarning, match="TypedStorage"):
        torch.save(torch.zeros(1 << 20).storage(), buffer, _use_new_zipfile_serialization=False)
    data = b"B" + struct.pack("<I", len(buffer.getvalue())) + buffer.getvalue() + b"q\x00"
    load = name("torch.storage", "_load_from_bytes") + b"q\x01"
    (tmp_path / "many.pkl").write_bytes(raw(data, load, b"](", b"h\x01h\x00\x85R" * 10_000, b"e"))
    storages = read_torch(tmp_path / "many.pkl")
    assert len(storages) == 10_000
    assert len({storage.flat.data_ptr() for storage in storages}) == 1


def test_nesting_that_doubles() -> None:
    """Billion laughs: each pair holds the one before twice. It is read as what it is, 100 pairs."""
    laughs = b"]q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(100))
    value = unpickled(raw(laughs))
    assert value[0] is value[1]
    assert value[0][0] is value[1][1]


def test_nesting_that_is_deep(tmp_path: Path) -> None:
    depth = 100_000
    value = unpickled(raw(b")" + b"\x85" * depth))
    assert len(value) == 1
    del value  # must not overflow the stack either
    refused(tmp_path / "deep.pkl", raw(b"]" * depth + b"a" * (depth - 1)), match="neither NVIDIA's")
    # hashing would follow the nesting on the C stack
    refused(tmp_path / "key.pkl", raw(b"})" + b"\x85" * depth + b"Ns"), match="damaged")


def test_too_many_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refinestyle_hub.pickles.unpickle.MAX_INSTRUCTIONS", 1000)
    assert unpickled(raw(b"N" * 997)) is None
    with pytest.raises(ModelFileError):
        unpickled(raw(b"N" * 1000))


def test_copies_of_one_argument() -> None:
    """A set is made of its argument: the same long list may not be given to it without end."""
    members = b"](" + b"".join(b"J" + struct.pack("<i", i) for i in range(1000)) + b"eq\x00"
    program = members + name("builtins", "set") + b"q\x01" + b"h\x01h\x00\x85R" * 2000
    with pytest.raises(ModelFileError):
        unpickled(raw(program))


def test_copies_of_one_text() -> None:
    """Protocol 2 encodes texts to bytes: each text of the file once, but not one of them without end."""
    long = b"X" + struct.pack("<I", 1 << 21) + b"x" * (1 << 21) + b"q\x00"
    program = long + text("latin1") + b"q\x01" + name("_codecs", "encode") + b"q\x02"
    assert unpickled(raw(program + b"h\x02h\x00h\x01\x86R")) == b"x" * (1 << 21)
    with pytest.raises(ModelFileError):
        unpickled(raw(program + b"h\x02h\x00h\x01\x86R" * 3))


def test_keys_that_collide() -> None:
    """Python's hash of a whole number is its remainder by 2^61 - 1, so large ones can be made to collide."""
    with pytest.raises(ModelFileError):
        unpickled(pickle.dumps({i * ((1 << 61) - 1): None for i in range(1, 10)}))
    addresses = {140_000_000_000_000 + 64 * i: i for i in range(10)}  # as optimisers of older PyTorch have them
    assert unpickled(pickle.dumps(addresses)) == addresses


def test_modules_that_hold_one_another(tmp_path: Path) -> None:
    """2^30 paths through 30 modules."""
    network = nvidia.Persistent()
    for _ in range(30):
        above = nvidia.Persistent()
        above.a, above.b = network, network
        network = above
    started = time.process_time()
    refused(tmp_path / "paths.pkl", nvidia.pickled({"G_ema": network}), match="not a module of a StyleGAN2")
    assert time.process_time() - started < 10


def test_a_module_that_holds_itself(tmp_path: Path) -> None:
    state = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}q\x01u"
    meta = b"}(" + text("class_name") + text("Generator") + text("state") + state + b"u\x85"
    record = name("torch_utils.persistence", "_reconstruct_persistent_obj") + meta + b"Rq\x02"
    closed = text("more") + b"h\x01" + text("again") + b"h\x02s"
    refused(tmp_path / "self.pkl", raw(b"}(", text("G_ema"), record, closed, b"u"), match="not a module")


# --- Archives -------------------------------------------------------------------------------------------------------


def archive(**changes: Any) -> bytes:
    """A sound zip of a tensor, rewritten with other options."""
    original = io.BytesIO()
    torch.save({"g_ema": {"x": torch.zeros(1000)}}, original)
    buffer = io.BytesIO()
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(buffer, "w", changes.get("compression", 0)) as new:
        for entry in old.namelist():
            if entry.endswith(changes.get("without", "nothing")):
                continue
            new.writestr(entry, changes.get("contents", {}).get(entry.rpartition("/")[2], old.read(entry)))
        for entry, content in changes.get("more", {}).items():
            new.writestr(entry, content)
    return buffer.getvalue()


def test_archives(tmp_path: Path) -> None:
    sound = archive()
    (tmp_path / "sound.pt").write_bytes(sound)
    assert torch.equal(read_torch(tmp_path / "sound.pt")["g_ema"]["x"], torch.zeros(1000))
    path = tmp_path / "net.pt"
    refused(path, archive(compression=zipfile.ZIP_DEFLATED), match="damaged")
    refused(path, archive(compression=zipfile.ZIP_LZMA), match="damaged")
    refused(path, archive(without="data.pkl"), match="damaged")
    refused(path, archive(without="data/0"), match="damaged")
    refused(path, archive(more={"other/data.pkl": b"N."}), match="damaged")
    refused(path, archive(contents={"0": b"short"}), match="damaged")
    refused(path, archive(contents={"byteorder": b"big"}), match="damaged")
    refused(path, sound[:-30], match="damaged")
    refused(path, sound.replace(b"data.pkl", b"date.pkl"), match="damaged")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(more={"archive/data/0": bytes(4000), "archive/data/1": b"", "archive/version": b"3"})
    refused(path, twice, match="damaged")


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    """1 GB of zeros in 1 MB."""
    bomb = archive(compression=zipfile.ZIP_DEFLATED, more={"archive/data/9": bytes(32 << 20)})
    tracemalloc.start()
    try:
        refused(tmp_path / "bomb.pt", bomb, match="damaged")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_entries_that_share_their_bytes(tmp_path: Path) -> None:
    """Many names for one stored entry: more bytes than the file has."""
    content = archive(more={"archive/data/9": bytes(20_000)})
    end = content.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", content[end + 16 : end + 20])[0]
    directory = content[start:end]
    last = directory[directory.rindex(b"PK\x01\x02") :]
    copies = [last.replace(b"data/9", b"data/%c" % (97 + i)) for i in range(20)]
    count = struct.unpack("<H", content[end + 10 : end + 12])[0] + len(copies)
    directory += b"".join(copies)
    ending = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    refused(tmp_path / "shared.pt", content[:start] + directory + ending, match="damaged")


# --- Other kinds of files -------------------------------------------------------------------------------------------


def test_tensorflow_pickles_are_told_what_to_do(tmp_path: Path) -> None:
    network = name("dnnlib.tflib.network", "Network") + b")\x81"
    refused(tmp_path / "tf.pkl", raw(network * 3, b"\x87"), match="legacy.py")
