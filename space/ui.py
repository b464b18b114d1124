"""The demo as a whole: header, canvas, panels, queue. Layout is in ``tabs``, what happens in ``handlers``."""

from __future__ import annotations

import base64
import html
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
import torch
from starlette.middleware import Middleware

from refinestyle_hub.pipeline import RefineStylePipeline

from . import agents, limits
from .admission import Stops
from .guard import Guard
from .handlers.adapt_handlers import AdaptHandlers
from .handlers.canvas_handlers import CanvasHandlers
from .handlers.photo_handlers import PhotoHandlers
from .handlers.share_handlers import ShareHandlers
from .handlers.style_handlers import StyleHandlers
from .jobs import Jobs
from .model import EXAMPLES, astronaut
from .page import HIDDEN, Page
from .session import Look, Session
from .tabs import adapt, api, canvas, edit, photo, share, style
from .theme import CSS, theme


HEADER, ABOUT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("header.html", "about.md"))
VERSIONS = f"Python {platform.python_version()} · torch {torch.__version__} · gradio {gr.__version__}"


def launch_settings() -> dict[str, Any]:
    """The arguments of ``launch``: new ones for each app, since Gradio changes them, and a second app would start what
    belongs to the first."""
    port = os.environ.get("GRADIO_SERVER_PORT", "")
    return {
        "server_port": int(port) if port.isdecimal() else None,  # or Gradio would take the next one without a word
        "max_file_size": limits.MAX_BYTES + 1,  # so much of a larger file comes in, and our loaders say what is wrong
        "run_history": False,  # it would keep photos in the visitor's browser
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "footer_links": ["api", "gradio"],
        "state_session_capacity": limits.SESSIONS,
        "app_kwargs": {"middleware": [Middleware(Guard, limit=limits.MAX_BODY, room=limits.MIN_ROOM)]},
        "_frontend": False,  # or a machine that is busy for three seconds at the start could not run it
        "theme": theme(),
        "css_paths": [CSS],
    }


def build(pipe: RefineStylePipeline, name: str, notice: str = "", gpu: Callable[..., Any] = spaces.GPU) -> gr.Blocks:
    """The app for a pipeline, ready to launch with ``launch_settings()``.

    Args:
        pipe: what it draws with.
        name: what it is called in the header.
        notice: shown in a banner, such as that a model could not be loaded.
        gpu: ``spaces.GPU``, or a decorator like it.
    """
    agents.install()
    stops = Stops()
    jobs = Jobs(pipe, gpu)
    on = CanvasHandlers(jobs, astronaut(pipe))
    first = Session(Look(0 if on.example is None else on.example))
    view = on.draw(first)[0]
    people = base64.b64encode((EXAMPLES / "people.webp").read_bytes()).decode()
    demo = gr.Blocks(title="RefineStyle", analytics_enabled=False, delete_cache=limits.CACHE_SECONDS)
    with demo:
        small = ", a small model for trying things out" if jobs.size <= 128 else ""
        named = {"name": html.escape(name), "size": jobs.size, "small": small, "device": pipe.device.type.upper()}
        gr.HTML(HEADER.format(**named, people=people), elem_id="header")
        if notice:
            gr.HTML(f"<p>{html.escape(notice)}</p>", elem_id="notice")
        session = gr.State(first, time_to_live=limits.STATE_SECONDS)
        photos, styles = PhotoHandlers(on, stops), StyleHandlers(on)
        adapting, sharing = AdaptHandlers(jobs, stops), ShareHandlers(jobs, name)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=6, min_width=300, elem_id="stage"):
                page = Page(demo, stops, session, canvas.build(view))
                api.build(page, photos, adapting, styles, sharing)  # first: their names are then as documented
            with gr.Column(scale=5, min_width=300, elem_id="panels"), gr.Tabs(selected="edit", elem_id="tabs") as tabs:
                photo_tab = gr.Tab("Photo", id="photo")
                with gr.Tab("Edit", id="edit"):
                    sliders = edit.build(on)
                page.controls.extend(sliders)
                with gr.Tab("Style", id="style") as tab:
                    strengths = style.build(page, styles, tab)
                with photo_tab:
                    photo.build(page, photos)  # last: it sets the controls of Edit and Style
                with gr.Tab("Adapt", id="adapt"):
                    adapt.build(page, adapting)
                with gr.Tab("Share", id="share") as tab:
                    share.build(page, sharing, tab, tabs)
                with gr.Tab("About", id="about"):
                    gr.Markdown(ABOUT, elem_id="about")
                    gr.Markdown(
                        f"`{name}` · `{pipe.fingerprint}` · {VERSIONS} · {pipe.device.type}", elem_id="versions"
                    )
        canvas.wire(page, on, [*sliders, *strengths])
        # Gradio counts a value's age from when it was written: while the page is open, it is written anew.
        gr.Timer(limits.STATE_SECONDS / 3).tick(lambda held: held, [session], [session], **HIDDEN)
        demo.unload(stops.leave)
    demo.queue(api_open=False, max_size=limits.QUEUE, default_concurrency_limit=4)
    return demo
