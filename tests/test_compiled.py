"""torch.compile as an offer: the same pictures, a bounded number of graphs, and no failure where nothing compiles."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import distance, latent, tiny_generator, token_set
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from refinestyle_hub import Generator, RefineStylePipeline
from refinestyle_hub.cli import main
from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.generators import buckets
from refinestyle_hub.runtime import compiled
from refinestyle_hub.runtime.compiled import SWITCH, Compiled, wanted


SMALL = StyleGAN2Config(8, 8, 8, 1, {4: 6, 8: 5})  # tracing costs a second a layer


def new(monkeypatch: pytest.MonkeyPatch) -> Compiled[Tensor]:
    """A beginning: nothing is compiled yet."""
    torch._dynamo.reset()
    monkeypatch.setattr(buckets, "SYNTHESIS", Compiled(buckets.SYNTHESIS.function))
    return buckets.SYNTHESIS


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """How often a graph was made; nothing is compiled to code."""
    new(monkeypatch)
    counter = CompileCounter()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    return counter


def pair() -> tuple[Generator, Generator]:
    generator, plain = tiny_generator(0, SMALL), tiny_generator(0, SMALL)
    generator.compile()
    return generator, plain


# The function is as small as C++ can be: for a whole generator a compiler takes a minute. It has a process of its own,
# since inductor brings setuptools, which does not bear whatever else was imported in that of the tests.
COMPILED = """
import torch
from refinestyle_hub.runtime.compiled import Compiled, _keep_on_disk

_keep_on_disk()  # before inductor chooses a folder of its own, as it does when it is imported
from torch import _inductor
from torch._inductor import cpu_vec_isa

def activated(network, x):
    return torch.nn.functional.leaky_relu(x + network.bias, 0.2) * 2

cpu_vec_isa.valid_vec_isa_list = list  # to try each one takes longest
made, network, x = Compiled(activated), torch.nn.Linear(8, 8), torch.arange(64.0).reshape(8, 8) - 32
with torch.no_grad(), _inductor.config.patch(compile_threads=1, cpp_cache_precompile_headers=False):
    torch.testing.assert_close(made(network, x), activated(network, x))
