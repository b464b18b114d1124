"""Fixtures shared by all tests."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import skimage.data
import torch
from hub_server import HubServer
from PIL import Image

from refinestyle_hub.pipeline import RefineStylePipeline


if TYPE_CHECKING:
    import gradio as gr
    from gradio_client import Client

    from refinestyle_hub.train.encoder_settings import EncoderTraining
    from space.admission import Stops


def pytest_configure() -> None:
    """No test asks the real Hub. Workers share the cores, and so do the processes that they start."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported; the fixture ``hub`` lifts it
    if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, len(os.sched_getaffinity(0)) // int(count)) if hasattr(os, "sched_getaffinity") else 1
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that at the end no worker waits long for another."""

    def is_slow(item: pytest.Item) -> bool:
        return any(item.get_closest_marker(name) for name in ("slow", "browser"))

    slow = {item.path for item in items if is_slow(item)}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the portraits, labels, domains and photos."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("REFINESTYLE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; name its folder in REFINESTYLE_DATA")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """The command line, called with its arguments: its exit status, what it printed, and its errors."""
    from refinestyle_hub.cli import main

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
def domain(tmp_path: Path) -> Path:
    """The folder of a domain of random tokens."""
    from hostile_parts import DOMAIN

    DOMAIN.save_pretrained(tmp_path / "domain")
    return tmp_path / "domain"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on the loopback, with huggingface_hub's own client pointed at it and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, close_session

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with HubServer() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
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

    rng = torch.Generator().manual_seed(0)
    generator = tiny_generator()
    names = ("smile", "mouth_open", "age", "glasses", "hair_length", "yaw", "sparkle")
    found = {name: Direction(torch.randn(1, TINY.w_dim, generator=rng), DirectionInfo()) for name in names}
    folder = tmp_path_factory.mktemp("models") / "tiny-32"
    RefineStylePipeline(generator, directions=Directions(found, generator.fingerprint())).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipe(tiny_pipeline_dir: Path) -> RefineStylePipeline:
    """The tiny pipeline, loaded; its perceptual distance is the one that needs no network."""
    from refinestyle_hub.losses.perceptual import Perceptual

    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir)
    pipe.perceptual = Perceptual.load("st-lpips-alex")
    return pipe


# --- Training of the encoder ---


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a generator and a discriminator of 16 px."""
    from encoder_runs import make_model

    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def pictures(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of twenty pictures that its generator drew."""
    from encoder_runs import make_pictures

    return make_pictures(tmp_path_factory.mktemp("all") / "pictures", model)


@pytest.fixture
def tiny(model: Path, pictures: Path, tmp_path: Path) -> EncoderTraining:
    """The settings of a short run with these."""
    from encoder_runs import settings

    return settings(model, pictures, tmp_path / "run")


# --- The demo ---


@pytest.fixture
def photo(tmp_path: Path, astronaut: Image.Image) -> str:
    """A file with one face."""
    astronaut.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stops:
    """The Stop buttons, with their files in a cache of this test."""
    from space.admission import Stops

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return Stops()


@pytest.fixture(scope="module")
def demo(tiny_pipe: RefineStylePipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    """The app, with short adaptations and short turns."""
    from space_parts import whole

    from refinestyle_hub.adapt import load_references
    from refinestyle_hub.faces.identity import Likeness
    from space import images, limits
    from space.handlers import photo_handlers
    from space.ui import build

    with pytest.MonkeyPatch.context() as patch:
        # Apps that share a cache delete each other's pictures as they close, where they are equal.
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(limits, "ADAPT_STEPS", (2, 400))
        patch.setattr(limits, "TURN_SECONDS", 0.5)
        # To look for faces where there are none takes long; test_space_adapt does it.
        patch.setattr(photo_handlers, "likeness", lambda a, b: Likeness(0.32, 0.01))
        patch.setattr(images, "load_references", functools.partial(load_references, align="none"))
        yield build(whole(tiny_pipe), "tiny-32")


@pytest.fixture(scope="module")
def url(demo: gr.Blocks) -> Iterator[str]:
    """The address of the app on the loopback."""
    from space.ui import launch_settings

    _, address, _ = demo.launch(**launch_settings(), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    demo.close(verbose=False)


@pytest.fixture
def connect(url: str, tmp_path: Path) -> Callable[[], Client]:
    """Makes a client of the app, which is a session of its own."""
    from gradio_client import Client

    return lambda: Client(url, verbose=False, analytics_enabled=False, download_files=str(tmp_path))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser without a window; the test is skipped, or fails with REQUIRE_BROWSER=1, where there is none."""
    from browser_parts import ARGS, CHROMIUM

    missing = "Chromium" if CHROMIUM is None else ""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright"
    if missing:
        reason = f"{missing} is not installed (apt-get install chromium fonts-dejavu-core; pip install playwright)"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Opens the app in a window of its own; at the end no request has gone anywhere else."""
    from browser_parts import PATIENCE

    contexts, outside = [], []

    def watch(route: Any) -> None:
        if route.request.url.startswith((url, "data:", "blob:")):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    def open_page(address: str = url, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-US", accept_downloads=True
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        if address.startswith(url):
            context.route("**/*", watch)
        page = context.new_page()
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_function("() => document.querySelector('#canvas .after')?.naturalWidth")
        page.locator(
            "#canvas .frame[data-ready]"
        ).wait_for()  # it is drawn before Gradio has wired all of its controls
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not outside
