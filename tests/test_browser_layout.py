"""How the page looks in a real Chromium: by keyboard, on a phone, and on the screenshots of the docs.

``REFINESTYLE_SCREENSHOTS=1 pytest tests/test_browser_layout.py`` refreshes docs/screenshots, from the bundled model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_parts import (
    TABS,
    go_to,
    open_tab,
    pair,
    picture,
    reads,
    set_steps,
    shoot,
)
from PIL import Image

from refinestyle_hub.adapt import load_references
from space import images, limits
from space.ui import build, launch_settings


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]
REAL = {name: getattr(limits, name) for name in ("ADAPT_STEPS", "TURN_SECONDS")}  # the tests have other ones


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
    for tab in TABS:
        go_to(page, tab)
        assert wide(page) <= 390, tab
    colours = page.evaluate("() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] }")
    text, ground = (np.mean([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) for colour in colours)
    assert (text > ground) == dark
    assert abs(text - ground) > 128


def test_no_result_is_cut_off_on_a_phone(visit: Callable[..., Any], tmp_path: Path, astronaut: Image.Image) -> None:
    page = visit(width=390, height=844)
    two = Image.new("RGB", (1024, 512))
    two.paste(astronaut, (0, 0))
    two.paste(astronaut, (512, 0))
    two.save(tmp_path / "two.png")
    page.locator("#photo input[type=file]").set_input_files(str(tmp_path / "two.png"))
    picture(page, "crops")
    set_steps(page, 10)
    page.evaluate("window.scrollTo(0, 0)")
    page.locator("#run").dispatch_event("click")  # from wherever the page is, while ``click`` would scroll it
    in_sight(page, "note")  # which says how far it is
    picture(page, "stages")
    assert wide(page) <= 390
    go_to(page, "Edit")
    page.locator("#strip-panel button").first.click()
    page.locator("#draw").click()
    picture(page, "strip")
    assert wide(page) <= 390
    go_to(page, "Adapt")
    page.locator("#style-example").click()
    picture(page, "squares")
    assert wide(page) <= 390
    go_to(page, "Stylise")
    pair(page, "styled")
    assert wide(page) <= 390
    above = page.locator("#styled").bounding_box()
    below = page.locator("#chosen").bounding_box()
    assert above["y"] + above["height"] <= below["y"] + 1  # the picture stays in sight of the sliders


def test_the_page_does_not_jump_from_tab_to_tab(visit: Callable[..., Any]) -> None:
    page = visit()
    places = set()
    for tab in TABS:
        open_tab(page, tab)
        boxes = [page.locator(part).bounding_box() for part in ("#header h1", "#tabs")]
        assert abs(boxes[0]["x"] - boxes[1]["x"]) <= 1, tab
        places.add((round(boxes[1]["x"]), round(boxes[1]["width"])))
    assert len(places) == 1


def in_sight(page: Any, name: str) -> None:
    """Returns once the whole element is within the window."""
    inside = "r => r.height > 0 && r.top >= 0 && r.bottom <= window.innerHeight"
    page.wait_for_function(f"({inside})(document.getElementById('{name}').getBoundingClientRect())")


def wide(page: Any) -> int:
    """Pixels that the page takes from left to right."""
    return int(page.evaluate("() => document.documentElement.scrollWidth"))


@pytest.mark.skipif(
    os.environ.get("REFINESTYLE_SCREENSHOTS") != "1", reason="only on request: REFINESTYLE_SCREENSHOTS=1"
)
def test_screenshots(visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from space.model import load

    monkeypatch.setattr(images, "load_references", load_references)
    for limit, value in REAL.items():
        monkeypatch.setattr(limits, limit, value)
    pipe, name, notice = load(os.environ.get("REFINESTYLE_MODEL"))
    demo = build(pipe, name, notice)
    _, address, _ = demo.launch(**launch_settings(), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
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
            go_to(page, "Stylise")
            pair(page, "styled")
            shoot(page, f"stylise-{kind}")
            go_to(page, "Adapt")
            page.locator("#style-example").click()
            reads(page, "checked", "5 of 5")
            if kind == "desktop":  # it takes minutes
                page.locator("#rights input").check()
                page.locator("#style-name input, #style-name textarea").first.fill("my-sketch")
                page.locator("#adapt-run").click()
                reads(page, "adapt-note", "is ready", 1000 * int(limits.ADAPT_SECONDS))
            shoot(page, f"adapt-{kind}")
            for tab in ("Share", "About"):
                go_to(page, tab)
                shoot(page, f"{tab.lower()}-{kind}")
    finally:
        demo.close(verbose=False)
