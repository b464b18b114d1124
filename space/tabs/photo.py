"""Photo: whose face it is. One's own, the example, or somebody who does not exist."""

from __future__ import annotations

import gradio as gr

from .. import limits
from ..handlers.photo_handlers import PhotoHandlers
from ..page import HIDDEN, NEWEST, Page, number, photo_file, tiles, visible


def build(page: Page, on: PhotoHandlers) -> None:
    """The layout."""
    canvas = on.canvas
    detected = gr.State({}, time_to_live=limits.STATE_SECONDS)
    face = number("face", visible=False, elem_id="face")
    reading = number("reading", visible=False)  # a new number is a new reading
    photo = photo_file(
        height=250, label="Your photo", buttons=[], sources=["upload", "webcam", "clipboard"],
        placeholder="Drop a portrait here, or click to choose one", alt_text="The photo that was added",
        elem_id="photo",
    )  # fmt: skip
    with gr.Row(elem_id="found"):
        framed = gr.Image(
            label="Used part", show_label=False, buttons=[], height=110, min_width=110, visible=False,
            interactive=False, alt_text="The photo, with a frame around what is used", elem_id="framed",
        )  # fmt: skip
        faces = gr.Markdown(visible=False, elem_id="faces")
    crops = tiles(label="Faces", columns=4, height=150, object_fit="cover", elem_id="crops")
    with gr.Row(elem_id="others"):
        example = gr.Button("The astronaut", min_width=110, visible=canvas.example is not None, elem_id="example")
        draw = gr.Button("Draw a person", min_width=110, elem_id="draw-person")
        person = number("Seed", min_width=90, elem_id="person")
    with gr.Accordion("More options", open=False, elem_id="options"):
        aligned = gr.Checkbox(
            False, label="Already aligned", elem_id="aligned",
            info="The picture is a face crop as in FFHQ: no face is looked for.",
        )  # fmt: skip
        steps = gr.Slider(
            0, limits.MAX_STEPS, limits.DEFAULT_STEPS[on.jobs.pipe.encoder is not None], step=2, precision=0,
            label="Steps", info="More steps come closer to the photo and take longer.", elem_id="steps",
        )  # fmt: skip
        tokens = gr.Checkbox(
            True, label="Refine with tokens", elem_id="tokens",
            info="w+ codes alone give a likeness; tokens add what the generator has never seen.",
        )  # fmt: skip
        seed = number("Seed of the search", elem_id="seed")
        again = gr.Button("Read the photo again", elem_id="run")

    given = {"triggers": [photo.input, aligned.input], "trigger_mode": "multiple", **HIDDEN}
    looked = gr.on(fn=on.put, inputs=[page.session, photo], outputs=[page.canvas], **given).success(
        on.look, [page.session, photo, aligned], [framed, crops, faces, face, detected],
        trigger_mode="always_last", **page.line("cpu", show_progress="minimal", show_progress_on=[faces]),
    )  # fmt: skip
    # What was shown is of another photo; and what is no picture leaves its box.
    looked.failure(lambda: [*[visible()] * 3, 0, {}], None, [framed, crops, faces, face, detected], **HIDDEN)
    looked.failure(None, [photo], [photo], js="file => unlessBroken(file)", **HIDDEN)
    chosen = crops.select(on.choose, None, [face], **HIDDEN)
    for started in (looked.success, chosen.success):
        started(on.begin, [page.session, photo], [reading, page.canvas], **HIDDEN)
    again.click(on.again, [page.session, photo], [reading, page.canvas], **page.hidden("cpu"))
    page.canvas.panel(on.panel, [page.session], [photo, framed, crops, faces, face], **HIDDEN)
    inputs = [page.session, photo, aligned, face, steps, tokens, seed, detected, reading]
    shown = [page.canvas, *page.controls]
    page.show(reading.change(on.read, inputs, shown, trigger_mode="always_last", **page.hidden("invert")))
    gr.on([page.canvas.stop, photo.clear], page.stop("invert", {"stopping": True}), None, [page.canvas], **HIDDEN)
    # In the queue: where the stream of answers was lost, a queued event opens another one.
    page.canvas.ask(page.alive, [page.session], [page.canvas], **page.hidden("ask"))

    asked = [page.session, person]
    drawn = draw.click(None, None, [person], js="() => Math.floor(1e5 * Math.random())", **HIDDEN)
    page.show(drawn.then(canvas.meet, asked, None, **NEWEST), person.submit(canvas.meet, asked, None, **NEWEST))
    page.show(example.click(canvas.meet, [page.session], None, **NEWEST))
