"""The canvas: the face, before and now, and what is done to it as a whole. canvas.html and canvas.js show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from .. import limits
from ..handlers.canvas_handlers import CanvasHandlers
from ..page import HIDDEN, Page
from ..session import Session


HERE = Path(__file__).parents[1]


def build(view: dict[str, Any]) -> gr.HTML:
    """The canvas, which shows ``view`` when the page opens."""
    return gr.HTML(
        view,
        html_template=(HERE / "canvas.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "canvas.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="canvas",
        most=limits.MAX_BYTES,
    )


def wire(page: Page, on: CanvasHandlers, sliders: list[gr.Slider]) -> None:
    """The events of the canvas, and of the sliders that act on it."""
    canvas, session = page.canvas, [page.session]
    asked = [page.session, *sliders]
    shown = [canvas, *page.controls]
    newest = {"trigger_mode": "always_last", **page.hidden("draw")}  # one is drawn, and of those that wait the last
    gr.on([slider.input for slider in sliders], on.drag, asked, [canvas], **newest)
    canvas.settle(on.settle, asked, [canvas], **newest)
    canvas.draw(on.draw, session, shown, **newest)
    for name in ("undo", "redo", "reset", "place"):  # events of canvas.js and methods of the session
        page.show(getattr(canvas, name)(on.change(getattr(Session, name)), asked, trigger_mode="multiple", **HIDDEN))
    saved = canvas.save(on.save, asked, [canvas], **page.hidden("draw"))
    saved.failure(None, None, [canvas], js="() => ({ save: { at: Date.now() } })", **HIDDEN)
    page.demo.load(on.arrive, session, shown, **page.hidden("draw"))
