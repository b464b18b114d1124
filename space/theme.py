"""How the demo looks: one accent colour on warm greys, no outside fonts."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes import colors
from gradio.themes.utils.fonts import LocalFont


CSS = Path(__file__).with_name("style.css")


def theme() -> gr.themes.Base:
    """Teal on stone, IBM Plex Sans; flat, with hairlines instead of shadows."""
    made = gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.stone,
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"),
    )
    return made.set(
        body_background_fill="*neutral_50",
        block_background_fill_dark="*neutral_900",
        block_border_color_dark="*neutral_800",
        color_accent="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
    )
