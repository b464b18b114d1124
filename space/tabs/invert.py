"""Invert: a photo on the left, what the generator makes of it on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from .. import limits
from ..handlers.invert_handlers import InvertHandlers
from ..page import HIDDEN, Page
from ..updates import hide


__all__ = ["build"]

EXAMPLES = Path(__file__).parents[1] / "examples"


def build(page: Page, on: InvertHandlers) -> list[Dependency]:
    """Photo on the left, result on the right; returns the events after which there is a face to edit."""
    detected = gr.State(None, time_to_live=limits.STATE_SECONDS)
    face = gr.Number(0, precision=0, minimum=0, visible=False, label="face", elem_id="face")
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            photo = gr.Image(
                type="filepath", image_mode=None, height=300, label="Photo", buttons=[],
                sources=["upload", "webcam", "clipboard"], placeholder="Drop a portrait here, or click to choose one",
                alt_text="The photo that was added", elem_id="photo",
            )  # fmt: skip
            # Gradio would open the file, and fail without a word where it is no picture: the loader is ours.
            photo.preprocess = lambda payload: payload and payload.path  # type: ignore
            example = gr.Examples(
                [[str(path)] for path in sorted(EXAMPLES.glob("*.jpg"))], [photo], cache_examples=False,
                label="No photo at hand? One click on the example shows it all.", api_visibility="private",
                elem_id="examples",
            )  # fmt: skip
            with gr.Row(elem_id="found"):
                framed = gr.Image(
                    label="Used part", show_label=False, buttons=[], height=150, min_width=120, visible=False,
                    interactive=False, alt_text="The photo, with a frame around what is used", elem_id="framed",
                )  # fmt: skip
                with gr.Column(min_width=160):
                    faces = gr.Markdown(visible=False, elem_id="faces")
                    aligned = gr.Checkbox(
                        False, label="Already aligned", elem_id="aligned", container=False,
                        info="The picture is a face crop as in FFHQ: no face is looked for.",
                    )  # fmt: skip
            crops = gr.Gallery(
                label="Faces", columns=4, height=150, visible=False, interactive=False, allow_preview=False,
                object_fit="cover", buttons=[], elem_id="crops",
            )  # fmt: skip
            usual = limits.DEFAULT_STEPS[on.jobs.pipe.encoder is not None]
            steps = gr.Slider(
                0, limits.MAX_STEPS, usual, step=10, precision=0, label="Steps", elem_id="steps",
                info="More steps come closer to the photo and take longer.",
            )  # fmt: skip
            with gr.Accordion("More options", open=False, elem_id="options"):
                tokens = gr.Checkbox(
                    True, label="Refine with tokens", elem_id="tokens",
                    info="w+ codes alone give a likeness; tokens add what the generator has never seen.",
                )  # fmt: skip
                seed = gr.Number(
                    0,
                    precision=0,
                    minimum=0,
                    label="Seed",
                    info="The same seed gives the same result.",
                    elem_id="seed",
                )
            with gr.Row():
                run = gr.Button("Invert", variant="primary", min_width=120, elem_id="run")
                stop = gr.Button("Stop", min_width=120, elem_id="stop")
        with gr.Column(scale=6, min_width=300):
            compare = gr.ImageSlider(
                label="Photo | reconstruction", format="png", interactive=False, buttons=["fullscreen"],
                elem_id="compare",
            )  # fmt: skip
            note = gr.Markdown("The reconstruction will appear here.", elem_id="note")
            stages = gr.Gallery(
                label="Stages", show_label=False, columns=3, rows=1, height="auto", interactive=False,
                allow_preview=False, object_fit="contain", buttons=[], visible=False, elem_id="stages",
            )  # fmt: skip
            go = gr.Button("Edit this face", visible=False, elem_id="go")

    looked = gr.on(
        [photo.change, aligned.input], on.align, [photo, aligned], [framed, crops, faces, face, detected],
        api_name="align", trigger_mode="always_last", show_progress="minimal", show_progress_on=[faces],
        **page.line("cpu"),
    )  # fmt: skip
    # What was shown is of another photo.
    looked.failure(lambda: [*[hide()] * 3, 0, None], None, [framed, crops, faces, face, detected], **HIDDEN)
    crops.select(on.choose, [photo, detected], [face, framed], **HIDDEN)
    inputs = [photo, aligned, face, steps, tokens, seed, detected]
    outputs = [compare, stages, note, page.subject, page.edits]
    shown: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": [note], **page.line("invert")}
    pressed = run.click(on.invert_live, inputs, outputs, api_visibility="private", **shown)
    tried = example.load_input_event.then(on.invert_live, inputs, outputs, api_visibility="private", **shown)
    stop.click(page.while_waiting("invert", on.stop), None, [note], **HIDDEN)
    for done in (pressed, tried):
        done.success(lambda: [gr.update(visible=True)] * 2, None, [go, stages], **HIDDEN)
    go.click(page.open("edit"), None, [page.tabs], **HIDDEN)

    # For clients of the API: the same, and the face as a file.
    outputs = [compare, stages, note, gr.File(visible=False, label="file"), page.subject, page.edits]
    gr.Button(visible=False).click(on.invert, inputs, outputs, api_name="invert", **page.line("invert"))
    return [pressed, tried]
