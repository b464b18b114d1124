"""A real Chromium walks through the app as a person does.

``REFINESTYLE_SCREENSHOTS=1 pytest tests/test_browser.py`` also refreshes docs/screenshots, from the bundled model.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image

from refinestyle_hub.pipeline import RefineStylePipeline
from space import limits, messages
from space.ui import LAUNCH, build


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]

SHOTS = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 120_000  # milliseconds, for a busy machine
PAIR = """id => { const all = [...document.querySelectorAll(`#${id} img`)];
    return all.length >= 2 && all.every(x => x.complete && x.naturalWidth > 0) && all.map(x => x.src).join() }"""


@pytest.fixture(scope="module")
def demo(tiny_pipe: RefineStylePipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    # Apps that share a cache delete each other's pictures as they close, where they are equal.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        yield build(tiny_pipe, "tiny-32")


@pytest.fixture(scope="module")
def url(demo: gr.Blocks) -> Iterator[str]:
    _, address, _ = demo.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
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
        if address == url:
            context.route("**/*", watch)
        page = context.new_page()
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector("#run")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not outside


@pytest.fixture
def photo(tmp_path: Path, astronaut: Image.Image) -> str:
    astronaut.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def set_steps(page: Any, steps: int) -> None:
    page.locator("#steps input[type=number]").fill(str(steps))
    page.keyboard.press("Tab")


def pair(page: Any, name: str, unlike: str = "") -> str:
    """Addresses of the two pictures of a slider, once both are there and others than before."""
    script = f"([id, unlike]) => {{ const now = ({PAIR})(id); return now && now !== unlike && now }}"
    return str(page.wait_for_function(script, arg=[name, unlike], timeout=PATIENCE).json_value())


def pixels(address: str) -> Any:
    from io import BytesIO

    with Image.open(BytesIO(httpx.get(address).content)) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


def is_told(page: Any, message: str) -> bool:
    """Waits for the message, then closes it."""
    shown = page.get_by_test_id("toast-body").filter(has_text=message).first
    shown.wait_for()
    shown.get_by_test_id("toast-close").click()
    return True


def test_a_first_visit_from_the_example_to_a_download(visit: Callable[..., Any]) -> None:
    page = visit()
    set_steps(page, 10)
    page.locator("#examples button.gallery-item").first.click()  # one click, no upload
    compared = pair(page, "compare")
    page.wait_for_function("() => /seed 0/.test(document.querySelector('#note').innerText)", timeout=PATIENCE)
    assert re.search(r"st-lpips-alex \d\.\d+ · 10 steps · [\d.]+ s", page.locator("#note").inner_text())
    crop, reconstruction = (pixels(address) for address in compared.split(","))
    assert crop.shape == reconstruction.shape == (32, 32, 3)

    page.locator("#go").click()
    start = pair(page, "edited")
    assert all(np.array_equal(pixels(address), reconstruction) for address in start.split(","))
    smile = page.locator("#edit-smile input[type=number]")
    smile.fill("2")  # a typed number
    page.keyboard.press("Tab")
    typed = pair(page, "edited", start)
    page.locator("#edit-smile input[type=range]").focus()  # arrow keys
    page.keyboard.press("ArrowRight")
    keyed = pair(page, "edited", typed)
    track = page.locator("#edit-smile input[type=range]").bounding_box()  # a drag
    page.mouse.move(track["x"] + track["width"] * 0.45, track["y"] + track["height"] / 2)
    page.mouse.down()
    for share in (0.4, 0.3, 0.2):
        page.mouse.move(track["x"] + track["width"] * share, track["y"] + track["height"] / 2)
    page.mouse.up()
    dragged = pair(page, "edited", keyed)
    assert len({start, typed, keyed, dragged}) == 4

    page.locator("#edit-smile [data-testid=reset-button]").click()
    page.wait_for_function(f"([id, start]) => ({PAIR})(id) === start", arg=["edited", start], timeout=PATIENCE)
    smile.fill("-1")
    page.keyboard.press("Tab")
    changed = pair(page, "edited", start)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "refinestyle-edit.png"
    with Image.open(download.value.path()) as saved:
        assert np.array_equal(np.array(saved), pixels(changed.split(",")[1]))
    page.locator("#before input[value=photo]").check()
    assert np.array_equal(pixels(pair(page, "edited", changed).split(",")[0]), crop)
    page.locator("#reset").click()
    page.wait_for_function("() => document.querySelector('#edit-smile input[type=number]').value === '0'")

    page.locator("#strip-panel button").first.click()
    page.locator("#draw").click()
    page.wait_for_function(
        f"() => document.querySelectorAll('#strip img').length === {limits.STRIP}", timeout=PATIENCE
    )
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('main img, .gradio-container img')].filter(x => !x.alt).length"
    )
    assert nameless == 0


def test_mistakes_are_told_in_the_page(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit()
    page.locator("#run").click()
    assert is_told(page, messages.NO_PHOTO)
    (tmp_path / "text.png").write_text("no picture")
    page.locator("#photo input[type=file]").set_input_files(str(tmp_path / "text.png"))
    assert is_told(page, messages.NOT_A_PICTURE)
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "grey.png")
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#photo input[type=file]").set_input_files(str(tmp_path / "grey.png"))
    assert is_told(page, messages.NO_FACE)


def test_stop_keeps_what_was_reached(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    page.locator("#photo input[type=file]").set_input_files(photo)
    page.wait_for_selector("#framed img")
    assert "px wide" in page.locator("#faces").inner_text()
    set_steps(page, limits.MAX_STEPS)
    page.locator("#run").click()
    page.wait_for_function("() => /step \\d+/.test(document.querySelector('#note').innerText)", timeout=PATIENCE)
    page.locator("#stop").click()
    page.wait_for_function("() => /stopped at \\d+/.test(document.querySelector('#note').innerText)", timeout=PATIENCE)
    pair(page, "compare")
    page.wait_for_selector("#go")


def test_closing_the_tab_frees_the_accelerator(visit: Callable[..., Any], demo: gr.Blocks, photo: str) -> None:
    page = visit()
    page.locator("#photo input[type=file]").set_input_files(photo)
    page.wait_for_selector("#framed img")
    set_steps(page, limits.MAX_STEPS)
    page.locator("#run").click()
    page.wait_for_function("() => /step \\d+/.test(document.querySelector('#note').innerText)", timeout=PATIENCE)
    page.close()
    again = visit()
    set_steps(again, 10)
    again.locator("#examples button.gallery-item").first.click()
    pair(again, "compare")


def test_by_keyboard_alone(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    page.locator("#photo input[type=file]").set_input_files(photo)
    page.wait_for_selector("#framed img")
    set_steps(page, 10)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "run":
            break
    page.keyboard.press("Enter")
    pair(page, "compare")


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_on_a_phone(visit: Callable[..., Any], dark: bool) -> None:
    page = visit(width=390, height=844, dark=dark)
    for tab in ("Invert", "Edit"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    colours = page.evaluate("() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] }")
    text, ground = (np.mean([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) for colour in colours)
    assert (text > ground) == dark
    assert abs(text - ground) > 128


@pytest.mark.skipif(
    os.environ.get("REFINESTYLE_SCREENSHOTS") != "1", reason="only on request: REFINESTYLE_SCREENSHOTS=1"
)
def test_screenshots(visit: Callable[..., Any]) -> None:
    from space.model import load

    pipe, name, notice = load(os.environ.get("REFINESTYLE_MODEL"))
    demo = build(pipe, name, notice)
    _, address, _ = demo.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        for kind, width, height, dark in (
            ("desktop", 1280, 900, False),
            ("dark", 1280, 900, True),
            ("phone", 390, 844, False),
        ):
            page = visit(address, width, height, dark)
            page.locator("#examples button.gallery-item").first.click()
            pair(page, "compare")
            page.wait_for_selector("#go")
            shoot(page, f"invert-{kind}")
            page.locator("#go").click()
            start = pair(page, "edited")
            first = next(iter(pipe.directions))
            page.locator(f"#edit-{'smile' if 'smile' in pipe.directions else first} input[type=number]").fill("1.5")
            page.keyboard.press("Tab")
            pair(page, "edited", start)
            page.locator("#strip-panel button").first.click()
            page.locator("#draw").click()
            page.wait_for_function(f"() => document.querySelectorAll('#strip img').length === {limits.STRIP}")
            shoot(page, f"edit-{kind}")
    finally:
        demo.close(verbose=False)


def shoot(page: Any, name: str) -> None:
    """The whole page as a PNG of few colours: sharp, and small enough for a repository."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("() => window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)  # transitions have no end to wait for
    file = SHOTS / f"{name}.png"
    page.screenshot(path=file, full_page=True)
    with Image.open(file) as shot:
        few = shot.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
