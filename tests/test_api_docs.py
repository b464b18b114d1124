"""The shell lines of docs/api.md, sent as they stand, and what is answered to wrong parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import pytest
from starlette.testclient import TestClient

from refinestyle_hub.pipeline import RefineStylePipeline
from space.ui import build, launch_settings


DOCS = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


@pytest.fixture
def client(tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The app behind its guard."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    (guard,) = launch_settings()["app_kwargs"]["middleware"]
    app = gr.mount_gradio_app(fastapi.FastAPI(middleware=[guard]), build(tiny_pipe, "tiny"), path="/")
    with TestClient(app) as connected:
        yield connected


def result(client: TestClient, name: str, answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return client.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}").text


def test_the_documented_lines_work(client: TestClient, photo: str) -> None:
    (lines,) = re.findall(r"```bash\n(curl.*?)```", DOCS, flags=re.DOTALL)
    upload, call, fetch = re.findall(r"http://127.0.0.1:7860(\S+)", lines)
    assert (upload, fetch) == ("/gradio_api/upload", "/gradio_api/call/invert/EVENT_ID")
    with open(photo, "rb") as file:
        (path,) = client.post(upload, files={"files": ("me.png", file)}).json()
    body = json.loads(re.findall(r"-d '(\{.*\})'", lines)[0])
    body["data"][0]["path"] = path
    body["data"][1], body["data"][3] = True, 2  # quicker: no face is looked for, and two steps
    assert "event: complete" in result(client, "invert", client.post(call, json=body))
    edit = {"data": [{"smile": 1.0}, "photo", None], "session_hash": body["session_hash"]}
    assert "event: complete" in result(client, "edit", client.post("/gradio_api/call/edit", json=edit))


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("v2/align", {"photo": None, "no_such": 1}, "no_such"),
        ("v2/nothing", {}, "nothing"),
        ("stylise", {"data": [{}, "My Face", 0, None, None, None]}, "My Face"),
        ("v2/invert", {"photo": None, "session_hash": "any-word"}, "have no session: use /gradio_api/call/"),
        ("invert", {"data": [None, True, 0, 5000, True, 0]}, "steps must be a whole number from 0 to 400, not 5000."),
        ("invert", {"data": [None, True, 0, 10, True, -1]}, "seed must be a whole number from 0"),
        ("invert", {"data": [None, True, 0, "<b>", True, 0]}, "steps must be a whole number from 0 to 400"),
        (
            "v2/adapt",
            {"pictures": None, "name": "x", "rights": True, "tokens": 9},
            "tokens must be a whole number from 1 to 8, not 9.",
        ),
        (
            "v2/adapt",
            {"pictures": None, "name": "x", "rights": True, "steps": 1.5},
            "steps must be a whole number from 20 to 1000",
        ),
    ],
)
def test_wrong_parameters_are_told(client: TestClient, path: str, body: Any, sentence: str) -> None:
    answer = client.post(f"/gradio_api/call/{path}", json=body)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert sentence in detail["message"]
