"""Style: choose domains and mix them, on the face of the canvas."""

from __future__ import annotations

import gradio as gr

from .. import limits, messages
from ..handlers.style_handlers import FADE, ROW, TOUR, StyleHandlers
from ..page import HIDDEN, NEWEST, Page, tiles


def build(page: Page, on: StyleHandlers, tab: gr.Tab) -> list[gr.Slider]:
    """The layout; returns the sliders of the chosen domains. They and the choice follow the look."""
    empty = gr.Markdown(messages.STYLES_COME, elem_id="no-domains")
    gallery = tiles(label="Styles", columns=ROW, height="auto", object_fit="contain", elem_id="domains")
    chosen = gr.Dropdown(
        [], value=[], multiselect=True, max_choices=limits.MIXED, label="Chosen", elem_id="chosen",
        info=f"Click pictures, or choose here: up to {limits.MIXED} share the strength; one more replaces the first.",
    )  # fmt: skip
    sliders = [
        gr.Slider(
            *limits.DOMAIN_STRENGTHS, 0, step=0.05, visible=False, interactive=True, buttons=[],
            elem_id=f"strength-{place}", elem_classes="control",
            info=None if place else "0 is without, 1 as it was made, less than 0 the opposite",
        )
        for place in range(limits.MIXED)
    ]  # fmt: skip
    page.controls.extend([chosen, *sliders])
    with gr.Row(elem_id="keep-row"):
        name = gr.Textbox(
            label="Save this mix", placeholder="a name", max_length=limits.MAX_NAME, scale=3, elem_id="mix-name"
        )
        keep = gr.Button("Save", scale=1, min_width=80, elem_id="keep-mix")
    note = gr.Markdown(elem_id="style-note")
    with gr.Accordion("All styles on one sheet", open=False, elem_id="sheet-panel"):
        all_of_them = gr.Button("Draw the sheet", elem_id="draw-sheet")
        sheet = gr.Image(
            label="All styles", show_label=False, interactive=False, buttons=["fullscreen"], format="png",
            alt_text="The face and three drawn ones, each in every style", elem_id="sheet",
        )  # fmt: skip
        sheet_file = gr.DownloadButton("Download PNG", visible=False, elem_id="sheet-file")
    with gr.Accordion("A film", open=False, elem_id="film-panel"):
        kind = gr.Radio([FADE, TOUR], value=FADE, label="What happens in it", elem_id="film-kind")
        shoot = gr.Button("Make the film", elem_id="make-film")
        film = gr.Image(
            label="Film", show_label=False, interactive=False, buttons=[], height=320,
            alt_text="A film of the face as it changes", elem_id="film",
        )  # fmt: skip
        film_file = gr.DownloadButton("Download WebP", visible=False, elem_id="film-file")

    session, shown = [page.session], [gallery, empty]
    tab.select(on.enter, session, shown, **page.hidden("draw"))
    tab.select(None, None, [note], js="() => ''", **HIDDEN)  # a mix that it tells of may be removed by now
    kept = keep.click(on.keep, [page.session, name], [note], **page.hidden("cpu"))
    page.show(
        gallery.select(on.toggle, session, None, trigger_mode="multiple", **HIDDEN),
        chosen.input(on.choose, [page.session, chosen], None, **NEWEST),
        kept,
    )
    kept.success(on.enter, session, shown, **page.hidden("draw"))
    all_of_them.click(on.sheet, session, [sheet, sheet_file], **page.line("draw"))
    shoot.click(on.film, [page.session, kind], [film, film_file], **page.line("draw"))
    return sliders
