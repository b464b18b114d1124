"""The layer before Gradio, alone: an echo stands in for the app."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from space import messages
from space.guard import Guard, _leads_out


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"got {len(await request.body())}")


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    return TestClient(Guard(app, limit=2000))


def test_an_ordinary_request_arrives_whole(client: TestClient) -> None:
    body = json.dumps({"data": ["a" * 1500, {"path": "/tmp/gradio/x.png", "url": "http://127.0.0.1/file=x.png"}]})
    answer = client.post("/gradio_api/queue/join", content=body)
    assert (answer.status_code, answer.text) == (200, f"got {len(body)}")
    assert client.get("/gradio_api/info").status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        {"path": "http://127.0.0.1:22/"},
        {"path": "HTTPS://example.com/a.png"},
        {"path": " data:image/png;base64,AAAA"},
        {"path": "file:///etc/passwd"},
        {"path": None, "url": "data:image/png;base64,AAAA"},
        [{"image": {"path": "https://example.com/a.png"}}],
    ],
)
def test_addresses_are_refused_wherever_they_hide(client: TestClient, value: Any) -> None:
    answer = client.post("/gradio_api/call/invert", json={"data": [1, [value]]})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "Pictures must be uploaded; addresses are not read."


def test_a_refusal_is_a_message_on_the_page_and_a_list_for_programs() -> None:
    listed = [{"is_valid": False, "message": messages.BUSY}, {"is_valid": True, "message": ""}]

    async def refuse(request: Request) -> JSONResponse:
        return JSONResponse({"detail": listed}, 422)

    client = TestClient(Guard(Starlette(routes=[Route("/{path:path}", refuse, methods=["POST"])]), limit=2000))
    page = client.post("/gradio_api/queue/join", json={"data": [], "trigger_id": 12})
    assert (page.status_code, page.json()) == (429, {"detail": messages.BUSY})
    program = client.post("/gradio_api/queue/join", json={"data": ['"trigger_id": 12'], "trigger_id": None})
    assert (program.status_code, program.json()) == (422, {"detail": listed})


def test_only_uploads_may_be_large(client: TestClient) -> None:
    assert client.post("/gradio_api/call/invert", content=b" " * 2001).status_code == 413
    assert client.post("/gradio_api/upload", content=b" " * 5000).status_code == 200


def test_a_body_in_pieces_is_counted_whole(client: TestClient) -> None:
    assert client.post("/gradio_api/call/invert", content=iter([b"x" * 900] * 3)).status_code == 413
    assert client.post("/gradio_api/call/invert", content=iter([b"x" * 900] * 2)).text == "got 1800"


def test_deep_nesting_is_no_way_around(client: TestClient) -> None:
    deep = "[" * 900 + '{"path": "http://x"}' + "]" * 900
    assert client.post("/gradio_api/call/invert", content=deep).status_code == 422
    for depth in [*range(900, 1000), 100_000]:  # near some depth a reader gives up, and another may not
        file = json.dumps({"path": "http://x"})
        assert _leads_out(f"[{'[' * depth}{{}}{']' * depth}, {file}]".encode())


def test_uploads_do_not_fill_the_disk() -> None:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    full = TestClient(Guard(app, limit=2000, room=10**18))
    assert full.post("/gradio_api/upload", content=b"x").status_code == 507
    assert full.post("/gradio_api/call/invert", content=b"x").status_code == 200
