"""Files of strangers: what is loaded, and why the rest is not."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import safetensors.torch
import torch
from space_parts import domain
from tiny import tiny_generator, token_set

from refinestyle_hub.config import Fingerprint, StyleGAN2Config
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.tokenfiles import domain_file, inversion_file, read_tokens


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))


@pytest.fixture
def tokens(tiny_pipe: RefineStylePipeline) -> TokenSet:
    return replace(domain(1), base=tiny_pipe.fingerprint, metadata={"name": "ink"})


def refusal(path: Any, pipe: RefineStylePipeline) -> str:
    with pytest.raises(gr.Error) as caught:
        read_tokens(path, pipe)
    assert not caught.value.print_exception
    message = str(caught.value.message)
    assert str(Path(path).parent) not in message  # where the server keeps it is nobody's business
    return message


def test_a_domain_travels_as_one_file_and_draws_the_same(tiny_pipe: RefineStylePipeline, tokens: TokenSet) -> None:
    file = domain_file(tokens, "ink")
    again = read_tokens(file, tiny_pipe)
    assert isinstance(again, TokenSet)
    assert (again.base, dict(again.metadata)) == (tiny_pipe.fingerprint, {"name": "ink"})
    first, second = (tiny_pipe.generate([1], domains={t: 0.8}, output_type="np") for t in (tokens, again))
    assert np.array_equal(first, second)
    assert domain_file(again, "ink") == file  # the same bytes


def test_an_inversion_travels_without_a_pixel(tiny_pipe: RefineStylePipeline, tokens: TokenSet) -> None:
    config = tiny_pipe.generator.config
    crop = torch.full((32, 32, 3), 77, dtype=torch.uint8)
    quad = torch.tensor([[0.0, 0.0], [0.0, 20_000.0], [20_000.0, 20_000.0], [20_000.0, 0.0]])  # of a large photo
    face = Inversion(torch.ones(config.num_ws, config.w_dim), tokens, crop, quad, (20_000, 20_000))
    file = inversion_file(replace(face, base=tiny_pipe.fingerprint))
    again = read_tokens(file, tiny_pipe)
    assert isinstance(again, Inversion)
    assert again.crop is None
    assert bytes([77] * 64) not in Path(file).read_bytes()
    first, second = (tiny_pipe.render(one, output_type="np") for one in (face, again))
    assert np.array_equal(first, second)


def test_a_domain_of_unknown_base_is_held_against_the_layers(tiny_pipe: RefineStylePipeline) -> None:
    assert isinstance(read_tokens(domain_file(domain(1), "ink"), tiny_pipe), TokenSet)


def test_another_generators_tokens_are_refused_and_both_are_named(
    tiny_pipe: RefineStylePipeline, tokens: TokenSet
) -> None:
    other = tiny_generator(seed=9).fingerprint()
    message = refusal(domain_file(replace(tokens, base=other), "ink"), tiny_pipe)
    assert message.startswith("The domain was made for another generator: ")
    assert str(other) in message
    assert str(tiny_pipe.fingerprint) in message


@pytest.mark.parametrize("lie", [True, False])
def test_layers_of_other_sizes_are_refused_whatever_the_file_says(tiny_pipe: RefineStylePipeline, lie: bool) -> None:
    wide = StyleGAN2Config(resolution=32, z_dim=16, w_dim=16, mapping_layers=2, channels={4: 24, 8: 12, 16: 10, 32: 8})
    wrong = replace(token_set(config=wide), base=tiny_pipe.fingerprint if lie else None)
    assert "made for another generator" in refusal(domain_file(wrong, "ink"), tiny_pipe)
    unknown = TokenSet({"b999.conv9": next(iter(domain(1).layers.values()))})
    assert "made for another generator" in refusal(domain_file(unknown, "ink"), tiny_pipe)
    face = Inversion(torch.zeros(3, 5), base=tiny_pipe.fingerprint if lie else None)
    assert "The face was made for another generator" in refusal(inversion_file(face), tiny_pipe)


def test_numbers_out_of_range_and_too_many_tokens(tiny_pipe: RefineStylePipeline) -> None:
    assert refusal(domain_file(domain(1, 1e9), "ink"), tiny_pipe) == messages.OUT_OF_RANGE
    assert "has 65 tokens for a layer" in refusal(domain_file(token_set(rank=65), "ink"), tiny_pipe)


@pytest.mark.parametrize("name", ["x.pt", "x.pkl", "x.npz", "x.zip", "x", "x.safetensors.exe"])
def test_other_formats_are_not_opened(tiny_pipe: RefineStylePipeline, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    assert refusal(tmp_path / name, tiny_pipe) == messages.NOT_SAFETENSORS
    assert refusal(tmp_path / "none.safetensors", tiny_pipe) == messages.NOT_SAFETENSORS


def damaged(kind: str, good: bytes) -> bytes:
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    metadata = header["__metadata__"]
    if kind == "pickle":
        return pickle.dumps({"a": 1})
    if kind == "empty":
        return b""
    if kind == "cut":
        return good[:-7]
    if kind == "no config":
        return safetensors.torch.save({"a": torch.zeros(3)})
    if kind == "other class":
        return good.replace(b'\\"class\\":\\"TokenSet\\"', b'\\"class\\":\\"TokenBad\\"')
    if kind == "nan":
        return good[: 8 + length] + b"\xff" * (len(good) - 8 - length)
    if kind == "extra":
        tensors = safetensors.torch.load(good)
        return safetensors.torch.save({**tensors, "photo": torch.zeros(3)}, metadata)
    if kind == "misshapen":
        tensors = safetensors.torch.load(good)
        return safetensors.torch.save({**tensors, "b8.conv0.p": torch.zeros(1, 1)}, metadata)
    assert kind == "long header"
    text = json.dumps({**header, "__metadata__": {**metadata, "padding": "x" * limits.MAX_HEADER}}).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + length :]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pickle", "is not a safetensors file"),
        ("empty", "is not a safetensors file"),
        ("cut", "is damaged"),
        ("no config", "holds neither a face nor a domain"),
        ("other class", "holds neither a face nor a domain"),
        ("nan", "NaN or infinite"),
        ("extra", "photo"),
        ("misshapen", "b8.conv0.p"),
        ("long header", "header"),
    ],
)
def test_damaged_and_forged_files_are_refused_with_a_reason(
    tiny_pipe: RefineStylePipeline, tokens: TokenSet, tmp_path: Path, kind: str, reason: str
) -> None:
    file = tmp_path / "ink.safetensors"
    file.write_bytes(damaged(kind, Path(domain_file(tokens, "ink")).read_bytes()))
    assert reason in refusal(file, tiny_pipe)


def test_too_large_a_file_is_not_opened(
    tiny_pipe: RefineStylePipeline, tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_TOKEN_BYTES", 1000)
    assert "A domain or a face has at most" in refusal(domain_file(tokens, "ink"), tiny_pipe)


def test_what_a_file_says_is_escaped(tiny_pipe: RefineStylePipeline, tokens: TokenSet) -> None:
    base = Fingerprint("<img src=x onerror=alert(1)>", "0" * 32)
    message = refusal(domain_file(replace(tokens, base=base), "ink"), tiny_pipe)
    assert "<img" not in message
    assert "&lt;img" in message
