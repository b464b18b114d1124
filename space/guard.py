"""An ASGI layer before Gradio: files come in through /upload, which has limits, and by no other way.

Gradio would decode a ``data:`` address of any size and fetch any public address whole; both are refused here. A
``url`` with http is left alone: browsers name files that the app served in this way, and nothing is fetched for it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if scope["path"].endswith("/gradio_api/upload"):
            if shutil.disk_usage(tempfile.gettempdir()).free < self.room:
                refusal = "There is no room for more files just now. Try again in an hour."
                await JSONResponse({"detail": refusal}, 507)(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        body = await _read(receive, self.limit)
        if body is None:
            await JSONResponse({"detail": "The request is too large. Upload files first."}, 413)(scope, receive, send)
        elif _leads_out(body):
            refusal = "Pictures must be uploaded; addresses are not read."
            await JSONResponse({"detail": refusal}, 422)(scope, receive, send)
        elif "/gradio_api/call/" in scope["path"] or scope["path"].endswith("/gradio_api/queue/join"):
            await _call(self.app, scope, _replay(body, receive), send)
        else:
            await self.app(scope, _replay(body, receive), send)


async def _call(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A call of an endpoint: what is wrong with its parameters is answered by 422 and a sentence.

    Gradio answers 400 to a value that its component refuses, which its own client shows without the sentence, and 500
    to a name that no parameter has.
    """
    refused, body = False, bytearray()

    async def watched(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start":
            refused = message["status"] in (400, 500)
        if not refused:
            await send(message)
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    try:
        await app(scope, receive, watched)
    except (TypeError, KeyError) as error:  # of Gradio, before anything was answered
        refused, told = True, str(error).strip("'").partition(" Please click")[0]
    else:
        told = _detail(bytes(body)) if refused else ""
    if refused:
        if "session_hash" in told:
            told += " Calls by name have no session: use /gradio_api/call/, or hand a face on as inversion_file."
        detail = [{"__type__": "validate", "is_valid": False, "message": told}]
        await JSONResponse({"detail": detail}, 422)(scope, receive, send)


def _detail(body: bytes) -> str:
    try:
        found = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return "The request cannot be read."
    return str(found)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is longer than ``limit``."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client is gone
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body again, then whatever follows."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def _leads_out(body: bytes) -> bool:
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # not JSON: no file can be named in it, and Gradio will say so
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if _starts(value.get("path"), REMOTE) or _starts(value.get("url"), ("data:",)):
                return True
            waiting.extend(value.values())
    return False


def _starts(value: object, prefixes: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value.strip().lower().startswith(prefixes)
