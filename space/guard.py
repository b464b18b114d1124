"""An ASGI layer before Gradio: files come in through /upload, which has limits, and by no other way.

Gradio would decode a ``data:`` address of any size and fetch any public address whole; both are refused here. A
``url`` with http is left alone: browsers name files that the app served in this way, and nothing is fetched for it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


_TRIGGERED = re.compile(rb'"trigger_id":\s*\d')  # by a component of the page, and not by a program
REMOTE = ("http:", "https:", "data:", "file:", "ftp:")


class Guard:
    """Refuses bodies over ``limit`` bytes, file addresses that lead out of the app, and uploads to a disk with less
    than ``room`` bytes left."""

    def __init__(self, app: ASGIApp, limit: int, room: int = 0) -> None:
        self.app = app
        self.limit = limit
        self.room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413, 422 or 507."""
        app, path = self.app, scope.get("path", "")
        if scope["type"] == "http" and scope["method"] == "POST":
            if path.endswith("/gradio_api/upload"):
                if shutil.disk_usage(tempfile.gettempdir()).free < self.room:
                    app = _refusal(507, "There is no room for more files just now. Try again in an hour.")
            elif (body := await _read(scope, receive, self.limit)) is None:
                app = _refusal(413, "The request is too large. Upload files first.")
            elif _leads_out(body):
                app = _refusal(422, "Pictures must be uploaded; addresses are not read.")
            else:
                receive = _replay(body, receive)
                if "/gradio_api/call/" in path or path.endswith("/gradio_api/queue/join"):
                    app = partial(_call, app, _TRIGGERED.search(body) is not None)
        await app(scope, receive, send)


def _refusal(status: int, detail: Any) -> ASGIApp:
    return JSONResponse({"detail": detail}, status)


async def _call(app: ASGIApp, page: bool, scope: Scope, receive: Receive, send: Send) -> None:
    """A call of an endpoint: what is wrong with it is answered by 422 and a sentence, on the ``page`` by 429.

    Gradio answers 400 to a value that its component refuses, which its own client shows without the sentence, and 500
    to a name that no parameter has. Its page shows 422 beside the first input alone, which may be out of sight, and
    any other status in a message.
    """
    answer: list[Message] = []  # the start, then the body: short, for what a call does is told by another request

    async def keep(message: Message) -> None:
        answer.append(message)

    try:
        await app(scope, receive, keep)
    except (TypeError, KeyError) as error:  # of Gradio, before anything was answered
        told = str(error).strip("'").partition(" Please click")[0]
    else:
        if not answer or answer[0]["status"] not in (400, 500, *([422] if page else [])):
            for message in answer:
                await send(message)
            return
        try:
            detail = json.loads(b"".join(message.get("body", b"") for message in answer))["detail"]
            parts = detail if isinstance(detail, list) else [{"message": str(detail)}]
            told = " ".join(part["message"] for part in parts if part["message"])
        except (ValueError, KeyError, TypeError):
            told = "The request cannot be read."
    if "session_hash" in told:
        told += " Calls by name have no session: use /gradio_api/call/, or hand a face on as inversion_file."
    listed = [{"__type__": "validate", "is_valid": False, "message": told}]
    await (_refusal(429, told) if page else _refusal(422, listed))(scope, receive, send)


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is longer than ``limit``."""
    body = bytearray()
    with contextlib.suppress(ClientDisconnect):  # of what came before, the app makes what it will
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > limit:
                return None
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body again, then whatever follows."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def _leads_out(body: bytes) -> bool:
    found: list[bool] = []
    try:
        json.loads(body, object_hook=lambda value: found.append(_remote(value)))  # called with each object of the text
    except (ValueError, RecursionError) as error:  # what is no JSON, Gradio refuses; what is too deep, it may read
        found.append(isinstance(error, RecursionError))
    return any(found)


def _remote(file: dict[str, Any]) -> bool:
    path, url = (str(file.get(key)).strip().lower() for key in ("path", "url"))
    return path.startswith(REMOTE) or url.startswith("data:")
