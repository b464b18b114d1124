"""What a person does at the demo's page and sees there, for playwright."""

from __future__ import annotations

import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from space_parts import seen


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TABS = ("Photo", "Edit", "Style", "Adapt", "Share", "About")
SHOTS = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
PATIENCE = 120_000  # milliseconds, for a busy machine


def face(page: Any, unlike: str = "") -> str:
    """The picture on the canvas, once it is there and another than before."""
    script = """unlike => { const now = document.querySelector('#canvas .after');
        return now.complete && now.naturalWidth > 0 && now.src !== unlike && now.src }"""
    return str(page.wait_for_function(script, arg=unlike, timeout=PATIENCE).json_value())


def face_at_rest(page: Any, unlike: str) -> str:
    """The picture once it stays: while a control moves there is a preview, and only then a look to come back from."""
    now, last = face(page, unlike), ""
    while now != last:
        page.wait_for_timeout(1000)
        now, last = face(page, unlike), now
    return now


def face_is(page: Any, address: str) -> None:
    """Waits for a picture on the canvas."""
    page.wait_for_function("address => document.querySelector('#canvas .after').src === address", arg=address)


def press(page: Any, event: str) -> None:
    """A button of the canvas, once it can be pressed."""
    page.locator(f"#canvas [data-event={event}]:not(:disabled)").first.click()


def told(page: Any, pattern: str) -> str:
    """Waits until the line under the canvas matches."""
    script = """pattern => { const line = document.querySelector('#canvas .note').innerText;
        return RegExp(pattern).test(line) && line }"""
    return str(page.wait_for_function(script, arg=pattern, timeout=PATIENCE).json_value())


def working(page: Any, pattern: str) -> None:
    """Waits until the bar on the canvas matches."""
    script = (
        "pattern => RegExp(pattern).test(document.querySelector('#canvas .progress:not([hidden])')?.innerText || '')"
    )
    page.wait_for_function(script, arg=pattern, timeout=PATIENCE)


def rested(page: Any) -> None:
    """Waits until no bar is on the canvas."""
    page.wait_for_function("() => document.querySelector('#canvas .progress').hidden", timeout=PATIENCE)


def add_photo(page: Any, file: str, steps: int | None = None) -> None:
    """One's own photo, read in so many steps."""
    face(page)  # the page runs by now: before, it takes no file
    go_to(page, "Photo")
    if steps is not None:
        page.locator("#options > button").click()
        set_steps(page, steps)
    page.locator("#photo input[type=file]").set_input_files(file)


def set_steps(page: Any, steps: int, slider: str = "steps") -> None:
    type_number(page, slider, steps)


def type_number(page: Any, slider: str, value: float) -> None:
    box = page.locator(f"#{slider} input[type=number]")
    deadline = time.monotonic() + PATIENCE / 1000
    while True:  # a control that has only just come into sight may still be set to its first value
        box.fill(str(value))
        page.keyboard.press("Tab")
        page.wait_for_timeout(250)
        if float(box.input_value()) == value:
            return
        assert time.monotonic() < deadline, f"{slider} does not keep {value}"


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def go_to(page: Any, name: str) -> None:
    """``open_tab`` also where not all tabs fit beside each other."""
    page.locator("#tabs button[role=tab]:visible").first.wait_for()
    if page.get_by_role("tab", name=name, exact=True).is_visible():
        open_tab(page, name)
    else:
        page.locator("#tabs .overflow-menu > button").first.click()
        page.locator("#tabs .overflow-dropdown button", has_text=name).first.click()


def reads(page: Any, name: str, pattern: str, patience: int = PATIENCE) -> str:
    """Waits until an element's text matches; the text."""
    script = """([id, pattern]) => { const element = document.getElementById(id);
        return element && RegExp(pattern).test(element.innerText) && element.innerText }"""
    return str(page.wait_for_function(script, arg=[name, pattern], timeout=patience).json_value())


def picture(page: Any, name: str) -> str:
    """Address of a picture, once it is there."""
    script = """id => { const image = document.querySelector(`#${id} img`);
        return image && image.complete && image.naturalWidth > 0 && image.src }"""
    return str(page.wait_for_function(script, arg=name, timeout=PATIENCE).json_value())


def saved(page: Any, button: str) -> Any:
    """What a download button gives, once there is something."""
    script = """id => { const button = document.getElementById(id);
        return button && !button.disabled && !button.querySelector('button[disabled]') }"""
    page.wait_for_function(script, arg=button, timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator(f"#{button}").click()
    return download.value


def nameless(page: Any) -> int:
    """Pictures without an alternative text."""
    images = "document.querySelectorAll('.gradio-container img')"
    return int(page.evaluate(f"() => [...{images}].filter(x => !x.alt).length"))


def opened(file: str) -> Any:
    with Image.open(file) as picture:
        return np.array(picture)


def pixels(address: str) -> Any:
    """Of a file that the app serves, or of a picture that travels as an address."""
    if address.startswith("data:"):
        return seen(address)
    with Image.open(BytesIO(httpx.get(address).content)) as picture:
        return np.array(picture)


def is_told(page: Any, message: str) -> bool:
    """Waits for the message, then closes it."""
    shown = page.get_by_test_id("toast-body").filter(has_text=message).first
    shown.wait_for()
    shown.get_by_test_id("toast-close").click()
    return True


def shoot(page: Any, name: str) -> None:
    """What is in the window, as a WebP of 30 to 100 KB."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("() => window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)  # transitions have no end to wait for
    with Image.open(BytesIO(page.screenshot())) as shot:
        shot.convert("RGB").save(SHOTS / f"{name}.webp", quality=88, method=6)
