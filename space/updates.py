"""Two updates of components that most handlers return."""

from __future__ import annotations

from typing import Any

import gradio as gr


def show(value: Any) -> Any:
    """An update that shows a component with this value."""
    return gr.update(value=value, visible=True)


def hide(value: Any = None) -> Any:
    """An update that hides a component."""
    return gr.update(value=value, visible=False)
