"""How the page looks in a real Chromium: by keyboard, on a phone, and on the screenshots of the docs.

``REFINESTYLE_SCREENSHOTS=1 pytest tests/test_browser_layout.py`` renews docs/screenshots.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_parts import (
    SHOTS,
    TABS,
    add_photo,
    face,
    go_to,
    open_tab,
    picture,
    reads,
    saved,
    shoot,
    told,
    type_number,
)
from PIL import Image

from refinestyle_hub.adapt import load_references
from space import images, limits
from space.model import load
from space.ui import build, launch_settings


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]
REAL = {name: getattr(limits, name) for name in ("ADAPT_STEPS", "TURN_SECONDS")}  # the tests have other ones


def test_by_keyboard_alone(visit: Callable[..., Any]) -> None:
    page = visit()
    start = face(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.closest('.control') && document.activeElement.type") == "range":
            break
    page.keyboard.press("ArrowRight")
    changed = face(page, start)
    page.wait_for_function("() => !document.querySelector('#canvas [data-event=undo]').disabled")
    page.keyboard.press("Control+z")
    assert face(page, changed) == start


def test_a_slider_at_0_is_not_filled_wherever_0_is(visit: Callable[..., Any]) -> None:
    page = visit()
    script = """() => [...document.querySelectorAll('#groups input[type=range]')].map(bar =>
        parseFloat(getComputedStyle(bar).getPropertyValue('--zero')) - 100 * (0 - bar.min) / (bar.max - bar.min))"""
    page.wait_for_function(f"() => ({script})().every(off => Math.abs(off) < 0.1)")
    assert page.evaluate(script)


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
    add_photo(page, str(tmp_path / "two.png"), 10)
    picture(page, "crops")
    told(page, "Same person")
    assert wide(page) <= 390
    go_to(page, "Adapt")
    page.locator("#style-example").click()
    picture(page, "squares")
    assert wide(page) <= 390
    go_to(page, "Style")
    page.locator("#domains img").first.wait_for()
    assert wide(page) <= 390


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_canvas_and_the_slider_that_moves_are_in_sight_together(
    visit: Callable[..., Any], width: int, height: int
) -> None:
    page = visit(width=width, height=height)
    sliders = page.locator("#groups .control:visible")
    for place in range(sliders.count()):
        sliders.nth(place).locator("input[type=range]").scroll_into_view_if_needed()
        assert in_window(page, ".frame", width, height)
        box = sliders.nth(place).bounding_box()
        frame = page.locator("#canvas .frame").bounding_box()
        beside = box["x"] >= frame["x"] + frame["width"]
        assert beside or box["y"] + box["height"] / 2 > frame["y"] + frame["height"]
    if width > 700:  # all of a group at once, and nothing is left to scroll to
        assert page.evaluate("() => document.documentElement.scrollHeight") <= height
        assert all(
            in_window(page, f"#{sliders.nth(n).get_attribute('id')}", width, height) for n in range(sliders.count())
        )


def test_the_page_does_not_jump_from_panel_to_panel(visit: Callable[..., Any]) -> None:
    page = visit()
    places = set()
    for tab in TABS:
        open_tab(page, tab)
        boxes = [page.locator(part).bounding_box() for part in ("#tabs", "#canvas .frame")]
        places.add(tuple(round(box[side]) for box in boxes for side in ("x", "width")))
    assert len(places) == 1


def in_window(page: Any, part: str, width: int, height: int) -> bool:
    box = page.locator(part).first.bounding_box()
    return box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height


def wide(page: Any) -> int:
    """Pixels that the page takes from left to right."""
    return int(page.evaluate("() => document.documentElement.scrollWidth"))


@pytest.mark.skipif(
    os.environ.get("REFINESTYLE_SCREENSHOTS") != "1", reason="only on request: REFINESTYLE_SCREENSHOTS=1"
)
def test_screenshots(visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "load_references", load_references)
    for limit, value in REAL.items():
        monkeypatch.setattr(limits, limit, value)
    demo = build(*load(os.environ.get("REFINESTYLE_MODEL")))
    _, address, _ = demo.launch(**launch_settings(), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        for kind, width, height, dark in (
            ("desktop", 1280, 800, False),
            ("dark", 1280, 800, True),
            ("phone", 390, 844, False),
        ):
            page = visit(address, width, height, dark)
            start = face(page)
            shoot_panel(page, "Photo", kind)
            go_to(page, "Edit")
            page.get_by_role("tab", name="Person", exact=True).click()
            type_number(page, "edit-age", 1.2)
            page.get_by_role("tab", name="Expression", exact=True).click()
            type_number(page, "edit-smile", -1)
            page.wait_for_function("() => !document.querySelector('#canvas [data-event=undo]').disabled")
            face(page, start)
            box = page.locator("#canvas .frame").bounding_box()
            page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.9)
            shoot_panel(page, "Edit", kind)
            go_to(page, "Style")
            page.locator("#domains img[alt=charcoal]").wait_for()
            edited = face(page)
            page.locator("#domains button:has(img[alt=charcoal])").click()
            page.locator("#domains [aria-pressed=true]").wait_for()
            face(page, edited)
            page.wait_for_timeout(3000)
            shoot_panel(page, "Style", kind)
            if kind == "desktop":  # what the sliders and the style did, for the top of the README
                page.locator("#film-panel button").first.click()
                page.locator("#make-film").click()
                shutil.copy(saved(page, "film-file").path(), SHOTS / "film.webp")
            go_to(page, "Adapt")
            page.locator("#style-example").click()
            reads(page, "checked", "5 of 5")
            for tab in TABS[3:]:
                shoot_panel(page, tab, kind)
    finally:
        demo.close(verbose=False)


def shoot_panel(page: Any, tab: str, kind: str) -> None:
    go_to(page, tab)
    shoot(page, f"{tab.lower()}-{kind}")
