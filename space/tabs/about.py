"""About: what it is and what it is not, in words alone."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import gradio as gr
import torch

from refinestyle_hub.pipeline import RefineStylePipeline


TEXT = Path(__file__).with_name("about.md")


def build(pipe: RefineStylePipeline, name: str) -> None:
    """The text, and what runs here."""
    gr.Markdown(TEXT.read_text(encoding="utf-8"), elem_id="about")
    gr.Markdown(
        f"`{name}` · `{pipe.fingerprint}` · Python {platform.python_version()} · torch {torch.__version__} · "
        f"gradio {version('gradio')} · {pipe.device.type}",
        elem_id="versions",
    )
