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
from .theme import CSS, PAGE, theme


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
    "_frontend": False,  # or a machine that is busy for three seconds at the start could not run it
    "theme": theme(),
    "css_paths": [CSS],
    "js": PAGE.read_text(encoding="utf-8"),
}

HEADER = """
<h1>RefineStyle</h1>
<p>Give it a portrait: it finds how a face generator draws that face, and lets you change it from there.</p>
<p class="model">{model}</p>
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
    demo = gr.Blocks(title="RefineStyle", analytics_enabled=False, delete_cache=limits.CACHE_SECONDS)
    with demo:
        subject = gr.State(None, time_to_live=limits.STATE_SECONDS)
        gr.HTML(HEADER.format(model=_model_line(pipe, name)), elem_id="header")
        if notice:
            gr.HTML(f"<p>{html.escape(notice)}</p>", elem_id="notice")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Invert", id="invert"):
                inversions = _invert_tab(on, subject, tabs, _queued(demo, stops.clear))
            with gr.Tab("Edit", id="edit"):
                _edit_tab(on, subject, inversions, _queued(demo))
        demo.unload(stops.stop)
    demo.queue(api_open=False, max_size=limits.QUEUE, default_concurrency_limit=4)
    return demo


def _queued(demo: gr.Blocks, first: Callable[[gr.Request], None] | None = None) -> dict[str, Any]:
    """How an event that needs the accelerator is queued; ``first`` is done when it is admitted."""

    def validator(request: gr.Request, *values: Any) -> list[dict[str, Any]]:
        if first is not None:
            first(request)
        return admit(demo, request, len(values))

    return {"concurrency_id": "gpu", "concurrency_limit": limits.GPU_JOBS, "validator": validator}


def _model_line(pipe: RefineStylePipeline, name: str) -> str:
    size = pipe.generator.config.resolution
    device = next(pipe.generator.parameters()).device.type.upper()
    small = ", a small model for trying things out" if size <= 128 else ""
    return f"<b>{html.escape(name)}</b> · {size} × {size} pixels{small} · on {device}"


def _invert_tab(on: Handlers, subject: gr.State, tabs: gr.Tabs, queued: dict[str, Any]) -> list[Dependency]:
    """Photo on the left, result on the right; returns the events after which there is a face to edit."""
    found = gr.State(None, time_to_live=limits.STATE_SECONDS)
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
            steps = gr.Slider(
                0, limits.MAX_STEPS, limits.DEFAULT_STEPS, step=10, precision=0, label="Steps", elem_id="steps",
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
        done.success(lambda: [gr.update(visible=True)] * 2, None, [go, stages], api_visibility="private", queue=False)
    go.click(lambda: gr.update(selected="edit"), None, [tabs], api_visibility="private", queue=False)
    return [pressed, tried]


def _edit_tab(on: Handlers, subject: gr.State, inversions: list[Dependency], queued: dict[str, Any]) -> None:
    """The picture, and a slider for each direction of the model."""
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
    with gr.Accordion("A strip of strengths", open=False, elem_id="strip-panel"):
        with gr.Row():
            names = [(label(name), name) for name in sliders]
            attribute = gr.Dropdown(
                names, value=names[0][1] if names else None, label="Attribute", scale=3, elem_id="attribute"
            )
            draw = gr.Button("Draw the strip", scale=1, elem_id="draw")
        strip = gr.Gallery(
            label="Strip", show_label=False, columns=limits.STRIP, rows=1, height="auto", interactive=False,
            object_fit="contain", buttons=["download_all"], elem_id="strip",
        )  # fmt: skip
    values = [sliders[name] for name in on.directions]
    # A drag, keys and numbers are inputs; the button that resets a slider only "releases" it.
    moved = [event for slider in values for event in (slider.input, slider.release)]
    live: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", **queued}
    inputs, outputs = [before, subject, *values], [compare, download]
    gr.on([before.input, *moved], on.edit_live, inputs, outputs, trigger_mode="always_last", **live)
    reset.click(on.reset, [before, subject], [*outputs, *values], **live)
    draw.click(on.strip, [attribute, subject], [strip], api_visibility="private", **queued)
    for done in inversions:
        done.success(on.enter, [subject], [*outputs, hint, *values], api_visibility="private", queue=False)

    # For clients of the API: the same as the sliders, by name.
    edits = gr.JSON({}, visible=False, label="edits")
    gr.Button(visible=False).click(on.edit, [edits, before, subject], outputs, api_name="edit", **queued)


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
