"""What a person does at the demo's page and sees there, for playwright."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TABS = ("Invert", "Edit", "Adapt", "Stylise", "Share", "About")
SHOTS = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
PATIENCE = 120_000  # milliseconds, for a busy machine
PAIR = """id => { const all = [...document.querySelectorAll(`#${id} img`)];
    return all.length >= 2 && all.every(x => x.complete && x.naturalWidth > 0) && all.map(x => x.src).join() }"""


def set_steps(page: Any, steps: int, slider: str = "steps") -> None:
    type_number(page, slider, steps)


def type_number(page: Any, slider: str, value: float) -> None:
    page.locator(f"#{slider} input[type=number]").fill(str(value))
    page.keyboard.press("Tab")


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def go_to(page: Any, name: str) -> None:
    """``open_tab`` also where not all tabs fit beside each other."""
    if page.get_by_role("tab", name=name, exact=True).is_visible():
        open_tab(page, name)
    else:
        page.locator("#tabs .overflow-menu > button").click()
        page.locator("#tabs .overflow-dropdown button", has_text=name).click()


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


def pair(page: Any, name: str, unlike: str = "") -> str:
    """Addresses of the two pictures of a slider, once both are there and others than before."""
    script = f"([id, unlike]) => {{ const now = ({PAIR})(id); return now && now !== unlike && now }}"
    return str(page.wait_for_function(script, arg=[name, unlike], timeout=PATIENCE).json_value())


def opened(file: str) -> Any:
    with Image.open(file) as picture:
        return np.array(picture)


def pixels(address: str) -> Any:
    with Image.open(BytesIO(httpx.get(address).content)) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


def is_told(page: Any, message: str) -> bool:
    """Waits for the message, then closes it."""
    shown = page.get_by_test_id("toast-body").filter(has_text=message).first
    shown.wait_for()
    shown.get_by_test_id("toast-close").click()
    return True


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
