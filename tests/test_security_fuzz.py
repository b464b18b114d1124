"""Mutated model files, bounded and seeded: a typed error or a correct result, nothing else."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from hostile_parts import DOMAIN, WEIGHTS
from safetensors.torch import save as safetensors_save

from refinestyle_hub.errors import RefineStyleHubError
from refinestyle_hub.storage.tensors import encode_tensors, read_header, read_tensors
from refinestyle_hub.tokens.token_set import TokenSet


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, overwrite or shuffle some bytes, mostly in the header, where all decisions are made."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        end = len(data) if rng.random() < 0.2 else min(len(data), 3000)
        at = rng.randrange(max(end, 1))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.choice((1, 2, 8, 100))]
        elif kind == 2:
            data[at:at] = rng.choice((b"\0", b'"', b"{", b"}", b",", b"9", b"-", b"NaN", b'"a":1,', b"\xff\xfe"))
        elif kind == 3:
            data[at] = rng.choice(b'0123456789"{}[]:,\\eE.-\0\xff')
        elif kind == 4:
            data[:8] = struct.pack("<Q", rng.choice((0, 1, 2, len(data), 1 << 63, rng.randrange(4000))))
        else:
            other = rng.randrange(max(end, 1))
            size = rng.choice((1, 4, 20))
            data[at : at + size] = data[other : other + size]
    return bytes(data)


def outcome(load: Callable[[], dict[str, torch.Tensor]], template: dict[str, torch.Tensor]) -> str:
    refusal = ""
    try:
        loaded = load()
    except RefineStyleHubError as error:
        refusal = str(error)
    if refusal:
        assert refusal.count("\n") <= 2
        assert len(refusal) < 2000
        return "refused"
    assert loaded.keys() == template.keys()
    for name, tensor in template.items():
        assert loaded[name].shape == tensor.shape
        assert loaded[name].dtype == tensor.dtype
        assert bool(loaded[name].float().isfinite().all())
    return "loaded"


def test_fuzzed_weights(tmp_path: Path) -> None:
    template = {"b4.p": torch.randn(2, 3), "b4.q": torch.randn(2, 5), "b4.pre": torch.tensor([True, False])}
    content = encode_tensors(template, {"class": "TokenSet"}, torch.float32)
    rng = random.Random(0)
    path = tmp_path / WEIGHTS
    seen = []
    for _ in range(1000):
        path.write_bytes(mutate(content, rng))
        seen.append(outcome(lambda: read_tensors(path, template), template))
    assert 50 < seen.count("loaded") < 800, "mutations of values load, of the structure do not"


def test_fuzzed_folders(domain: Path) -> None:
    """The whole way in: config, weights and their agreement."""
    originals = {name: (domain / name).read_bytes() for name in ("config.json", WEIGHTS)}
    template = DOMAIN.state_dict()
    rng = random.Random(1)
    seen = []
    for _ in range(400):
        for name, content in originals.items():
            (domain / name).write_bytes(mutate(content, rng) if rng.random() < 0.6 else content)
        seen.append(outcome(lambda: TokenSet.from_pretrained(domain).state_dict(), template))
    assert seen.count("refused") > 100
    assert seen.count("loaded") > 30


def test_fuzzed_config_alone(domain: Path) -> None:
    """Weights without a config of their own: all depends on config.json."""
    (domain / WEIGHTS).write_bytes(safetensors_save(DOMAIN.state_dict()))
    assert read_header(domain / WEIGHTS).config is None
    content = (domain / "config.json").read_bytes()
    template = DOMAIN.state_dict()
    rng = random.Random(2)
    for _ in range(500):
        (domain / "config.json").write_bytes(mutate(content, rng))
        outcome(lambda: TokenSet.from_pretrained(domain).state_dict(), template)
