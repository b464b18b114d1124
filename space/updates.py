"""An update of components that most handlers return."""

from __future__ import annotations

from typing import Any

import gradio as gr


def visible(value: Any = None) -> Any:
    """An update that shows a component with this value, or hides it where there is none."""
    return gr.update(value=value, visible=value is not None)
