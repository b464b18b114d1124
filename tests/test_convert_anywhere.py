"""A generator is found by the names of its tensors: under any prefix, in any wrapper, in any kind of file."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import pathlib
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import nvidia_layout as nvidia
import pytest
import rosinality_layout as rosinality
import safetensors.torch
import torch
from hostile_parts import numbered_storages, refused
from torch import nn

from refinestyle_hub.convert import convert
from refinestyle_hub.errors import ModelFileError, RefineStyleHubError, UnsupportedModelError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.pickles.builders import Record
from refinestyle_hub.pickles.torch_files import read_torch


State = dict[str, Any]


@pytest.fixture(scope="module")
def state() -> State:
    """The state dict of a small generator under rosinality's names."""
    torch.manual_seed(0)
    return dict(rosinality.Generator({4: 4, 8: 4}, 4, 2).state_dict())


@pytest.fixture(scope="module")
def nvidia_state() -> State:
    """The state dict of a small generator under NVIDIA's names."""
    torch.manual_seed(0)
    return dict(nvidia.Generator(resolution=8, mapping=2, maximum=4, z_dim=4, w_dim=4).state_dict())


def under(prefix: str, tensors: State) -> State:
    return {prefix + name: t for name, t in tensors.items()}


def converted(path: Path) -> Generator:
    out = path.parent / "out"
    convert(path, out, license="mit")
    return Generator.from_pretrained(out)


def is_same(generator: Generator, state: State) -> bool:
    """Whether it has the weights of a state dict of either layout."""
    ours = generator.state_dict()
    name = "input.input" if "input.input" in state else "synthesis.b4.const"
    return torch.equal(ours["synthesis.b4.const"].flatten(), state[name].float().flatten())


AVERAGE = torch.arange(4.0)
WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "bare with its mean latent": lambda s: {**s, "latent_avg": AVERAGE},
    "g_ema": lambda s: {"g_ema": s, "latent_avg": AVERAGE},
    "params_ema": lambda s: {"params_ema": s},
    "state_dict of e4e and pSp": lambda s: {
        "state_dict": {**under("decoder.", s), "encoder.body.0.weight": torch.zeros(2)},
        "latent_avg": AVERAGE.repeat(2, 1),
        "opts": argparse.Namespace(device=torch.device("cuda:0")),
    },
    "compiled": lambda s: under("_orig_mod.", s),
    "parallel and compiled": lambda s: {"model": under("module._orig_mod.", s)},
    "lightning": lambda s: {"state_dict": under("net.generator.", s), "epoch": 3, "hyper_parameters": {}},
    "latent_avg as an array": lambda s: {"g_ema": s, "latent_avg": AVERAGE.numpy()},
    "parameters": lambda s: {name: nn.Parameter(t) for name, t in s.items()},
    "arrays": lambda s: {"g_ema": {name: t.numpy() for name, t in s.items()}},
    "ordered": lambda s: {"g_ema": collections.OrderedDict(s)},
    "half": lambda s: {"g_ema": {name: t.half() for name, t in s.items()}},
    "double": lambda s: {name: t.double() for name, t in s.items()},
    "both": lambda s: {"g": {n: t + 1 for n, t in s.items()}, "g_ema": s},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("ending", [".CKPT", ".pkl"])
def test_wrappers(tmp_path: Path, state: State, wrapper: str, ending: str) -> None:
    content = WRAPPERS[wrapper](state)
    path = tmp_path / f"net{ending}"
    if ending == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=len(wrapper) % 2 == 0)
    found = converted(path)
    if wrapper != "half":
        assert is_same(found, state)
    if "latent_avg" in str(content)[:10] or (isinstance(content, dict) and "latent_avg" in content):
        assert torch.equal(found.mean_latent, AVERAGE)


