"""Edit: a slider for each direction of the model, under the group and with the ends that its file names."""

from __future__ import annotations

import gradio as gr

from refinestyle_hub.editing.directions import Directions

from ..handlers.canvas_handlers import CanvasHandlers


FIRST = ("Expression", "Person", "Hair", "Pose and light")  # groups that people look for; others follow
MORE = "More"  # the group of directions that name none


def grouped(directions: Directions) -> dict[str, list[str]]:
    """Group -> names of directions; those without a group come last."""
    groups: dict[str, list[str]] = {}
    for name, direction in directions.items():
        groups.setdefault(direction.info.group or MORE, []).append(name)
    order = [*FIRST, *(group for group in groups if group not in (*FIRST, MORE)), MORE]
    return {group: groups[group] for group in order if group in groups}


def build(on: CanvasHandlers) -> list[gr.Slider]:
    """The layout; returns the sliders in the order of the directions."""
    directions = on.jobs.pipe.directions
    sliders: dict[str, gr.Slider] = {}
    if not directions:
        gr.Markdown("This model comes without directions, so there is nothing to edit.", elem_id="no-directions")
    with gr.Tabs(elem_id="groups", visible=bool(directions)):
        for group, names in grouped(directions).items():
            with gr.Tab(group):
                for name in names:
                    info = directions[name].info
                    sliders[name] = gr.Slider(
                        *info.limits, 0, step=0.1, label=name.replace("_", " ").capitalize(), interactive=True,
                        info=f"{info.negative} ↔ {info.positive}" if info.negative else None, buttons=["reset"],
                        elem_id=f"edit-{name}", elem_classes="control",
                    )  # fmt: skip
    return [sliders[name] for name in directions]
