"""The demo as a whole: header, tabs, queue. Their layout is in ``tabs``, what happens in ``handlers``."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from refinestyle_hub.pipeline import RefineStylePipeline

from . import agents, limits
from .admission import Stops
from .guard import Guard
from .handlers.adapt_handlers import AdaptHandlers
from .handlers.edit_handlers import EditHandlers
from .handlers.invert_handlers import InvertHandlers
from .handlers.share_handlers import ShareHandlers
from .handlers.stylise_handlers import StyliseHandlers
from .jobs import Jobs, gpu
from .page import HIDDEN, Page
from .tabs import about, adapt, edit, invert, share, stylise
from .theme import CSS, PAGE, theme


__all__ = ["build", "launch_settings"]

HEADER = """
<h1>RefineStyle</h1>
<p>Give it a portrait: it finds how a face generator draws that face, and changes it and moves it to other styles.</p>
<p class="model">{model}</p>
"""


def launch_settings() -> dict[str, Any]:
    """The arguments of ``launch``: new ones for each app, since Gradio changes them, and a second app would start what
    belongs to the first."""
    return {
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
        "app_kwargs": {"middleware": [Middleware(Guard, limit=limits.MAX_BODY, room=limits.MIN_ROOM)]},
        "_frontend": False,  # or a machine that is busy for three seconds at the start could not run it
        "theme": theme(),
        "css_paths": [CSS],
        "js": PAGE.read_text(encoding="utf-8"),
    }


def build(pipe: RefineStylePipeline, name: str, notice: str = "", gpu: Callable[..., Any] = gpu) -> gr.Blocks:
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
    demo = gr.Blocks(title="RefineStyle", analytics_enabled=False, delete_cache=limits.CACHE_SECONDS)
    with demo:
        gr.HTML(HEADER.format(model=_model_line(pipe, name)), elem_id="header")
        if notice:
            gr.HTML(f"<p>{html.escape(notice)}</p>", elem_id="notice")
        page = Page(demo, stops, tabs := gr.Tabs(elem_id="tabs"))
        with tabs:
            with gr.Tab("Invert", id="invert"):
                inverted = invert.build(page, InvertHandlers(jobs, stops))
            with gr.Tab("Edit", id="edit"):
                follow = [edit.build(page, EditHandlers(jobs))]
            with gr.Tab("Adapt", id="adapt"):
                adapt.build(page, AdaptHandlers(jobs, stops))
            with gr.Tab("Stylise", id="stylise") as tab:
                follow.append(stylise.build(page, StyliseHandlers(jobs), tab))
            with gr.Tab("Share", id="share") as tab:
                brought = share.build(page, ShareHandlers(jobs, name), tab)
            with gr.Tab("About", id="about"):
                about.build(pipe, name)
        for event in (*inverted, *brought):  # there may be another face
            for tell in follow:
                tell(event)
        # Gradio counts a value's age from when it was written: while the page is open, all are written anew.
        held = [page.subject, page.edits, page.shelf, page.mix]
        gr.Timer(limits.STATE_SECONDS / 3).tick(lambda *values: values, held, held, show_progress="hidden", **HIDDEN)
        demo.unload(stops.leave)
    demo.queue(api_open=False, max_size=limits.QUEUE, default_concurrency_limit=4)
    return demo


def _model_line(pipe: RefineStylePipeline, name: str) -> str:
    size = pipe.generator.config.resolution
    device = next(pipe.generator.parameters()).device.type.upper()
    small = ", a small model for trying things out" if size <= 128 else ""
    return f"<b>{html.escape(name)}</b> · {size} × {size} pixels{small} · on {device}"
