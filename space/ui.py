"""Layout and wiring of the demo, nothing else: what happens is in ``handlers``."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency
from starlette.middleware import Middleware

from refinestyle_hub.pipeline import RefineStylePipeline

from . import limits, messages
from .attributes import grouped
from .guard import Guard
from .handlers import ORIGINAL, Handlers, label
from .jobs import Jobs, Stops, admit, gpu
from .theme import CSS, theme


__all__ = ["LAUNCH", "build"]

EXAMPLES = Path(__file__).with_name("examples")
LAUNCH: dict[str, Any] = {
    "max_file_size": limits.MAX_BYTES,
    "show_error": False,
    "run_history": False,  # it would keep photos in the visitor's browser
    "enable_monitoring": False,
    "ssr_mode": False,
    "mcp_server": None,
    "pwa": False,
    "footer_links": ["api", "gradio"],
    "state_session_capacity": limits.SESSIONS,
    "allowed_paths": [],
    "app_kwargs": {"middleware": [Middleware(Guard, limit=limits.MAX_BODY)]},
    "theme": theme(),
    "css_paths": [CSS],
}

HEADER = """
<h1>RefineStyle</h1>
<p>Give it a portrait: it finds the point at which a face generator draws that face, and lets you move on from there.</p>
"""


def build(pipe: RefineStylePipeline, name: str, notice: str = "", gpu: Callable[..., Any] = gpu) -> gr.Blocks:
    """The app for a pipeline, ready to launch with ``LAUNCH``.

    Args:
        pipe: what it draws with.
        name: what it is called in the header.
        notice: shown in a banner, such as that a model could not be loaded.
        gpu: ``spaces.GPU``, or a decorator like it.
    """
    stops = Stops()
    on = Handlers(Jobs(pipe, gpu), stops)
    with gr.Blocks(title="RefineStyle", analytics_enabled=False, delete_cache=limits.CACHE_SECONDS) as demo:
        subject = gr.State(None, time_to_live=limits.STATE_SECONDS)
        gr.HTML(HEADER, elem_id="header")
        gr.HTML(_model_line(pipe, name), elem_id="model")
        if notice:
            gr.HTML(f"<p>{html.escape(notice)}</p>", elem_id="notice")
        queued = _queued(demo, stops)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Invert", id="invert"):
                inversions = _invert_tab(on, subject, tabs, queued)
            with gr.Tab("Edit", id="edit"):
                _edit_tab(on, subject, inversions, queued)
        demo.unload(stops.stop)
    demo.queue(api_open=False, max_size=limits.QUEUE, default_concurrency_limit=4)
    return demo


def _queued(demo: gr.Blocks, stops: Stops) -> dict[str, Any]:
    """How every event that needs the accelerator is queued."""

    def validator(request: gr.Request, *values: Any) -> list[dict[str, Any]]:
        stops.clear(request)  # what was stopped is not this job
        return admit(demo, request, len(values))

    return {"concurrency_id": "gpu", "concurrency_limit": limits.GPU_JOBS, "validator": validator}


def _model_line(pipe: RefineStylePipeline, name: str) -> str:
    size = pipe.generator.config.resolution
    device = next(pipe.generator.parameters()).device.type.upper()
    small = ", a small model for trying things out" if size <= 128 else ""
    return f"<p><b>{html.escape(name)}</b> · {size} × {size} pixels{small} · on {device}</p>"  # noqa: RUF001


def _invert_tab(on: Handlers, subject: gr.State, tabs: gr.Tabs, queued: dict[str, Any]) -> list[Dependency]:
    """Photo on the left, result on the right; returns the events after which there is a face to edit."""
    found = gr.State(None, time_to_live=limits.STATE_SECONDS)
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            photo = gr.Image(
                type="filepath",
                image_mode=None,  # the file as it came
                sources=["upload", "webcam", "clipboard"],
                buttons=[],
                height=300,
                label="Photo",
                placeholder="Drop a portrait here, or click to choose one",
                alt_text="The photo that was added",
                elem_id="photo",
            )
            # Gradio would open the file, and fail without a word where it is no picture: the loader is ours.
            photo.preprocess = lambda payload: payload and payload.path  # type: ignore[method-assign]
            example = gr.Examples(
                [[str(path)] for path in sorted(EXAMPLES.glob("*.jpg"))],
                [photo],
                cache_examples=False,
                label="No photo at hand? One click on the example shows it all.",
                api_visibility="private",
                elem_id="examples",
            )
            aligned = gr.Checkbox(
                False, label="Already aligned", info="The picture is a face crop as in FFHQ; no face is looked for.", elem_id="aligned"
            )
            framed = gr.Image(
                label="What will be used", buttons=[], height=220, visible=False, interactive=False, format="jpeg",
                alt_text="The photo with a frame around the part that will be used", elem_id="framed",
            )  # fmt: skip
            crops = gr.Gallery(
                label="Faces", columns=4, height=150, visible=False, interactive=False, allow_preview=False,
                object_fit="cover", buttons=[], format="jpeg", elem_id="crops",
            )  # fmt: skip
            faces = gr.Markdown("", elem_id="faces")
            face = gr.Number(0, precision=0, minimum=0, visible=False, label="face", elem_id="face")
            steps = gr.Slider(
                0, limits.MAX_STEPS, limits.DEFAULT_STEPS, step=10, precision=0, label="Steps",
                info="More steps come closer to the photo and take longer.", elem_id="steps",
            )  # fmt: skip
            with gr.Accordion("More options", open=False, elem_id="options"):
                tokens = gr.Checkbox(
                    True, label="Refine with tokens", elem_id="tokens",
                    info="w+ codes alone give a likeness; tokens add what the generator has never seen.",
                )  # fmt: skip
                seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="The same seed gives the same result.", elem_id="seed")
            with gr.Row():
                run = gr.Button("Invert", variant="primary", elem_id="run")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=6, min_width=300):
            compare = gr.ImageSlider(
                label="Photo | reconstruction", format="png", interactive=False, buttons=["fullscreen"], elem_id="compare"
            )
            note = gr.Markdown("The reconstruction will appear here.", elem_id="note")
            stages = gr.Gallery(
                label="Stages", columns=3, height=220, interactive=False, allow_preview=False, object_fit="contain",
                buttons=[], format="png", elem_id="stages",
            )  # fmt: skip
            go = gr.Button("Edit this face", visible=False, elem_id="go")

    gr.on(
        [photo.change, aligned.input], on.align, [photo, aligned], [framed, crops, faces, face, found],
        api_name="align", trigger_mode="always_last", show_progress="minimal", show_progress_on=[faces],
        concurrency_id="cpu", concurrency_limit=2,
    )  # fmt: skip
    crops.select(on.choose, [photo, found], [face, framed], api_visibility="private", queue=False)
    inputs = [photo, aligned, face, steps, tokens, seed, found]
    outputs = [compare, stages, note, subject]
    shown: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": [note], **queued}
    pressed = run.click(on.invert, inputs, outputs, api_name="invert", **shown)
    tried = example.load_input_event.then(on.invert, inputs, outputs, api_visibility="private", **shown)
    stop.click(on.stop, None, [note], api_visibility="private", queue=False)
    for done in (pressed, tried):
        done.success(lambda: gr.update(visible=True), None, [go], api_visibility="private", queue=False)
    go.click(lambda: gr.update(selected="edit"), None, [tabs], api_visibility="private", queue=False)
    return [pressed, tried]


def _edit_tab(on: Handlers, subject: gr.State, inversions: list[Dependency], queued: dict[str, Any]) -> None:
    """The picture, and a slider for each direction of the model."""
    with gr.Row(elem_id="editor"):
        with gr.Column(scale=5, min_width=300, elem_id="stage"):
            compare = gr.ImageSlider(
                label="Before | after", format="png", interactive=False, buttons=["fullscreen"], elem_id="edited"
            )
            before = gr.Radio(["reconstruction", ORIGINAL], value="reconstruction", label="Compare with", elem_id="before")
            with gr.Row():
                download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download")
                reset = gr.Button("Reset all", elem_id="reset")
        with gr.Column(scale=5, min_width=300):
            hint = gr.Markdown(messages.NOT_INVERTED, elem_id="hint")
            sliders = _sliders(on)
            with gr.Accordion("A strip of strengths", open=False, elem_id="strip-panel"):
                names = [(label(name), name) for name in sliders]
                attribute = gr.Dropdown(names, value=names[0][1] if names else None, label="Attribute", elem_id="attribute")
                draw = gr.Button("Draw the strip", elem_id="draw")
                strip = gr.Gallery(
                    label="Strip", columns=limits.STRIP, interactive=False, object_fit="contain", buttons=["download_all"],
                    format="png", elem_id="strip",
                )  # fmt: skip
    values = [sliders[name] for name in on.directions]
    live: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", **queued}
    gr.on(
        [before.input, *(slider.input for slider in values)], on.edit_live, [before, subject, *values], [compare, download],
        trigger_mode="always_last", **live,
    )  # fmt: skip
    reset.click(on.reset, [before, subject], [compare, download, *values], **live)
    draw.click(on.strip, [attribute, subject], [strip], api_visibility="private", **queued)
    for done in inversions:
        done.success(on.enter, [subject], [compare, download, hint, *values], api_visibility="private", queue=False)

    # For clients of the API: the same as the sliders, by name.
    edits = gr.JSON({}, visible=False, label="edits")
    gr.Button(visible=False).click(on.edit, [edits, before, subject], [compare, download], api_name="edit", **queued)


def _sliders(on: Handlers) -> dict[str, gr.Slider]:
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
