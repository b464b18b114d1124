"""What a person does wrong or early in a real Chromium, and what the page then says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pytest
from browser_parts import (
    add_photo,
    face,
    face_at_rest,
    face_is,
    is_told,
    open_tab,
    picture,
    pixels,
    reads,
    rested,
    saved,
    told,
)
from PIL import Image
from space_parts import alike, domain, held, jobs_of

from space import limits, messages


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


def test_mistakes_are_told_in_the_page(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit()
    start = face(page)
    open_tab(page, "Photo")
    page.locator("#options > button").click()
    page.locator("#run").click()
    assert is_told(page, messages.NO_PHOTO)
    (tmp_path / "text.png").write_text("no picture")
    add_photo(page, str(tmp_path / "text.png"))
    assert is_told(page, "This is a text file, not a picture.")
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "grey.png")
    page.locator("#photo input[type=file]").set_input_files(str(tmp_path / "grey.png"))
    assert is_told(page, messages.NO_FACE)
    picture(page, "photo")  # it stays, for who knows that it is a crop
    asked: list[str] = []
    page.on(
        "request",
        lambda sent: asked.append(sent.url) if "/join" in sent.url and "text.png" in str(sent.post_data) else None,
    )
    page.locator("#photo input[type=file]").set_input_files(str(tmp_path / "text.png"))  # in place of the one before
    assert is_told(page, "This is a text file, not a picture.")
    assert len(asked) == 1
    rested(page)
    face_is(page, start)
    open_tab(page, "Style")
    page.locator("#keep-mix").click()
    assert is_told(page, messages.NO_MIX)


@pytest.mark.parametrize(
    ("name", "content", "told_"),
    [
        ("notes.txt", b"no picture", "This is a text file, not a picture. Use JPEG, PNG or WebP."),
        ("large.jpg", b"\xff\xd8" + bytes(limits.MAX_BYTES), "The file is larger than the 10 MB allowed."),
        ("me.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(999), "HEIC photos cannot be read here"),
    ],
)
def test_files_that_no_box_takes_are_told_in_our_words(
    visit: Callable[..., Any], tmp_path: Path, name: str, content: bytes, told_: str
) -> None:
    page, file = visit(), tmp_path / name
    file.write_bytes(content)
    add_photo(page, str(file))
    assert is_told(page, told_)
    page.locator("#photo input[type=file]").wait_for(state="attached")  # ready for another
    page.evaluate(
        """() => {
            const given = new DataTransfer();
            given.items.add(new File(["no picture"], "dropped.txt", { type: "text/plain" }));
            const drop = new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true });
            document.querySelector("#photo button").dispatchEvent(drop);
        }"""
    )
    assert is_told(page, "This is a text file, not a picture.")
    open_tab(page, "Adapt")
    page.locator("#pictures input[type=file]").set_input_files(str(file))
    assert is_told(page, f"{name} was left out. {told_}")
    open_tab(page, "Share")
    page.locator("#bring input[type=file]").set_input_files(str(file))
    assert is_told(page, messages.NOT_SAFETENSORS)
    page.locator("#share-note .error").wait_for(state="attached")
    assert not page.locator("#share-note .error").is_visible()  # Gradio's word, beside the message


def test_a_drawing_and_a_large_face_are_told_in_our_words(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit()
    (tmp_path / "me.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    add_photo(page, str(tmp_path / "me.svg"))
    assert is_told(page, "This is an SVG or XML drawing")
    (tmp_path / "me.safetensors").write_bytes(bytes(limits.MAX_BYTES + 9))
    open_tab(page, "Share")
    page.locator("#bring input[type=file]").set_input_files(str(tmp_path / "me.safetensors"))
    assert is_told(page, messages.FILE_TOO_LARGE)


def test_a_photo_that_browsers_do_not_show_is_read_and_no_broken_picture_is_seen(
    visit: Callable[..., Any], photo: str, tmp_path: Path
) -> None:
    page = visit()
    with Image.open(photo) as picture_:
        picture_.save(tmp_path / "me.tiff")
    add_photo(page, str(tmp_path / "me.tiff"), 4)
    told(page, "Same person")
    page.locator("#photo img").wait_for(state="hidden")
    said = "() => getComputedStyle(document.querySelector('#photo img').parentElement, '::after').content"
    assert page.evaluate(said) == '"Browsers do not show such a file."'
    page.locator("#photo input[type=file]").set_input_files(photo)
    picture(page, "photo")
    assert page.locator("#photo img").is_visible()
    assert page.evaluate(said) == "none"


def test_a_mix_gets_a_name_for_files_and_its_note_leaves_with_it(visit: Callable[..., Any]) -> None:
    page = visit()
    face(page)
    open_tab(page, "Style")
    page.locator("#domains button:has(img)").nth(0).click()
    page.locator("#strength-0").wait_for()
    page.locator("#mix-name input, #mix-name textarea").first.fill("Öl grün")
    page.locator("#keep-mix").click()
    reads(page, "style-note", "Ol-grun is kept")
    open_tab(page, "Share")
    assert saved(page, "export-file").suggested_filename == "Ol-grun.safetensors"
    page.locator("#hub-id input, #hub-id textarea").first.fill("jörg/öl-grün")
    page.locator("#load-id").click()
    assert is_told(page, messages.BAD_HUB_ID)
    page.locator("#remove").click()
    reads(page, "share-note", "Ol-grun is removed")
    open_tab(page, "Style")
    page.wait_for_function("() => document.querySelector('#style-note').innerText.trim() === ''")


def test_a_link_with_five_styles_keeps_four_and_says_so(
    visit: Callable[..., Any], demo: gr.Blocks, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "Öl grün", "d", "e"]
    for seed, name in enumerate(names):
        monkeypatch.setitem(jobs_of(demo).pipe.domains, name, domain(seed))
    page = visit(f"{url}?{urlencode({f'style.{name}': 0.2 for name in names})}")
    assert is_told(page, "The link has what is not here, or too many styles: e.")
    open_tab(page, "Style")
    reads(page, "chosen", r"a\s+b\s+Öl grün\s+d\s*$")
    assert page.locator("#strength-3").is_visible()


def test_a_typed_number_is_heard_of_when_it_is_whole(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page, pipe = visit(), jobs_of(demo).pipe
    start, (lowest, _) = face(page), pipe.directions["smile"].info.limits
    box = page.locator("#edit-smile input[type=number]")
    box.fill("")
    page.wait_for_timeout(500)
    assert page.locator("#edit-smile input[type=range]").input_value() == "0"
    box.press_sequentially("-99")
    page.keyboard.press("Enter")
    assert float(box.input_value()) == lowest
    drawn = pipe.generate([0], edits={"smile": lowest}, output_type="np")[0]
    assert alike(pixels(face_at_rest(page, start)), drawn)
    box.fill("")
    page.keyboard.press("Tab")
    assert float(box.input_value()) == lowest
    page.wait_for_timeout(1000)
    assert page.get_by_test_id("toast-body").count() == 0


def test_style_says_what_is_coming(visit: Callable[..., Any], demo: gr.Blocks) -> None:
    page = visit()
    face(page)
    with held(jobs_of(demo).turns):
        open_tab(page, "Style")
        reads(page, "no-domains", re.escape(messages.STYLES_COME))
        assert not page.locator("#domains").is_visible()
    page.locator("#domains img").first.wait_for()
    page.locator("#no-domains").wait_for(state="hidden")