assert made.kinds and not made.failed
"""


def test_what_is_compiled_is_the_same_and_kept_on_disk(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ASSETS_CACHE": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", COMPILED], check=True, env=environment)
    assert any((tmp_path / "refinestyle-hub" / "compiled").rglob("*.so"))


def test_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    new(monkeypatch)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    tokens, found = token_set(0, 3, config=SMALL), []
    for generator in pair():
        w_plus = latent(3, 0, SMALL).requires_grad_()
        found.append(torch.autograd.grad(generator(w_plus, tokens).square().sum(), w_plus)[0])
    assert distance(*found) < 1e-5 * float(found[1].abs().max())
    assert not buckets.SYNTHESIS.failed


def test_few_graphs_for_all_batches_tokens_and_resolutions(counter: CompileCounter) -> None:
    generator, plain = pair()

    def same(n: int, *tokens: Any, **how: Any) -> int:
        w_plus = latent(n, n, SMALL)
        with torch.no_grad():
            assert distance(generator(w_plus, *tokens, **how), plain(w_plus, *tokens, **how)) < 1e-5
        return counter.frame_count

    assert max(same(n) for n in range(1, 12)) == 4  # 8, 4, 2, 1
    assert max(same(1, token_set(rank, rank, config=SMALL), 0.5) for rank in (1, 3, 8)) == 5
    assert max(same(1, token_set(rank, rank, config=SMALL)) for rank in (9, 16)) == 6
    several = [token_set(0, 2, config=SMALL), None, token_set(1, 7, "broadcast", "pre", bias=True, config=SMALL)]
    assert same(3, several, [0.1, 1.0, -2.0]) == 8  # 2 and 1, with a bias for each
    assert same(3, several, [1.0, 0.0, 0.5], resolution=4) == same(3, several) == 8
    assert same(4, None, noise=generator.noise(4, torch.Generator().manual_seed(0))) == 9
    assert same(1, token_set(config=SMALL), 0.0) == 9  # the plain picture


def test_beyond_the_limit_there_are_no_more_graphs(counter: CompileCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LIMIT", 2)
    generator, plain = pair()
    for n in (1, 2, 4, 8, 1):
        with torch.no_grad():
            torch.testing.assert_close(generator(latent(n, 0, SMALL)), plain(latent(n, 0, SMALL)))
    assert counter.frame_count == 2


def test_copies_of_a_generator_share_its_graphs(counter: CompileCounter) -> None:
    generator, _ = pair()
    other = type(generator).from_state(SMALL, tiny_generator(1, SMALL).state_dict()).requires_grad_(False)
    plain = tiny_generator(1, SMALL)
    other.compile()
    w_plus = latent(1, 0, SMALL)
    with torch.no_grad():
        generator(w_plus)
        assert distance(other(w_plus), plain(w_plus)) < 1e-5
    assert counter.frame_count == 1


def test_an_error_of_the_compiler_is_a_note(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such instruction\nand so on")

    made = new(monkeypatch)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    generator, plain = pair()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            assert torch.equal(generator(latent(1, 0, SMALL)), plain(latent(1, 0, SMALL)))
    assert made.failed
    (note,) = caplog.messages
    assert note.startswith("torch.compile failed, so nothing more is compiled")
    assert "\n" not in note


def test_without_a_compiler_pictures_are_drawn_all_the_same(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from refinestyle_hub import RefineStylePipeline as P; P.from_pretrained(sys.argv[1]).generate(0)"
    )
    places = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "CXX": str(tmp_path / "none"), "CUDA_HOME": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_pipeline_dir)],
        env={**os.environ, SWITCH: "1", **places},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CUDA" not in line] == [compiled.NO_COMPILER]


@pytest.mark.parametrize(
    ("variable", "switch"), [(compiled.CACHE, "0"), (compiled.CACHE, "1"), ("HF_ASSETS_CACHE", "1")]
)
def test_a_cache_that_cannot_be_written_costs_no_picture(
    variable: str, switch: str, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    """PyTorch's own folder serves. Steps need one even where nothing is compiled."""
    code = (
        "import sys; from refinestyle_hub import RefineStylePipeline as P; pipe = P.from_pretrained(sys.argv[1]); "
        "pipe.invert_crops(pipe.generate(0, output_type='pt'), steps=2)"
    )
    (tmp_path / "file").touch()
    places = {variable: str(tmp_path / "file" / "cache"), "CXX": str(tmp_path / "none"), "CUDA_HOME": ""}
    found = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_pipeline_dir)],
        env={**found, SWITCH: switch, **places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "CUDA" not in line]
    if variable == compiled.CACHE:
        assert notes.pop(0).startswith(f"{variable} names {places[variable]}, which cannot be written")
    assert set(notes) == ({compiled.NO_COMPILER} if switch == "1" else set())


def test_behind_nobody_waits(counter: CompileCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_behind", None)
    compiled.compile_behind()
    hold, done = threading.Event(), threading.Event()
    assert compiled._behind is not None
    compiled._behind.put(hold.wait)
    generator, plain = pair()
    w_plus = latent(1, 0, SMALL)
    with torch.no_grad():
        assert torch.equal(generator(w_plus), plain(w_plus))
        assert counter.frame_count == 0
        hold.set()
        compiled._behind.put(done.set)
        assert done.wait(60)
        assert counter.frame_count == 1
        assert distance(generator(w_plus), plain(w_plus)) < 1e-5
    assert counter.frame_count == 1
    assert buckets.SYNTHESIS._ready == buckets.SYNTHESIS.kinds


def test_who_asks_for_it(tiny_pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    load = RefineStylePipeline.from_pretrained
    assert not load(tiny_pipeline_dir).generator.compiled
    assert load(tiny_pipeline_dir, compile=True).generator.compiled
    assert Generator.from_pretrained(tiny_pipeline_dir, subfolder="generator", compile=True).compiled
    monkeypatch.setenv(SWITCH, "1")
    assert load(tiny_pipeline_dir).generator.compiled
    assert not load(tiny_pipeline_dir, compile=False).generator.compiled
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(ConfigError, match="is 1 to compile and 0 not to, not 'yes'"):
        wanted(None)


@pytest.mark.parametrize("option", [True, False])
def test_the_command_line_asks_for_it(
    option: bool, counter: CompileCounter, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    arguments = ["generate", str(tiny_pipeline_dir), "--seeds", "0-1", "--out", str(tmp_path), *["--compile"] * option]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert counter.frame_count == option
