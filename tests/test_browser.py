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
    PAIR,
    PATIENCE,
    is_told,
    nameless,
    open_tab,
    opened,
    pair,
    picture,
    pixels,
    reads,
    saved,
    set_steps,
    type_number,
)
from PIL import Image
from space_parts import jobs_of, style

from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.handlers.stylise_handlers import RANDOM, StyliseHandlers
from space.session import Shelf


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


def test_a_first_visit_from_the_example_to_a_download(visit: Callable[..., Any]) -> None:
    page = visit()
    set_steps(page, 10)
    page.locator("#examples button.gallery-item").first.click()  # one click, no upload
    compared = pair(page, "compare")
    page.wait_for_function("() => /seed 0/.test(document.querySelector('#note').innerText)", timeout=PATIENCE)
    figures = r"distance \d\.\d+ \(0 is the photo itself; st-lpips-alex\) · 10 steps · [\d.]+ s"
    assert re.search(figures, page.locator("#note").inner_text())
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
    with Image.open(download.value.path()) as file:
        assert np.array_equal(np.array(file), pixels(changed.split(",")[1]))
    page.locator("#before input[value=photo]").check()
    assert np.array_equal(pixels(pair(page, "edited", changed).split(",")[0]), crop)
    page.locator("#reset").click()
    page.wait_for_function("() => document.querySelector('#edit-smile input[type=number]').value === '0'")

    page.locator("#strip-panel button").first.click()
    page.locator("#draw").click()
    page.wait_for_function(
        f"() => document.querySelectorAll('#strip img').length === {limits.STRIP}", timeout=PATIENCE
    )
    page.locator("#shoot").click()
    with Image.open(saved(page, "edit-film-file").path()) as film:
        assert film.format == "WEBP"
        assert film.n_frames > limits.FILM
    assert nameless(page) == 0

    open_tab(page, "Stylise")  # the face and its edits come along
    page.wait_for_function("() => document.querySelector('#who input:checked')?.value === 'my face'")
    assert pixels(pair(page, "styled").split(",")[0]).shape == (32, 32, 3)


def test_a_style_is_made_used_and_taken_along(visit: Callable[..., Any], demo: gr.Blocks, tmp_path: Path) -> None:
    page = visit()
    open_tab(page, "Adapt")
    page.locator("#adapt-run").click()
    assert is_told(page, messages.NO_PICTURES)
    (tmp_path / "notes.png").write_text("no picture")
    page.locator("#pictures input[type=file]").set_input_files([*style(tmp_path), str(tmp_path / "notes.png")])
    told = reads(page, "checked", "can be used")
    assert "5 of 6 pictures can be used." in told
    assert "notes.png was left out." in told
    page.locator("#adapt-run").click()
    assert is_told(page, messages.NO_RIGHTS)
    page.locator("#rights input").check()
    page.locator("#style-name input, #style-name textarea").first.fill("my ink")
    set_steps(page, 10, "adapt-steps")
    page.locator("#adapt-run").click()
    assert "my-ink is ready · 10 steps" in reads(page, "adapt-note", "is ready")
    assert pixels(picture(page, "preview")).shape == (66, limits.PREVIEWS * 34 - 2, 3)
    file = saved(page, "domain-file")
    assert file.suggested_filename == "my-ink.safetensors"
    domain = TokenSet.from_pretrained(shutil.copy(file.path(), tmp_path / "my-ink.safetensors"))
    assert nameless(page) == 0

    page.locator("#to-stylise").click()
    first = pair(page, "styled")  # the new domain is chosen already
    on = StyliseHandlers(jobs_of(demo))
    shelf = Shelf()
    shelf.add("my-ink", domain)
    (plain, styled), *_ = on.stylise({"my-ink": 1.0}, RANDOM, 0, None, {}, shelf)
    for address, file in zip(first.split(","), (plain, styled), strict=True):
        assert np.abs(pixels(address).astype(int) - opened(file)).max() <= 1
    page.locator("#domains button:has(img)").nth(0).click()  # and one of the model's
    page.wait_for_function("() => /ink/.test(document.querySelector('#strength-1')?.innerText)")
    mixed = pair(page, "styled", first)
    type_number(page, "strength-0", 0)
    alone = pair(page, "styled", mixed)
    (plain, styled), *_ = on.stylise({"my-ink": 0.0, "ink": 1.0}, RANDOM, 0, None, {}, shelf)
    assert np.abs(pixels(alone.split(",")[1]).astype(int) - opened(styled)).max() <= 1
    page.locator("#others").click()
    assert not np.array_equal(pixels(pair(page, "styled", alone).split(",")[0]), opened(plain))
    page.locator("#sheet-panel button").first.click()
    page.locator("#draw-sheet").click()
    assert pixels(picture(page, "sheet")).shape == (4 * 34 - 2, 4 * 34 - 2, 3)
    page.locator("#film-panel button").first.click()
    page.locator("#make-film").click()
    with Image.open(saved(page, "film-file").path()) as film:
        assert limits.FILM < film.n_frames <= 2 * limits.FILM - 2
    assert nameless(page) == 0

    open_tab(page, "Share")
    assert saved(page, "export-file").suggested_filename == "my-ink.safetensors"
    page.locator("#bring input[type=file]").set_input_files(str(tmp_path / "my-ink.safetensors"))
    assert "my-ink-2 is there" in reads(page, "share-note", "is there")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    page.locator("#bring input[type=file]").set_input_files(str(tmp_path / "bad.safetensors"))
    assert is_told(page, "bad.safetensors is not a safetensors file")
    page.locator("#remove").click()
    assert "my-ink-2 is removed." in reads(page, "share-note", "is removed")
    open_tab(page, "About")
    page.get_by_text("never changed").wait_for()


def test_a_drag_is_drawn_twice_at_most_and_a_reset_once(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page = visit()
    set_steps(page, 10)
    page.locator("#examples button.gallery-item").first.click()
    pair(page, "compare")
    page.locator("#go").click()
    start = pair(page, "edited")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)
    track = page.locator("#edit-smile input[type=range]").bounding_box()
    with jobs_of(demo).turns.of("draw"):  # nothing is drawn meanwhile
        page.mouse.move(track["x"] + track["width"] / 2, track["y"] + track["height"] / 2)
        page.mouse.down()
        for share in np.linspace(0.5, 0.9, 20):
            page.mouse.move(track["x"] + track["width"] * share, track["y"] + track["height"] / 2)
        page.mouse.up()
        page.wait_for_timeout(500)
        assert len(asked) == 1  # the first is under way; of the others, the last one waits in the page
    pair(page, "edited", start)
    page.wait_for_timeout(1000)
    assert len(asked) == 2
    asked.clear()
    page.locator("#reset").click()
    page.wait_for_function(f"([id, start]) => ({PAIR})(id) === start", arg=["edited", start], timeout=PATIENCE)
    page.wait_for_timeout(1000)
    assert len(asked) == 1


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
    while jobs_of(demo).turns.locked():
        assert time.monotonic() < deadline, "the page is closed, and its run goes on"
        time.sleep(0.1)


def test_a_link_fills_in_a_domain_and_runs_nothing(visit: Callable[..., Any], url: str) -> None:
    page = visit(f"{url}?domain=someone/my-ink")
    page.wait_for_function(
        "() => document.querySelector('#hub-id input, #hub-id textarea')?.value === 'someone/my-ink'"
    )
    page.locator("#load-id").wait_for()
    assert page.locator("#share-note").inner_text().strip() == ""


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
