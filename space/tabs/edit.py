"""Edit: the picture, and a slider for each direction of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency

from .. import limits, messages
from ..attributes import grouped, label
from ..handlers.edit_handlers import ORIGINAL, EditHandlers
from ..page import HIDDEN, Page, token_file


__all__ = ["build"]


def build(page: Page, on: EditHandlers) -> Callable[[Dependency], None]:
    """The layout; returns what to do with each event after which there may be another face."""
    subject, queued = page.subject, page.line("draw")
    with gr.Row(elem_id="editor"):
        with gr.Column(scale=5, min_width=300, elem_id="stage"):
            compare = gr.ImageSlider(
                label="Before | after", format="png", interactive=False, buttons=["fullscreen"], elem_id="edited"
            )
            hint = gr.Markdown(messages.NOT_INVERTED, elem_id="hint")
            before = gr.Radio(
                ["reconstruction", ORIGINAL], value="reconstruction", label="Compare with", elem_id="before"
            )
            with gr.Row(elem_id="after"):
                reset = gr.Button("Reset all", min_width=120, elem_id="reset")
                download = gr.DownloadButton("Download PNG", min_width=120, interactive=False, elem_id="download")
        with gr.Column(scale=5, min_width=300):
            sliders = _sliders(on)
    with gr.Accordion("A strip or a film of one attribute", open=False, elem_id="strip-panel"):
        with gr.Row():
            names = [(label(name), name) for name in sliders]
            attribute = gr.Dropdown(
                names, value=names[0][1] if names else None, label="Attribute", scale=3, elem_id="attribute"
            )
            draw = gr.Button("Draw the strip", scale=1, elem_id="draw")
            shoot = gr.Button("Make a film", scale=1, elem_id="shoot")
        strip = gr.Gallery(
            label="Strip", show_label=False, columns=limits.STRIP, rows=1, height="auto", interactive=False,
            object_fit="contain", buttons=["download_all"], elem_id="strip",
        )  # fmt: skip
        with gr.Row(elem_id="edit-film-row"):
            film = gr.Image(
                label="Film", show_label=False, interactive=False, buttons=[], visible=False, height=260,
                alt_text="A film of the attribute from its lowest to its highest strength", elem_id="edit-film",
            )  # fmt: skip
            save = gr.DownloadButton("Download WebP", visible=False, elem_id="edit-film-file")
    values = [sliders[name] for name in on.directions]
    # A drag, keys and numbers are inputs; the button that resets a slider only "releases" it.
    moved = [event for slider in values for event in (slider.input, slider.release)]
    live: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", **queued}
    inputs, outputs = [before, subject, *values], [compare, download, page.edits]
    gr.on([before.input, *moved], on.edit_live, inputs, outputs, trigger_mode="always_last", **live)
    reset.click(on.reset, [before, subject], [*outputs, *values], **live)
    draw.click(on.strip, [attribute, subject], [strip], api_visibility="private", **queued)
    shoot.click(on.film, [attribute, subject], [film, save], api_visibility="private", **queued)

    # For clients of the API: the same as the sliders, by name.
    edits = gr.JSON({}, visible=False, label="edits")
    asked = [edits, before, subject, token_file(visible=False, label="inversion_file")]
    gr.Button(visible=False).click(on.edit, asked, outputs, api_name="edit", **queued)

    def follow(event: Dependency) -> None:
        event.success(on.enter, [before, subject, page.edits], [compare, download, hint, *values], **HIDDEN)

    return follow


def _sliders(on: EditHandlers) -> dict[str, gr.Slider]:
    """A slider for each direction, in the order in which they are shown."""
    sliders: dict[str, gr.Slider] = {}
    for place, (group, members) in enumerate(grouped(on.directions).items()):
        with gr.Accordion(group, open=place < 2):
            for name, attribute in members.items():
                low, high = on.jobs.pipe.directions[name].info.limits
                sliders[name] = gr.Slider(
                    low, high, 0, step=0.1, label=attribute.label, info=attribute.ends or None, interactive=False,
                    buttons=["reset"], elem_id=f"edit-{name}",
                )  # fmt: skip
    return sliders
