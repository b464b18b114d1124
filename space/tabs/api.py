"""The endpoints for clients of the API. Their inputs and outputs are components that nobody sees."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .. import limits
from ..handlers.adapt_handlers import AdaptHandlers
from ..handlers.photo_handlers import PhotoHandlers
from ..handlers.share_handlers import ShareHandlers
from ..handlers.style_handlers import FACE, RANDOM, StyleHandlers
from ..page import Page, number, photo_file, style_files, token_file


def build(page: Page, photo: PhotoHandlers, adapt: AdaptHandlers, style: StyleHandlers, share: ShareHandlers) -> None:
    """Six endpoints, each a function of one of the handlers."""

    def pair() -> gr.ImageSlider:
        return gr.ImageSlider(format="png", interactive=False)

    def endpoint(line: str, function: Any, inputs: list[Any], outputs: list[Any]) -> None:
        public = {"api_name": function.__name__, "api_visibility": "public"}
        gr.Button().click(function, inputs, outputs, **page.line(line, **public))

    with gr.Column(visible=False):
        detected = gr.State({}, time_to_live=limits.STATE_SECONDS)
        shown = [gr.Image(format="png"), gr.Gallery(), gr.Markdown(), number("face"), detected]
        endpoint("cpu", photo.align, [photo_file(label="photo"), gr.Checkbox(label="aligned")], shown)
        asked = [
            photo_file(label="photo"), gr.Checkbox(label="aligned"), number("face"),
            number("steps", 0, limits.MAX_STEPS, 100), gr.Checkbox(True, label="tokens"), number("seed"), page.session,
        ]  # fmt: skip
        found = [pair(), gr.Gallery(), gr.Markdown(), gr.File(label="file"), page.session]
        endpoint("invert", photo.invert, asked, found)
        before = gr.Radio(["reconstruction", "photo"], value="reconstruction", label="before")
        asked = [gr.JSON({}, label="edits"), before, page.session, token_file(label="inversion_file")]
        endpoint("draw", photo.canvas.edit, asked, [pair(), gr.File(label="file"), page.session])
        asked = [
            style_files(label="pictures"), gr.Textbox(label="name"), gr.Checkbox(label="rights"),
            number("steps", *limits.ADAPT_STEPS, adapt.default_steps), number("tokens", *limits.ADAPT_TOKENS, 4),
            number("seed"), page.session,
        ]  # fmt: skip
        made = [gr.Image(format="png"), gr.Markdown(), gr.File(label="file"), page.session]
        endpoint("adapt", adapt.adapt, asked, made)
        on = gr.Radio([FACE, RANDOM], value=RANDOM, label="on")
        asked = [
            gr.JSON({}, label="domains"), on, number("seed"), page.session, token_file(label="inversion_file"),
            gr.JSON(label="edits"), token_file(label="domain_file"),
        ]  # fmt: skip
        endpoint("draw", style.stylise, asked, [pair(), gr.File(label="file"), page.session])
        endpoint("cpu", share.export, [gr.Textbox(label="what"), page.session], [gr.File(label="file")])
