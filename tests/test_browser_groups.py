"""Sliders whose panel is opened late, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest
from browser_parts import open_tab

from refinestyle_hub.editing.directions import Direction, Directions
from refinestyle_hub.pipeline import RefineStylePipeline


pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


@pytest.fixture(scope="module")
def demo(tiny_pipe: RefineStylePipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    """The app of a model with two groups of directions."""
    from space.ui import build

    vector, info = tiny_pipe.directions["yaw"].vector, tiny_pipe.directions["yaw"].info
    groups = {"smile": "Expression", "yaw": "Pose and light"}
    found = {name: Direction(vector, replace(info, group=group)) for name, group in groups.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        yield build(RefineStylePipeline(tiny_pipe.generator, directions=Directions(found)), "tiny-32")


def test_a_slider_that_a_link_has_set_goes_back_to_0(visit: Callable[..., Any], url: str) -> None:
    for what in ("input[type=range]", "[data-testid=reset-button]"):
        page = visit(f"{url}?seed=0&edit.yaw=2")
        page.locator("#canvas [data-event=reset]:not(:disabled)").wait_for()
        open_tab(page, "Pose and light")
        page.wait_for_function("() => document.querySelector('#edit-yaw input[type=range]')?.value === '2'")
        page.locator(f"#edit-yaw {what}").dblclick()
        page.locator("#canvas [data-event=reset]:disabled").wait_for()
        assert page.locator("#edit-yaw input[type=number]").input_value() == "0"
