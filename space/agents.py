"""The endpoints as tools for agents (MCP): Gradio's own server, and what it lacks as of Gradio 6.31.

There all callers share one session, so that one would be handed another's face; endpoints with two states among their
outputs fail, and those with JSON or several files among their inputs have no valid schema; files are given as web
addresses, which this app does not fetch.
"""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
import gradio.mcp
from anyio.to_thread import run_sync
from gradio.utils import get_upload_folder

from . import messages
from .images import cache_file


__all__ = ["Tools", "install"]

SERVED = "/gradio_api/file="  # in every address of a file that the app gave out
A_FILE = "An address of a file that this server gave, or data:<type>;base64,<contents>, at most 1 MB in a call."


def install() -> None:
    """Let Gradio make its MCP server, where one is asked for, of this class."""
    gradio.mcp.GradioMCPServer = Tools  # type: ignore[misc]


class Tools(gradio.mcp.GradioMCPServer):
    """An MCP server whose every call is a session of its own."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self._making = threading.Lock()
        super().__init__(blocks)

    # --- A call ---

    def _get_or_create_client(self) -> Any:
        """A new one, for its name is the session's."""
        with self._making:
            self._client_instance = None
            client = super()._get_or_create_client()
            self._client_instance = None  # after the call nobody holds it, and the session ends
        return client

    def _prepare_tool_call_args(self, name: str, arguments: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
        endpoint, values, headers, event = super()._prepare_tool_call_args(name, arguments)
        request = self.mcp_server.request_context.request
        if request is not None and request.client:  # who asks: the app itself hears only from this machine
            headers.setdefault("x-forwarded-for", request.client.host)
        return endpoint, values, headers, event

    async def _execute_tool_without_progress(self, job: Any) -> list[Any]:
        """All outputs, where Gradio takes them for one."""
        result = await run_sync(job.result)
        return list(result) if isinstance(result, tuple) else [result]

    @staticmethod
    def pop_returned_state(components: Any, data: Any) -> list[Any]:
        """The outputs without the states, however many there are."""
        return [value for part, value in zip(components, data, strict=True) if not isinstance(part, gr.State)]

    # --- Files and strengths among the inputs ---

    def get_input_schema(
        self, tool_name: str, parameters: dict[str, str] | None = None
    ) -> tuple[dict[str, Any], list[list[str | int]]]:
        """The inputs of a tool, and where files are among them."""
        schema, places = super().get_input_schema(tool_name, parameters)
        files = {place[0] for place in places}
        for name, known in schema["properties"].items():
            if known["type"] == {}:  # JSON
                known |= {"type": "object", "additionalProperties": {"type": "number"}}
            elif name in files:
                one: dict[str, Any] = {"type": "string"}
                kind = {"type": "array", "items": one} if known["type"] == "array" else one
                told = f"{known.get('description', '')} {A_FILE}".strip()
                schema["properties"][name] = {**kind, "description": told}
        return schema, places

    @property
    def _file_data_tool_description(self) -> str:
        return ""  # of web addresses: each parameter says what it takes

    def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
        """The arguments of a call with its files where they can be read."""
        files = {place[0] for place in filedata_positions}
        return {name: _files(part) if name in files else part for name, part in value.items()}


def _files(addresses: Any) -> Any:
    """One address, a list of them or nothing as what Gradio calls a file."""
    if addresses is None:
        return None
    if isinstance(addresses, list):
        return [_files(address) for address in addresses]
    if not isinstance(addresses, str):  # a file of Gradio's own kind: its client would read any path of this machine
        raise ValueError(messages.BAD_ADDRESS)
    path = _decoded(addresses) if addresses.startswith("data:") else _served(addresses)
    return {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}


def _decoded(address: str) -> str:
    """A ``data:`` address as a file. It has no name, so that a file of tokens is told by how it begins."""
    try:
        content = base64.b64decode(address.partition(",")[2])
    except ValueError as error:
        raise ValueError(messages.BAD_ADDRESS) from error
    return cache_file(content, "file.safetensors" if content[8:9] == b"{" else "file")


def _served(address: str) -> str:
    """Where the file lies of an address that this app gave out; nothing is fetched."""
    file = Path(unquote(address.partition(SERVED)[2])).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise ValueError(messages.BAD_ADDRESS)
    return str(file)
