"""Jobs across a fake ZeroGPU, which forks at every call; ``test_space_zerogpu`` gives these a process of their own."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from space_parts import request, style, visitor, whole
from zero_gpu import FakeZeroGPU

from refinestyle_hub.adapt import References, load_references
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import images, limits
from space.admission import Stops
from space.handlers.adapt_handlers import AdaptHandlers
from space.jobs import AdaptRun, InversionResult, Jobs, RenderSpec
from space.turns import Turns


PICTURES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
ANY = References(PICTURES, tuple("abcde"), (False,) * 5)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A fork does not take the pool of threads along."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def loaded(one_thread: None, tiny_pipe: RefineStylePipeline) -> None:
    """What PyTorch loads with the first step: once here, and not in each fork."""
    adaptation = whole(tiny_pipe).adaptation(ANY, steps=2, tokens=2)
    adaptation.step()
    adaptation.step()
    tiny_pipe.invert_crops(ANY.pictures[:1], steps=2)


def test_a_fork_has_a_thread_of_its_own() -> None:
    turns = Turns()
    here = turns.do("draw", os.getpid)
    away: int = FakeZeroGPU()(lambda: turns.do("draw", os.getpid))()
    assert away != here == os.getpid()


def test_inversion(tiny_pipe: RefineStylePipeline, stops: Stops) -> None:
    border, crop = FakeZeroGPU(), np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    work = Jobs(tiny_pipe, border)
    result = list(work.invert(crop, 3, True, 0, str(stops.flag("me", "invert"))))[-1]
    assert isinstance(result, InversionResult)
    assert np.array_equal(work.draw(result.inversion, [RenderSpec()], {})[0][0], result.reconstruction)
    stops.stop("invert", request("me"))
    stopped = list(work.invert(crop, 400, True, 0, str(stops.flag("me", "invert"))))[-1]
    assert isinstance(stopped, InversionResult)
    assert stopped.inversion.report["stopped"] == "cancelled"
    assert len(border.seconds) == 3
    with pytest.raises(gr.Error, match="nonsense"):  # the text comes through, not the name of a class
        work.draw(result.inversion, [RenderSpec({"nonsense": 1.0})], {})


def test_adaptation(tiny_pipe: RefineStylePipeline) -> None:
    run = AdaptRun(ANY, steps=5, tokens=2, seed=3, step_seconds=0.1)
    work = Jobs(whole(tiny_pipe), FakeZeroGPU())
    chunk = work.adapt(run, 2, "/nowhere")
    domain, _ = work.keep(work.adapt(chunk.run, 1, "/nowhere").run, "ink")
    drawn = work.draw((1, 2), [RenderSpec(), RenderSpec(domains={"ink": 1.0, "it": 1.0})], {"it": domain})
    assert [len(row) for row in drawn] == [2, 2]
    assert not np.array_equal(drawn[0][1], drawn[1][1])


def test_the_adapt_tab(
    tiny_pipe: RefineStylePipeline, stops: Stops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(limits, "ADAPT_STEPS", (1, 1000))
    monkeypatch.setattr(images, "load_references", functools.partial(load_references, align="none"))
    border, pictures = FakeZeroGPU(), style(tmp_path)

    def adapted(jobs: Jobs) -> dict[str, torch.Tensor]:
        on = AdaptHandlers(jobs, stops)
        *_, last = on.adapt(
            pictures, name="ink", rights=True, steps=2, tokens=2, seed=0,
            session=visitor(), request=request(),
        )  # fmt: skip
        return TokenSet.from_pretrained(last[2]).state_dict()

    away, here = adapted(Jobs(whole(tiny_pipe), border)), adapted(Jobs(whole(tiny_pipe)))
    assert len(border.seconds) == 3  # two chunks, and what comes of them
    assert all(torch.allclose(away[name], here[name], atol=1e-5) for name in away)
