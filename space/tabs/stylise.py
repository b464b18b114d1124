"""Stylise: choose domains, mix them, on the face of the session or on random ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency

from .. import limits, messages
from ..handlers.stylise_handlers import FACE, FADE, RANDOM, TOUR, StyliseHandlers
from ..page import HIDDEN, Page, token_file


__all__ = ["build"]


def build(page: Page, on: StyliseHandlers, tab: gr.Tab) -> Callable[[Dependency], None]:
    """The layout; returns what to do with each event after which there may be another face."""
    low, high = limits.DOMAIN_STRENGTHS
    with gr.Row(elem_id="styler"):
        with gr.Column(scale=5, min_width=300):
            empty = gr.Markdown(messages.NO_DOMAINS, visible=False, elem_id="no-domains")
            gallery = gr.Gallery(
                label="Domains", show_label=False, columns=4, height="auto", visible=False, interactive=False,
                allow_preview=False, object_fit="contain", buttons=[], elem_id="domains",
            )  # fmt: skip
            chosen = gr.Dropdown(
                [], value=[], multiselect=True, max_choices=limits.MIXED, label="Chosen", elem_id="chosen",
                info=f"Click pictures, or choose here: up to {limits.MIXED}, which add up.", visible=False,
            )  # fmt: skip
            sliders = [
                gr.Slider(
                    low, high, 0, step=0.05, visible=False, interactive=True, buttons=[], elem_id=f"strength-{place}",
                    info="0 is without, 1 as it was made, more is exaggerated, less than 0 the opposite" if not place
                    else None,
                )
                for place in range(limits.MIXED)
            ]  # fmt: skip
            who = gr.Radio([FACE, RANDOM], value=RANDOM, label="On", elem_id="who")
            with gr.Row():
                seed = gr.Number(0, precision=0, minimum=0, label="Seed", scale=2, min_width=100, elem_id="style-seed")
                others = gr.Button("Other faces", scale=1, min_width=120, elem_id="others")
        with gr.Column(scale=6, min_width=300, elem_id="styled-stage"):
            compare = gr.ImageSlider(
                label="Without | with", format="png", interactive=False, buttons=["fullscreen"], elem_id="styled"
            )
            download = gr.DownloadButton("Download PNG", interactive=False, elem_id="styled-file")
    with gr.Accordion("All domains on one sheet", open=False, elem_id="sheet-panel"):
        all_of_them = gr.Button("Draw the sheet", elem_id="draw-sheet")
        sheet = gr.Image(
            label="All domains", show_label=False, interactive=False, buttons=["fullscreen"], format="png",
            visible=False, alt_text="Each face plain, then in every domain", elem_id="sheet",
        )  # fmt: skip
        sheet_file = gr.DownloadButton("Download PNG", visible=False, elem_id="sheet-file")
    with gr.Accordion("A film", open=False, elem_id="film-panel"):
        with gr.Row():
            kind = gr.Radio([FADE, TOUR], value=FADE, label="The chosen domains come", scale=3, elem_id="film-kind")
            shoot = gr.Button("Make the film", scale=1, elem_id="make-film")
        film = gr.Image(
            label="Film", show_label=False, interactive=False, buttons=[], visible=False, height=320,
            alt_text="A film of the face as it changes its domain", elem_id="film",
        )  # fmt: skip
        film_file = gr.DownloadButton("Download WebP", visible=False, elem_id="film-file")

    body = [who, seed, page.subject, page.edits, page.shelf]
    hidden: dict[str, Any] = {"api_visibility": "private", **page.line("draw")}
    live = {"trigger_mode": "always_last", "show_progress": "hidden", **hidden}
    results = [compare, download, page.mix]
    inputs = [chosen, *body, *sliders]
    # One after the other, or a single click would be two jobs at once.
    strengths = [page.mix, *sliders]
    outputs = [gallery, empty, chosen, *strengths]
    entering = [who, seed, page.mix, page.subject, page.edits, page.shelf]
    changed = others.click(on.others, [seed], [who, seed], **HIDDEN)
    for entered in (tab.select, who.input, seed.submit, changed.then):
        first = entered(on.enter, entering, outputs, show_progress="hidden", **hidden)
        first.then(on.stylise_live, inputs, results, **live)
    toggled = gallery.select(on.toggle, [chosen, page.shelf], [chosen], **HIDDEN)
    for picked in (chosen.input, toggled.then):
        picked(on.choose, [chosen, page.mix], strengths, **HIDDEN).then(on.stylise_live, inputs, results, **live)
    moved = [event for slider in sliders for event in (slider.input, slider.release)]
    gr.on(moved, on.stylise_live, inputs, results, **live)
    all_of_them.click(on.grid, body, [sheet, sheet_file], **hidden)
    shoot.click(on.film, [kind, page.mix, *body], [film, film_file], **hidden)

    # For clients of the API: the same as the sliders, by name.
    domains = gr.JSON({}, visible=False, label="domains")
    face, domain = (token_file(visible=False, label=label) for label in ("inversion_file", "domain_file"))
    asked = [domains, *body, face, gr.JSON(visible=False, label="edits"), domain]
    gr.Button(visible=False).click(on.stylise, asked, results, api_name="stylise", **page.line("draw"))

    def follow(event: Dependency) -> None:
        event.success(lambda subject: FACE if subject else gr.skip(), [page.subject], [who], **HIDDEN)

    return follow