@pytest.mark.parametrize("prefix", ["", "decoder.", "g_ema.", "a.b.c."])
@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_both_layouts_in_both_kinds_of_file(
    tmp_path: Path, state: State, nvidia_state: State, layout: str, prefix: str
) -> None:
    weights = state if layout == "rosinality" else nvidia_state
    flat = {name: t.contiguous() for name, t in under(prefix, weights).items()}
    for file, save in (("a.safetensors", safetensors.torch.save_file), ("b.pt", torch.save)):
        folder = tmp_path / file.partition(".")[0]
        folder.mkdir()
        save(flat, folder / file)
        assert is_same(converted(folder / file), weights)
    (tmp_path / "a" / "a.safetensors").rename(tmp_path / "wrong-ending.pt")  # known by its contents
    assert is_same(converted(tmp_path / "wrong-ending.pt"), weights)


def test_what_is_left_out_is_listed(tmp_path: Path, state: State) -> None:
    content = {
        "state_dict": {**under("decoder.", state), "encoder.x": torch.zeros(1)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}},
        "step": 7,
        "latent_avg": AVERAGE,
    }
    torch.save(content, tmp_path / "net.pt")
    done = convert(tmp_path / "net.pt", tmp_path / "out", license="mit")
    assert done.left_out == ("state_dict.encoder", "optimizer", "step")


class EasyDict(dict[str, Any]):
    """As dnnlib and others have it."""


class Colour(enum.Enum):
    """A class that the reader does not know."""

    red = 1


class Slots:
    """Without a dictionary."""

    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


UNKNOWN: dict[str, Any] = {
    "device": torch.device("cuda:1"),
    "path": pathlib.PurePosixPath("/tmp/x"),
    "counter": collections.Counter({"a": 1, ("b", 2): 3}),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "easydict": EasyDict(a=1),
    "namespace": argparse.Namespace(a=argparse.Namespace(b=torch.float16)),
    "dtype": torch.float32,
    "size": torch.Size([1, 2]),
    "enum": Colour.red,
    "slots": Slots(),
    "set": {1, "a"},
    "frozenset": frozenset({1}),
    "class": argparse.Namespace,
    "function": collections.namedtuple,
    "deque": collections.deque([1, 2]),
    "array of objects": np.array([{}, None], dtype=object),
    "array of texts": np.array(["a", "b"]),
    "numpy scalar": np.float64(1.0),
    "random state": np.random.RandomState(0).get_state(),
    "generator": torch.Generator().get_state(),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "slice": slice(1, 2),
    "range": range(3),
    "ellipsis": ...,
    "bytes": b"x",
    "none key": {None: 1, 2.5: 2, True: 3},
    "module": nn.Linear(1, 1),
    "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), 1).state_dict(),
}


@pytest.mark.parametrize("form", ["zip", "stream", "pickle2", "pickle5"])
@pytest.mark.filterwarnings("ignore")  # of PyTorch's schedulers
def test_objects_that_no_reader_knows_are_inert(tmp_path: Path, state: State, form: str) -> None:
    path, before = tmp_path / "net.pt", set(sys.modules)
    for content in ({"extra": UNKNOWN}, *({"extra": value} for value in UNKNOWN.values())):
        whole = {**content, "g_ema": state, "latent_avg": AVERAGE} if content["extra"] is UNKNOWN else content
        if form.startswith("pickle"):
            path.write_bytes(pickle.dumps(whole, protocol=int(form[-1])))
        else:
            torch.save(whole, path, _use_new_zipfile_serialization=form == "zip")
        assert "extra" in read_torch(path)
        if whole is not content:
            assert is_same(converted(path), state)
    assert set(sys.modules) == before


def test_a_whole_module_that_was_pickled(tmp_path: Path, state: State) -> None:
    network = rosinality.Generator({4: 4, 8: 4}, 4, 2)
    network.load_state_dict(state)
    torch.save({"model": nn.DataParallel(network)}, tmp_path / "net.pt")
    assert is_same(converted(tmp_path / "net.pt"), state)


