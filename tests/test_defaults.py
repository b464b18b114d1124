"""What other libraries may have changed: types and devices by default, gradients, precision, compiled networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refinestyle_hub.errors import ConfigError, ShapeError
from refinestyle_hub.hub.search import domain_info
from refinestyle_hub.pipeline import RefineStylePipeline


PICTURE = Image.fromarray((np.arange(32 * 32 * 3).reshape(32, 32, 3) % 251).astype(np.uint8))


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_pipeline_dir: Any) -> RefineStylePipeline:
    """A pipeline of 32 px with random weights."""
    return RefineStylePipeline.from_pretrained(tiny_pipeline_dir)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def work(folder: Any) -> list[Any]:
    """A little of everything: loading, drawing, inverting, adapting."""
    pipe = RefineStylePipeline.from_pretrained(folder)
    drawn = pipe.generate([0, 1], output_type="np")
    face = pipe.invert(PICTURE, aligned=True, steps=2, w_steps=1)
    again = pipe.render(face, output_type="np")
    domain = pipe.adapt([PICTURE], steps=2, align="none")
    return [drawn, again, pipe.render(face, domains={domain: 0.5}, output_type="np")]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda: default_dtype(torch.float64), id="float64"),
        pytest.param(lambda: torch.device("meta"), id="another device"),
        pytest.param(torch.no_grad, id="no gradients"),
        pytest.param(torch.inference_mode, id="inference mode"),
        pytest.param(lambda: np.errstate(all="raise"), id="numpy raises"),
    ],
)
def test_defaults_of_others_change_nothing(tiny_pipeline_dir: Any, changed: Any) -> None:
    plain = work(tiny_pipeline_dir)
    with changed() or nullcontext():
        found = work(tiny_pipeline_dir)
    for before, after in zip(plain, found, strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_inverts_and_adapts(tiny_pipeline_dir: Any, dtype: torch.dtype) -> None:
    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir, dtype=dtype)
    assert pipe.generator.mean_latent.dtype == dtype
    face = pipe.invert(PICTURE, aligned=True, steps=2, w_steps=1)
    domain = pipe.adapt([PICTURE], steps=1, align="none")
    assert np.isfinite(pipe.render(face, domains={domain: 1.0}, output_type="np")).all()
    assert pipe.to(torch.float32).generator.mean_latent.dtype == torch.float32


class Wrapped(torch.nn.Module):
    """As torch.compile wraps a network, without compiling it: a module that has the other as ``_orig_mod``."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._orig_mod(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)


def test_compiled_generators_draw_invert_and_adapt(tiny_pipeline_dir: Any) -> None:
    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir)
    pipe.generator = Wrapped(pipe.generator)  # type: ignore[assignment]
    face = pipe.invert(PICTURE, aligned=True, steps=1)
    domain = pipe.adapt([PICTURE], steps=1, align="none")
    assert pipe.render(face, domains={domain: 1.0}).size == (32, 32)
    assert isinstance(torch.compile(torch.nn.Linear(1, 1))._orig_mod, torch.nn.Linear)  # the name is PyTorch's


NONSENSE: list[tuple[Any, str]] = [
    (lambda p: p.generate("0-3"), "not '0-3'"),
    (lambda p: p.generate(None), "not None"),
    (lambda p: p.generate([0.5]), "not 0.5"),
    (lambda p: p.generate([True]), "not True"),
    (lambda p: p.generate([]), "at least one seed"),
    (lambda p: p.generate([0], truncation=None), "truncation must be a finite number"),
    (lambda p: p.generate([0], truncation="a"), "truncation must be a finite number"),
    (lambda p: p.generate([0], domains=["sketch"]), r"domains are strengths by name.*not \['sketch'\]"),
    (lambda p: p.generate([0], domains="sketch"), "domains are strengths by name"),
    (lambda p: p.generate([0], edits=["smile"]), "edits are strengths by name"),
    (lambda p: p.generate([0], resolution=None, output_type="jpg"), "output_type must be"),
    (lambda p: p.generate([0], resolution="big"), "resolution must be a whole number"),
    (lambda p: p.invert(PICTURE, aligned=True, steps=1.5), "steps must be a whole number"),
    (lambda p: p.invert(PICTURE, aligned=True, steps=-1), "steps must be a whole number of 0 or more"),
    (lambda p: p.invert(PICTURE, aligned=True, steps=1, seed=None), "seed must be a whole number"),
    (lambda p: p.invert(PICTURE, aligned=True, steps=1, seed=-1), "seed must be a whole number"),
    (lambda p: p.adapt([PICTURE], steps=0), "steps must be a whole number of 1 or more"),
    (lambda p: p.adapt([PICTURE], tokens=0), "tokens must be a whole number"),
    (lambda p: p.adapt([PICTURE], steps="many"), "steps must be a whole number"),
    (lambda p: p.adapt(None), "not None"),
    (lambda p: p.adapt([PICTURE], step=3), "Did you mean 'steps'"),
    (lambda p: p.generator(np.zeros((1, 8, 8))), "not a ndarray"),
    (lambda p: p.generator.map(torch.zeros(1, p.generator.config.z_dim), 0.5, 1.5), "cutoff must be"),
    (lambda p: p.render("me.safetensors"), "A face is an Inversion"),
    (lambda p: p.render(None), "A face is an Inversion"),
    (lambda p: p.to("nonsense"), "The device 'nonsense' cannot be used here"),
    (lambda p: p.to(torch.int32), "dtype must be a floating-point type"),
    (lambda p: type(p).from_pretrained("x/y", torch_dtype=torch.float16), "Did you mean 'dtype'"),
    (lambda p: type(p.generator).from_pretrained("x/y", dtype="float16"), "dtype must be a floating-point type"),
    (lambda p: p.push_to_hub("me/faces", privat=True), "Did you mean 'private'"),
    (lambda p: domain_info("me/sketch", revison="v1"), "Did you mean 'revision'"),
]


@pytest.mark.parametrize(("call", "reason"), NONSENSE)
def test_nonsense_is_told_in_our_words(tiny_pipeline: RefineStylePipeline, call: Any, reason: str) -> None:
    with pytest.raises((ConfigError, ShapeError), match=reason) as caught:
        call(tiny_pipeline)
    assert len(str(caught.value).splitlines()) <= 3


def test_numbers_of_every_kind(tiny_pipeline: RefineStylePipeline) -> None:
    expected = tiny_pipeline.generate([0, 1], output_type="np")
    for seeds in (range(2), np.arange(2), torch.arange(2), (0.0, 1.0), iter([0, 1]), np.array([0, 1], dtype=np.uint8)):
        assert np.array_equal(tiny_pipeline.generate(seeds, output_type="np"), expected)
    assert np.array_equal(tiny_pipeline.generate(1, output_type="np")[0], expected[1])
    assert np.array_equal(tiny_pipeline.generate(torch.tensor(1), output_type="np")[0], expected[1])
    face = tiny_pipeline.invert(
        np.asarray(PICTURE), aligned=True, steps=1.0, w_steps=np.int64(1), seed=torch.tensor(0)
    )
    again = tiny_pipeline.invert(PICTURE, aligned=True, steps=1, w_steps=1, seed=0)
    assert torch.equal(face.w_plus, again.w_plus)
