"""How the demo looks: one accent colour on warm greys, no outside fonts."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes import colors
from gradio.themes.utils.fonts import LocalFont


CSS = Path(__file__).with_name("style.css")


def theme() -> gr.themes.Base:
    """Teal on stone, IBM Plex Sans; the rest is in style.css."""
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.stone,
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"),
    )