def test_arrays_are_tensors(tmp_path: Path) -> None:
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.uint16)}
    values["c"] = np.asfortranarray(values["a"])
    for protocol in (2, 3, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
        for name, found in read_torch(tmp_path / "a.pkl").items():
            assert type(found) is Record
            assert np.array_equal(found.state["values"].numpy(), values[name])


def test_networks_of_other_kinds_are_told(tmp_path: Path) -> None:
    torch.save({"G_ema": {"synthesis.input.freqs": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedModelError, match="StyleGAN3"):
        convert(tmp_path / "a.pt", tmp_path / "out", license="mit")
    torch.save({"params_ema": {"style_conv1.modulated_conv.weight": torch.zeros(1)}}, tmp_path / "b.pt")
    with pytest.raises(ModelFileError, match="it holds params_ema"):
        convert(tmp_path / "b.pt", tmp_path / "out", license="mit")


def test_a_mean_latent_of_another_width(tmp_path: Path, state: State) -> None:
    torch.save({"g_ema": state, "latent_avg": torch.zeros(2, 7)}, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match="latent_avg is"):
        convert(tmp_path / "a.pt", tmp_path / "out", license="mit")


# --- Hostile files, of the kinds that are read now ------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


RAN: list[str] = []


def test_nothing_runs_beside_a_sound_generator(tmp_path: Path, state: State) -> None:
    """Calls of unknown functions are data, also where they would run if they were called."""
    content = {"g_ema": state, "latent_avg": AVERAGE, "extra": Call(trap, "it ran")}
    torch.save(content, tmp_path / "net.pt")
    assert is_same(converted(tmp_path / "net.pt"), state)
    assert RAN == []
    torch.load(tmp_path / "net.pt", weights_only=False)
    assert RAN == ["it ran"]  # as PyTorch's own loader would


def trap(text: str) -> None:
    """What a hostile file calls."""
    RAN.append(text)


def test_mutated_wrappers(tmp_path: Path, state: State) -> None:
    """Changed bytes anywhere: a typed error or a sound model, nothing imported, and time that is bounded."""
    from test_convert_fuzz import mutated

    content = {"state_dict": under("decoder.", state), "latent_avg": AVERAGE.numpy(), "opts": UNKNOWN["namespace"]}
    content |= {name: UNKNOWN[name] for name in ("counter", "enum", "slots", "array of objects", "defaultdict")}
    stream = io.BytesIO()
    with numbered_storages():
        torch.save(content, stream, _use_new_zipfile_serialization=False)
        sources = stream.getvalue(), pickle.dumps(content)
    rng, before = random.Random(3), set(sys.modules)
    outcomes = []
    for number in range(150):
        (tmp_path / "net.pt").write_bytes(mutated(sources[number % 2], rng))
        try:
            convert(tmp_path / "net.pt", tmp_path / f"out{number}", license="mit")
            outcomes.append(0)
        except RefineStyleHubError as error:
            outcomes.append(len(str(error).splitlines()))
    assert set(outcomes) <= {0, 1, 2, 3}
    assert len(set(outcomes)) > 1
    assert not {name for name in set(sys.modules) - before if not name.startswith(("encodings", "refinestyle_hub"))}


def test_many_arrays_of_the_same_bytes(tmp_path: Path) -> None:
    """Each array is a copy: the file must have the bytes for all of them."""
    data = b"B" + (1 << 21).to_bytes(4, "little") + bytes(1 << 21) + b"q\x00"
    dtype = b"cnumpy\ndtype\nX\x02\0\0\0f8K\0K\x01\x87R(K\x03X\x01\0\0\0<NNNJ" + b"\xff" * 4 + b"K\0tbq\x01"
    make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
    build = make + b"(K\x01J\0\0\x04\0\x85h\x01\x89h\0tb"
    sound = b"\x80\x03]" + data + dtype + b"00" + build + b"a."
    (tmp_path / "sound.pkl").write_bytes(sound)
    assert read_torch(tmp_path / "sound.pkl")[0].state["values"].numel() == 1 << 18
    content = b"\x80\x03]" + data + dtype + b"00" + (build + b"a") * 40 + b"."
    refused(tmp_path / "a.pkl", content, match="damaged")
