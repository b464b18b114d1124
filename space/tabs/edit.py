"""Edit: a slider for each direction of the model."""

from __future__ import annotations

import gradio as gr

from ..attributes import grouped
from ..handlers.canvas_handlers import CanvasHandlers


__all__ = ["build"]


def build(on: CanvasHandlers) -> list[gr.Slider]:
    """The layout; returns the sliders in the order of the directions."""
    sliders: dict[str, gr.Slider] = {}
    groups = grouped(on.jobs.pipe.directions)
    if not groups:
        gr.Markdown("This model comes without directions, so there is nothing to edit.", elem_id="no-directions")
    with gr.Tabs(elem_id="groups", visible=bool(groups)):
        for group, members in groups.items():
            with gr.Tab(group):
                for name, attribute in members.items():
                    sliders[name] = gr.Slider(
                        *attribute.limits, 0, step=0.1, label=attribute.label, info=attribute.ends or None,
                        interactive=True, buttons=["reset"], elem_id=f"edit-{name}", elem_classes="control",
                    )  # fmt: skip
    return [sliders[name] for name in on.directions]
