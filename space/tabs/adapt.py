"""Adapt: pictures of a style on the left, what becomes of faces on the right."""

from __future__ import annotations

import gradio as gr

from .. import limits
from ..handlers.adapt_handlers import AdaptHandlers
from ..page import HIDDEN, Page, number, style_files, tiles


def build(page: Page, on: AdaptHandlers) -> None:
    """The layout."""
    gr.Markdown(
        "From 1 to 20 pictures of a style comes a *domain*: a small file that moves every face to it. The "
        "pictures need not show the same people, and five to ten give the best likeness.",
        elem_id="adapt-intro",
    )
    pictures = style_files(height=150, label="Pictures of a style", elem_id="pictures")
    example = gr.Button("Take the example: five sketches", size="sm", elem_id="style-example")
    squares = tiles(label="Squares", columns=5, height="auto", object_fit="cover", elem_id="squares")
    checked = gr.Markdown(visible=False, elem_id="checked")
    name = gr.Textbox(
        "", label="Name", placeholder="my-style", max_length=limits.MAX_NAME, elem_id="style-name",
        info="Letters, digits, dash and underscore.",
    )  # fmt: skip
    steps = gr.Slider(
        *limits.ADAPT_STEPS, on.default_steps, step=10, precision=0, label="Steps",
        info="More steps come closer to the style and take longer.", elem_id="adapt-steps",
    )  # fmt: skip
    estimate = gr.Markdown(on.estimate(on.default_steps), elem_id="estimate")
    with gr.Accordion("More options", open=False, elem_id="adapt-options"):
        tokens = gr.Slider(
            *limits.ADAPT_TOKENS, 4, step=1, precision=0, label="Tokens for each layer",
            info="The size of the file. Few keep to what all pictures share: colours and lines.",
            elem_id="adapt-tokens",
        )  # fmt: skip
        seed = number("Seed", elem_id="adapt-seed")
    rights = gr.Checkbox(
        False, label="I may use these pictures", elem_id="rights",
        info="They are mine or free to use, and people in them agree. They are deleted after two hours.",
    )  # fmt: skip
    with gr.Row():
        run = gr.Button("Make it", variant="primary", min_width=120, elem_id="adapt-run")
        stop = gr.Button("Stop", min_width=120, elem_id="adapt-stop")
    preview = gr.Image(
        label="Above without the domain, below with it", interactive=False, buttons=["fullscreen"], format="png",
        alt_text="Above some faces, below the same with the domain as it stands", elem_id="preview",
    )  # fmt: skip
    begin = "Here the same faces, yours among them, are shown while the domain is learnt: without it, and with it."
    note = gr.Markdown(begin, elem_id="adapt-note")
    download = gr.DownloadButton("Download domain", interactive=False, elem_id="domain-file")

    pictures.change(
        on.check, [pictures], [squares, checked], trigger_mode="always_last",
        **page.line("cpu", show_progress="minimal", show_progress_on=[checked]),
    )  # fmt: skip
    example.click(on.example, None, [pictures], **HIDDEN)
    steps.change(on.estimate, [steps], [estimate], **HIDDEN)
    done = run.click(
        on.adapt, [pictures, name, rights, steps, tokens, seed, page.session], [preview, note, download, page.session],
        **page.line("adapt", show_progress="minimal", show_progress_on=[note]),
    )  # fmt: skip
    stop.click(page.stop("adapt", "Stopping after this step; the best so far is kept."), None, [note], **HIDDEN)
    done.success(lambda held: gr.update(interactive=bool(held.shelf.domains)), [page.session], [download], **HIDDEN)
    page.show(done)
