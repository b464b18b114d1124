"""A real Chromium walks through the app as a person does."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from browser_parts import (
    PATIENCE,
    add_photo,
    face,
    face_at_rest,
    face_is,
    is_told,
    nameless,
    open_tab,
    picture,
    pixels,
    press,
    reads,
    rested,
    saved,
    set_steps,
    told,
    type_number,
)
from PIL import Image
from space_parts import alike, busy, held, jobs_of, style

from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


def test_a_first_visit_from_a_slider_to_a_download(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page = visit()
    start = face(page)  # it is there before anything is clicked
    pipe = jobs_of(demo).pipe
    assert alike(pixels(start), pipe.generate([0], output_type="np")[0])
    assert "Nobody who exists" in told(page, "seed 0")
    type_number(page, "edit-smile", 2)  # a typed number
    typed = face_at_rest(page, start)
    page.locator("#edit-smile input[type=range]").focus()  # arrow keys
    page.keyboard.press("ArrowRight")
    keyed = face_at_rest(page, typed)
    track = page.locator("#edit-smile input[type=range]").bounding_box()  # a drag
    page.mouse.move(track["x"] + track["width"] * 0.45, track["y"] + track["height"] / 2)
    page.mouse.down()
    for share in (0.4, 0.3, 0.2):
        page.mouse.move(track["x"] + track["width"] * share, track["y"] + track["height"] / 2)
    page.mouse.up()
    dragged = face_at_rest(page, keyed)
    assert len({start, typed, keyed, dragged}) == 4

    page.locator("#edit-smile [data-testid=reset-button]").click()
    face_is(page, start)
    page.mouse.dblclick(track["x"] + track["width"] * 0.2, track["y"] + track["height"] / 2)
    page.wait_for_function("() => document.querySelector('#edit-smile input[type=number]').value === '0'")
    assert face_at_rest(page, dragged) == start
    type_number(page, "edit-smile", -1)
    changed = face_at_rest(page, start)
    press(page, "undo")
    face_is(page, start)
    page.wait_for_function("() => document.querySelector('#edit-smile input[type=number]').value === '0'")
    page.locator("#canvas .frame").focus()
    page.keyboard.press("Control+Shift+z")
    face_is(page, changed)
    page.wait_for_function("() => document.querySelector('#edit-smile input[type=number]').value === '-1'")
    with page.expect_download() as download:
        page.locator("#canvas [data-kind=PNG]").click()
    assert download.value.suggested_filename == "refinestyle.png"
    with Image.open(download.value.path()) as file:
        drawn = pipe.generate([0], edits={"smile": -1.0}, output_type="np")[0]
        assert np.abs(np.array(file).astype(int) - drawn).max() <= 1
    with page.expect_download(), held(jobs_of(demo).turns):  # the same once more
        page.locator("#canvas [data-kind=PNG]").click()
        page.locator("#canvas [data-kind=PNG][aria-busy=true]:disabled").wait_for()
    page.locator("#canvas [data-kind=PNG][aria-busy=false]:not(:disabled)").wait_for()
    press(page, "reset")
    face_is(page, start)
    assert nameless(page) == 0


def test_before_and_after_by_slider_and_by_hand(visit: Callable[..., Any]) -> None:
    page = visit()
    start = face(page)
    type_number(page, "edit-smile", 3)
    face_at_rest(page, start)
    frame = page.locator("#canvas .frame")
    box = frame.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert frame.get_attribute("aria-valuenow") in ("25", "26", "24")
    page.keyboard.press("ArrowRight")
    assert frame.get_attribute("aria-valuenow") in ("30", "31", "29")
    shown = "() => getComputedStyle(document.querySelector('#canvas .before')).clipPath"
    assert "inset" in page.evaluate(shown)
    hold = page.locator("#canvas [data-hold]")
    hold.hover()
    page.mouse.down()
    assert page.evaluate(shown) == "none"  # the whole of it
    page.mouse.up()
    assert "inset" in page.evaluate(shown)


def test_somebody_who_does_not_exist(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page = visit()
    start = face(page)
    open_tab(page, "Photo")
    page.locator("#person input").fill("-5")
    page.wait_for_function("() => document.querySelector('#person input').value === '0'")
    page.locator("#person input").fill("7")
    page.keyboard.press("Enter")
    assert alike(pixels(face(page, start)), jobs_of(demo).pipe.generate([7], output_type="np")[0])
    told(page, "seed 7")
    page.locator("#draw-person").click()
    told(page, r"seed (?!7\b)\d+")
    press(page, "undo")
    told(page, "seed 7")


def test_ones_own_photo_gets_closer_and_goes_back_into_the_photo(visit: Callable[..., Any], photo: str) -> None:
    page = visit()
    start = face(page)
    add_photo(page, photo, 10)
    told(page, r"Same person: yes · 0\.32 apart")
    rested(page)
    assert "px wide" in page.locator("#faces").inner_text()
    page.locator("#canvas summary").click()
    assert re.search(r"LPIPS [\d.]+ · measured with st-lpips-alex", page.locator("#canvas details").inner_text())
    plain = face(page, start)
    page.wait_for_function("() => document.querySelector('#canvas .before').naturalWidth === 32")
    press(page, "place")
    assert pixels(face(page, plain)).shape == (512, 512, 3)
    assert page.locator("#canvas [data-event=place]").get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.locator("#canvas [data-kind=JPEG]").click()
    with Image.open(download.value.path()) as file:
        assert (file.format, file.size) == ("JPEG", (512, 512))
    press(page, "place")
    face_is(page, plain)


def test_a_style_is_made_used_and_taken_along(visit: Callable[..., Any], demo: gr.Blocks, tmp_path: Path) -> None:
    page = visit()
    start = face(page)
    open_tab(page, "Adapt")
    page.locator("#adapt-run").click()
    assert is_told(page, messages.NO_PICTURES)
    (tmp_path / "notes.png").write_text("no picture")
    page.locator("#pictures input[type=file]").set_input_files([*style(tmp_path), str(tmp_path / "notes.png")])
    told_ = reads(page, "checked", "can be used")
    assert "Pictures that can be used: 5 of 6." in told_
    assert "notes.png was left out." in told_
    page.locator("#adapt-run").click()
    assert is_told(page, messages.NO_RIGHTS)
    page.locator("#rights input").check()
    page.locator("#style-name input, #style-name textarea").first.fill("my ink")
    set_steps(page, 10, "adapt-steps")
    page.locator("#adapt-run").click()
    assert "my-ink is ready, and on the canvas · 10 steps" in reads(page, "adapt-note", "is ready")
    assert pixels(picture(page, "preview")).shape == (66, limits.PREVIEWS * 34 - 2, 3)
    file = saved(page, "domain-file")
    assert file.suggested_filename == "my-ink.safetensors"
    domain = TokenSet.from_pretrained(shutil.copy(file.path(), tmp_path / "my-ink.safetensors"))
    styled = face(page, start)
    pipe = jobs_of(demo).pipe
    assert alike(pixels(styled), pipe.generate([0], domains={domain: 1.0}, output_type="np")[0])

    open_tab(page, "Style")
    page.locator("#domains button:has(img)").nth(0).click()  # and one of the model's
    page.wait_for_function("() => /ink/.test(document.querySelector('#strength-1')?.innerText)")
    mixed = face(page, styled)
    assert page.locator("#strength-1 input[type=number]").input_value() == "0.5"  # two in full would tear the face
    type_number(page, "strength-1", 1)
    mixed = face_at_rest(page, mixed)
    type_number(page, "strength-0", 0)
    alone = face(page, mixed)
    page.wait_for_timeout(1000)
    assert alike(pixels(face(page)), pipe.generate([0], domains={"ink": 1.0}, output_type="np")[0]), alone
    page.locator("#mix-name input, #mix-name textarea").first.fill("mine")
    page.locator("#keep-mix").click()
    assert "mine is kept" in reads(page, "style-note", "is kept")
    page.wait_for_function("() => document.querySelectorAll('#domains img').length === 4")
    page.locator("#sheet-panel button").first.click()
    page.locator("#draw-sheet").click()
    assert pixels(picture(page, "sheet")).shape == (4 * 34 - 2, 5 * 34 - 2, 3)
    page.locator("#film-panel button").first.click()
    page.locator("#make-film").click()
    with Image.open(saved(page, "film-file").path()) as film:
        assert 4 < film.n_frames <= 2 * limits.FILM - 2  # equal ones become one that lasts longer
    assert nameless(page) == 0

    open_tab(page, "Share")
    assert saved(page, "export-file").suggested_filename == "mine.safetensors"
    page.locator("#bring input[type=file]").set_input_files(str(tmp_path / "my-ink.safetensors"))
    assert "my-ink-2 is there" in reads(page, "share-note", "is there")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    page.locator("#bring input[type=file]").set_input_files(str(tmp_path / "bad.safetensors"))
    assert is_told(page, "bad.safetensors is not a safetensors file")
    page.wait_for_function("() => !/bad/.test(document.querySelector('#bring').innerText)")
    open_tab(page, "Style")
    page.wait_for_function("() => document.querySelectorAll('#domains img').length === 5")
    for place in range(4):
        page.locator(f"#strength-{place}").wait_for()
        page.locator("#domains button:has(img)").nth(place).click()
    tiles = "() => [...document.querySelectorAll('#domains button:has(img)')].map(tile => tile.ariaPressed).join()"
    page.wait_for_function(
        f"() => ({tiles})() === 'true,true,true,true,false'"
    )  # the last takes the place of the first
    open_tab(page, "Share")
    page.locator("#remove").click()
    assert "my-ink-2 is removed." in reads(page, "share-note", "is removed")
    open_tab(page, "About")
    page.get_by_text("never changed").wait_for()


def test_a_drag_is_drawn_twice_at_most_then_once_at_rest(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page = visit()
    start = face(page)
    names = {event._id: getattr(event.fn, "__name__", "") for event in demo.fns.values()}
    asked: list[str] = []

    def note(request: Any) -> None:
        if "/queue/join" in request.url and (name := names[request.post_data_json["fn_index"]]) in ("drag", "settle"):
            asked.append(name)

    page.on("request", note)
    track = page.locator("#edit-smile input[type=range]").bounding_box()
    with held(jobs_of(demo).turns):  # nothing is drawn meanwhile
        page.mouse.move(track["x"] + track["width"] / 2, track["y"] + track["height"] / 2)
        page.mouse.down()
        for share in np.linspace(0.5, 0.9, 20):
            page.mouse.move(track["x"] + track["width"] * share, track["y"] + track["height"] / 2)
        deadline = time.monotonic() + PATIENCE / 1000
        while not asked and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        page.wait_for_timeout(100)
        assert asked in (["drag"], ["drag", "settle"])  # the first is under way; of the others, the last waits here
        page.mouse.up()
    face(page, start)
    page.wait_for_timeout(3000)
    assert asked.count("drag") == 2
    assert asked.count("settle") in (1, 2)  # on a machine so busy that the mouse stood still between two moves


def test_quick_hands_are_told_nothing_and_their_last_wish_stands(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page = visit()
    start = face(page)
    refused: list[int] = []
    page.on("response", lambda answer: refused.append(answer.status) if answer.status >= 400 else None)
    sliders = page.locator("#groups .control:visible input[type=range]")
    edits = [f"edit-{name}" for name in jobs_of(demo).pipe.directions]
    with held(jobs_of(demo).turns):  # nothing is drawn meanwhile
        for place in range(10):
            sliders.nth(place % len(edits)).focus()
            page.keyboard.press("ArrowRight")
    moved = face_at_rest(page, start)
    moves = "names => names.map(name => document.querySelector(`#${name} input[type=number]`).value)"
    now = dict(zip(jobs_of(demo).pipe.directions, map(float, page.evaluate(moves, edits)), strict=True))
    assert round(sum(now.values()), 3) == 1.0
    assert alike(pixels(moved), jobs_of(demo).pipe.generate([0], edits=now, output_type="np")[0])
    open_tab(page, "Style")
    page.locator("#domains img").nth(1).wait_for()
    with held(jobs_of(demo).turns):
        for place in (0, 1, 0, 0, 1):
            page.locator("#domains button:has(img)").nth(place).click()
    styled = face_at_rest(page, moved)
    domains = {"ink": 1.0}
    assert alike(pixels(styled), jobs_of(demo).pipe.generate([0], edits=now, domains=domains, output_type="np")[0])
    with held(jobs_of(demo).turns):
        for _ in range(5):  # as often as it was clicked
            press(page, "undo")
    face_is(page, moved)
    open_tab(page, "Photo")
    with held(jobs_of(demo).turns):
        for _ in range(5):
            page.locator("#draw-person").click()
    told(page, "from seed " + page.locator("#person input").input_value() + "$")
    assert not refused
    assert page.get_by_test_id("toast-body").count() == 0


def test_an_adaptation_is_stopped_and_one_is_left(visit: Callable[..., Any], demo: gr.Blocks, tmp_path: Path) -> None:
    def started() -> Any:
        page = visit()
        open_tab(page, "Adapt")
        page.locator("#pictures input[type=file]").set_input_files(style(tmp_path))
        reads(page, "checked", "5 of 5")
        page.locator("#rights input").check()
        set_steps(page, 400, "adapt-steps")
        page.locator("#adapt-run").click()
        reads(page, "adapt-note", r"step \d+/400")
        return page

    page = started()
    page.locator("#adapt-stop").click()
    assert re.search(r"stopped at \d+/400", reads(page, "adapt-note", "is ready"))
    assert saved(page, "domain-file").suggested_filename == "my-style.safetensors"
    started().close()
    deadline = time.monotonic() + PATIENCE / 1000
    while busy(jobs_of(demo).turns):
        assert time.monotonic() < deadline, "the page is closed, and its run goes on"
        time.sleep(0.1)


def test_a_link_opens_the_settings_and_loads_no_domain_by_itself(visit: Callable[..., Any], url: str) -> None:
    page = visit()
    type_number(page, "edit-smile", 2)
    page.wait_for_function("() => !document.querySelector('#canvas [data-event=undo]').disabled")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#canvas [data-copy]").click()
    page.get_by_role("button", name="Copied").wait_for()
    address = page.evaluate("() => navigator.clipboard.readText()")
    assert address == f"{url}?seed=0&edit.smile=2"
    there = visit(f"{address}&domain=someone/my-ink")
    there.wait_for_function("() => document.querySelector('#edit-smile input[type=number]')?.value === '2'")
    face_is(there, face(page))
    there.wait_for_function(
        "() => document.querySelector('#hub-id input, #hub-id textarea')?.value === 'someone/my-ink'"
    )
    there.locator("#load-id").wait_for()
    assert there.locator("#share-note").inner_text().strip() == ""
