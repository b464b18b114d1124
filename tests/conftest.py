"""Fixtures shared by all tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from hub_server import HubServer
from PIL import Image

from refinestyle_hub.pipeline import RefineStylePipeline


def pytest_configure() -> None:
    """Workers share the cores, and so do the processes that they start."""
    if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, len(os.sched_getaffinity(0)) // int(count)) if hasattr(os, "sched_getaffinity") else 1
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the portraits, labels, domains and photos (DESIGN.md, section 5)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("REFINESTYLE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; name its folder in REFINESTYLE_DATA")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """The command line, called with its arguments: its exit status, what it printed, and its errors."""
    from refinestyle_hub.cli import main

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the perceptual distance comes from the installed weights
    monkeypatch.setenv("COLUMNS", "120")

    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return call


@pytest.fixture
def astronaut() -> Image.Image:
    """A real photo, 512 x 512: Eileen Collins, NASA, public domain."""
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on the loopback, with huggingface_hub's own client pointed at it and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, close_session

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage protocol is not spoken here
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between the client's retries
        yield server
        close_session()


@pytest.fixture
def pipeline(hub: HubServer, tmp_path: Path) -> str:
    """me/faces on the Hub, a pipeline; its commit."""
    from remote_model import host_pipeline

    return host_pipeline(hub, tmp_path / "pipeline")


@pytest.fixture(scope="module")
def closed_loops() -> Iterator[None]:
    """Closes the event loops that Gradio leaves open: one for each lock that is made outside of a running loop.

    Left to the garbage collector, their ResourceWarnings would fail whichever test runs when it next does.
    """
    made: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def noted() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", noted)
        yield
    for loop in made:
        loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def tiny_pipeline_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of 32 px with random weights, and directions of some of the names that shipped models have."""
    from tiny import TINY, tiny_generator

    from refinestyle_hub.editing.directions import Direction, DirectionInfo, Directions
    from refinestyle_hub.storage.fingerprint import fingerprint

    rng = torch.Generator().manual_seed(0)
    generator = tiny_generator()
    names = ("smile", "mouth_open", "age", "glasses", "hair_length", "yaw", "sparkle")
    found = {name: Direction(torch.randn(1, TINY.w_dim, generator=rng), DirectionInfo()) for name in names}
    folder = tmp_path_factory.mktemp("models") / "tiny-32"
    RefineStylePipeline(generator, directions=Directions(found, fingerprint(generator))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipe(tiny_pipeline_dir: Path) -> RefineStylePipeline:
    """The tiny pipeline, loaded; its perceptual distance is the one that needs no network."""
    from refinestyle_hub.losses.perceptual import Perceptual

    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir)
    pipe.perceptual = Perceptual.load("st-lpips-alex")
    return pipe
