"""The endpoints as tools for agents (MCP): Gradio's own server with four faults of Gradio 6.31 corrected.

Protects from: one agent being handed the face of another, for there all callers share one session.
It also lets tools with two states among their outputs answer, gives a valid schema to inputs of JSON and of several
files, and takes files as uploads or ``data:`` addresses, since this app fetches no web address.
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
from .files import cache_file


SERVED = "/gradio_api/file="  # in every address of a file that the app gave out
A_FILE = "An address of a file that this server gave, or data:<type>;base64,<contents>, at most 1 MB in a call."


def install() -> None:
    """Make Gradio use this class where its MCP server is switched on. Gradio has no setting for the class."""
    gradio.mcp.GradioMCPServer = Tools  # type: ignore[misc]


class Tools(gradio.mcp.GradioMCPServer):
    """An MCP server whose every call is a session of its own."""

    _making = threading.Lock()

    # --- A call ---

    def _get_or_create_client(self) -> Any:
        """A new client for each call, because the name of the client is that of the session."""
        with self._making:
            self._client_instance = None
            client = super()._get_or_create_client()
            self._client_instance = None  # so that the session ends with the call
        return client

    def _prepare_tool_call_args(self, name: str, arguments: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
        endpoint, values, headers, event = super()._prepare_tool_call_args(name, arguments)
        request = self.mcp_server.request_context.request
        if request is not None and request.client:  # the app would see the address of this machine only
            headers.setdefault("x-forwarded-for", request.client.host)
        return endpoint, values, headers, event

    async def _execute_tool_without_progress(self, job: Any) -> list[Any]:
        """All outputs; Gradio would wrap them as a single one."""
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
                description = f"{known.get('description', '')} {A_FILE}".strip()
                schema["properties"][name] = {**kind, "description": description}
        return schema, places

    @property
    def _file_data_tool_description(self) -> str:
        return ""  # Gradio asks for web addresses here; each parameter says what it takes

    def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
        """The arguments of a call, with its files in the cache where they can be read."""
        files = {place[0] for place in filedata_positions}
        return {name: _files(part) if name in files else part for name, part in value.items()}


def _files(addresses: Any) -> Any:
    """An address, a list of addresses or None, as the dictionaries that Gradio takes for files."""
    if addresses is None:
        return None
    if isinstance(addresses, list):
        return [_files(address) for address in addresses]
    if not isinstance(addresses, str):  # of a dictionary, Gradio's client would read any path of this machine
        raise ValueError(messages.BAD_ADDRESS)
    path = _decoded(addresses) if addresses.startswith("data:") else _served(addresses)
    return {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}


def _decoded(address: str) -> str:
    """The contents of a ``data:`` address as a file without a name; its first bytes show whether it holds tokens."""
    try:
        content = base64.b64decode(address.partition(",")[2])
    except ValueError as error:
        raise ValueError(messages.BAD_ADDRESS) from error
    return cache_file(content, "file.safetensors" if content[8:9] == b"{" else "file")


def _served(address: str) -> str:
    """The path of a file whose address this app gave out; nothing is fetched."""
    file = Path(unquote(address.partition(SERVED)[2])).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise ValueError(messages.BAD_ADDRESS)
    return str(file)
