"""What a person sees in a real Chromium while a photo is read, and after."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from browser_parts import (
    add_photo,
    face,
    face_is,
    picture,
    press,
    rested,
    set_steps,
    told,
    working,
)
from PIL import Image
from space_parts import held, jobs_of

from space import limits


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


def test_the_panel_shows_the_photo_of_the_face_on_the_canvas(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    start = face(page)
    add_photo(page, photo, 4)
    told(page, "Same person")
    rested(page)
    page.locator("#framed img").wait_for()
    boxed = picture(page, "photo")
    press(page, "undo")
    face_is(page, start)
    page.locator("#photo input[type=file]").wait_for(state="attached")  # it is empty
    page.locator("#framed").wait_for(state="hidden")
    assert not page.locator("#faces").is_visible()
    press(page, "redo")
    told(page, "Same person")
    assert picture(page, "photo") == boxed
    page.locator("#draw-person").click()
    told(page, "Nobody who exists")
    page.locator("#photo input[type=file]").wait_for(state="attached")


def test_stop_keeps_what_was_reached(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    add_photo(page, photo, limits.MAX_STEPS)
    working(page, r"Step \d+ of 400")
    press(page, "stop")
    working(page, "Stopping; what was reached is kept")
    told(page, "Same person")
    rested(page)
    page.locator("#canvas summary").click()
    assert re.search(r"steps on w\+: \d+", page.locator("#canvas details").inner_text())


def leave(page: Any) -> None:
    """The photo leaves its box."""
    page.locator("#photo button[aria-label='Remove Image']").click()


def test_a_photo_that_leaves_its_box_is_read_no_further(
    visit: Callable[..., Any], demo: gr.Blocks, photo: str
) -> None:
    page = visit()
    start = face(page)
    with held(jobs_of(demo).turns):
        add_photo(page, photo, limits.MAX_STEPS)
        working(page, "Waiting for its turn")
        leave(page)
        rested(page)
    page.wait_for_timeout(1500)
    face_is(page, start)
    assert page.locator("#photo img").count() == 0  # it does not come back
    page.locator("#photo input[type=file]").set_input_files(photo)
    working(page, r"Step \d+ of 400")
    page.wait_for_timeout(1500)  # with its first likeness the panel asks for the photo, which would come back
    leave(page)
    told(page, "Same person")
    rested(page)
    page.locator("#canvas summary").click()
    done = re.findall(r"steps on [^:]+: (\d+)", page.locator("#canvas details").inner_text())
    assert 0 < sum(map(int, done)) < limits.MAX_STEPS
    assert page.locator("#photo img").count() == 0
    assert page.get_by_test_id("toast-body").count() == 0


def test_of_photos_in_quick_succession_the_last_is_read_and_nothing_is_told_of_the_others(
    visit: Callable[..., Any], photo: str, tmp_path: Path
) -> None:
    page, grey = visit(), str(tmp_path / "grey.png")
    Image.new("RGB", (900, 900), "gray").save(grey)
    add_photo(page, grey, 4)
    for file in (grey, photo):
        picture(page, "photo")
        page.locator("#photo input[type=file]").set_input_files(file)
    told(page, "Same person")
    rested(page)
    assert picture(page, "photo").endswith("/photo.png")
    assert "px wide" in page.locator("#faces").inner_text()
    assert page.get_by_test_id("toast-body").count() == 0


LOSING = """
    const [ask, wait] = [window.fetch, window.setTimeout];
    window.setTimeout = (what, time, ...more) => wait(what, time === 5000 ? 500 : time, ...more);
    window.fetch = async (...what) => {
        const answer = await ask(...what);
        if (!answer.url.includes("/queue/data")) return answer;
        const losing = new TransformStream({ transform: (chunk, on) => { window.lost || on.enqueue(chunk) } });
        return new Response(answer.body.pipeThrough(losing), answer);
    };
"""


def test_a_bar_stays_as_long_as_its_reading_also_where_its_end_is_not_heard(
    visit: Callable[..., Any], demo: gr.Blocks, photo: str
) -> None:
    page = visit()
    page.add_init_script(LOSING)
    page.reload()
    page.locator("#canvas .frame[data-ready]").wait_for()
    with held(jobs_of(demo).turns):
        add_photo(page, photo, limits.MAX_STEPS)
        working(page, "Waiting for its turn")
        page.wait_for_timeout(2500)
        assert page.locator("#canvas .progress").is_visible()
    working(page, r"Step \d+ of 400 · about \d+ s left")
    page.evaluate("() => { window.lost = true }")
    rested(page)


def test_another_photo_takes_the_place_of_one_that_is_being_read(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    start = face(page)
    add_photo(page, photo, limits.MAX_STEPS)
    working(page, r"Step \d+ of 400")
    face(page, start)
    press(page, "undo")  # meanwhile
    face_is(page, start)
    set_steps(page, 10)
    page.locator("#photo input[type=file]").set_input_files(photo)
    told(page, "Same person")
    rested(page)
    page.locator("#canvas summary").click()
    assert re.search(
        r"steps on w\+: 4 · steps on tokens: 6\b|steps on tokens: 10\b", page.locator("#canvas details").inner_text()
    )


def test_closing_the_tab_frees_the_accelerator(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    add_photo(page, photo, limits.MAX_STEPS)
    working(page, r"Step \d+ of 400")
    page.close()
    again = visit()
    add_photo(again, photo, 10)
    told(again, "Same person")
