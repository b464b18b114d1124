"""Truncated and mutated checkpoints, seeded: a typed error or a correct result, and nothing left behind."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
import time
from pathlib import Path

import nvidia_layout as nvidia
import pytest
import rosinality_layout as rosinality
import torch
from hostile_parts import numbered_storages, refused

from refinestyle_hub.convert import convert
from refinestyle_hub.errors import RefineStyleHubError
from refinestyle_hub.generators.base import Generator


def samples() -> dict[str, bytes]:
    """Small sound checkpoints of every layout."""
    torch.manual_seed(0)
    networks = nvidia.snapshot(G_ema=nvidia.Generator(resolution=8, mapping=1, maximum=2, z_dim=2, w_dim=2))
    theirs = rosinality.Generator({4: 2, 8: 2}, 2, 1)
    content = rosinality.checkpoint(theirs, latent_avg=torch.zeros(2))
    found = {}
    with numbered_storages():
        for file, zipped in (("zip.pt", True), ("stream.pt", False)):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            found[file] = buffer.getvalue()
        return {**found, "nvidia.pkl": nvidia.pickled(networks), "protocol2.pkl": nvidia.pickled(networks, 2)}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: a bit, a byte, an instruction, a piece cut out, doubled, moved or overwritten."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data)), rng.randint(1, 64)
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                data[at : at + 1] = rng.choice(pickletools.opcodes).code.encode("latin-1")
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                other = rng.randrange(len(data))
                data[at : at + length] = data[other : other + length]
            case 6:
                data[at : at + 8] = struct.pack("<q", rng.choice([-1, 0, 1, 1 << 31, 1 << 62]))
        if not data:
            return b""
    return bytes(data)


def test_samples_are_the_same_wherever_their_tensors_lie() -> None:
    tensors = [torch.arange(3.0), torch.zeros(2)]
    moved = [tensor.clone() for tensor in reversed(tensors)][::-1]  # both are alive: other places, another order
    contents = []
    for content in (tensors, moved):
        buffer = io.BytesIO()
        with numbered_storages():
            torch.save(content, buffer, _use_new_zipfile_serialization=False)
            contents.append((buffer.getvalue(), pickle.dumps(content)))
        assert all(map(torch.equal, torch.load(io.BytesIO(buffer.getvalue())), tensors))
    assert contents[0] == contents[1]


def fuzz(folder: Path, file: str, content: bytes, rounds: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    outcomes = {"refused": 0, "converted": 0}
    for number in range(rounds):
        (folder / file).write_bytes(mutated(content, rng))
        out = folder / f"out{number}"
        started = time.process_time()
        error = None
        try:
            convert(folder / file, out, license="mit")
        except RefineStyleHubError as caught:
            error = caught
        outcomes["refused" if error else "converted"] += 1
        assert out.exists() == (error is None)
        assert len(str(error).splitlines()) <= 3
        if error is None:  # the change was to a number, or to what is not used
            assert Generator.from_pretrained(out).config.resolution == 8
        assert time.process_time() - started < 30
    return outcomes


@pytest.mark.parametrize("file", ["zip.pt", "stream.pt", "nvidia.pkl", "protocol2.pkl"])
def test_mutated_files(tmp_path: Path, file: str) -> None:
    outcomes = fuzz(tmp_path, file, samples()[file], rounds=40, seed=1)
    assert outcomes["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("file", ["zip.pt", "stream.pt", "nvidia.pkl", "protocol2.pkl"])
def test_many_mutated_files(tmp_path: Path, file: str) -> None:
    outcomes = fuzz(tmp_path, file, samples()[file], rounds=1000, seed=2)
    assert min(outcomes.values()) > 0


def test_truncated_anywhere(tmp_path: Path) -> None:
    for file, content in samples().items():
        for part in range(1, 12):
            refused(tmp_path / file, content[: len(content) * part // 12])
