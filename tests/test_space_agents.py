"""A face that goes from call to call as a file: between clients, and between tools of an agent, of which each call is
a session of its own."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from space_parts import domain, pixels, style, whole
from tiny import layer_tokens, tiny_generator

from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import limits, messages
from space.agents import SERVED, Tools
from space.files import cache_file
from space.handlers.share_handlers import FACE
from space.tokenfiles import domain_file, inversion_file
from space.ui import build, launch_settings


pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]
FILES = {
    "/invert": ["photo"], "/edit": ["inversion_file"], "/adapt": ["pictures"],
    "/stylise": ["inversion_file", "domain_file"],
}  # fmt: skip
PASSWORDS = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr(limits, "ADAPT_STEPS", (2, 400))
        yield folder


@pytest.fixture(scope="module")
def url(tiny_pipe: RefineStylePipeline, cache: Path) -> Iterator[str]:
    demo = build(whole(tiny_pipe), "tiny")
    settings = {**launch_settings(), "mcp_server": True}
    _, address, _ = demo.launch(**settings, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    demo.close(verbose=False)


# --- Clients ---


def test_a_file_takes_a_face_to_another_client(connect: Any, photo: str) -> None:
    first, second = connect(), connect()
    *_, file = first.predict(photo=handle_file(photo), steps=2, aligned=True, api_name="/invert")
    assert Path(first.predict(what=FACE, api_name="/export")).read_bytes() == Path(file).read_bytes()
    _, edited = first.predict(edits={"smile": 1.0}, api_name="/edit")
    (plain, styled), _ = first.predict(domains={"ink": 1.0}, on="my face", api_name="/stylise")

    (_, again), download = second.predict(edits={"smile": 1.0}, inversion_file=handle_file(file), api_name="/edit")
    assert np.array_equal(pixels(again), pixels(edited))
    assert np.array_equal(pixels(download), pixels(edited))
    asked = {"domains": {"ink": 1.0}, "inversion_file": handle_file(file), "edits": {"smile": 1.0}}
    pair, _ = second.predict(**asked, api_name="/stylise")
    assert [pixels(part).tobytes() for part in pair] == [pixels(plain).tobytes(), pixels(styled).tobytes()]
    with pytest.raises(AppError, match="There is no face to edit yet"):  # a file is of its call alone
        second.predict(edits={"smile": 1.0}, api_name="/edit")
    with pytest.raises(AppError, match="There is no face to edit yet"):
        second.predict(on="my face", api_name="/stylise")


def test_bad_files_are_refused_with_a_message(connect: Any, cache: Path, tmp_path: Path) -> None:
    client = connect()
    (tmp_path / "face.pkl").write_bytes(b"\x80\x04")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "large.safetensors").write_bytes(b"\0" * (limits.MAX_TOKEN_BYTES + 1))
    other = replace(domain(1), base=tiny_generator(seed=9).fingerprint())
    for file, message in {
        str(tmp_path / "face.pkl"): "Only .safetensors files are read",
        str(tmp_path / "cut.safetensors"): "is not a safetensors file",
        str(tmp_path / "large.safetensors"): "A domain or a face has at most",
        inversion_file(Inversion(torch.zeros(3, 5))): "The face was made for another generator",
        domain_file(domain(1), "ink"): messages.NOT_A_FACE,
    }.items():
        with pytest.raises(AppError, match=message):
            client.predict(inversion_file=handle_file(file), api_name="/edit")
    with pytest.raises(AppError, match="The domain was made for another generator"):
        client.predict(domain_file=handle_file(domain_file(other, "ink")), api_name="/stylise")


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/a.safetensors"])
def test_a_file_is_an_upload_and_nothing_else(url: str, path: str) -> None:
    data = [{}, "photo", {"path": path, "meta": {"_type": "gradio.FileData"}}]
    answer = httpx.post(f"{url}gradio_api/call/edit", json={"data": data})
    assert answer.status_code in (400, 422)
    assert "root:" not in answer.text


# --- Tools ---


def data_address(content: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def call(url: str, *calls: tuple[str, dict[str, Any]], told: Any = None) -> list[Any]:
    """Results of tools, all from one connection."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def work() -> list[Any]:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            if not calls:
                return list((await session.list_tools()).tools)
            return [await session.call_tool(name, values, progress_callback=told) for name, values in calls]

    # a thread of its own: the main one has a running loop wherever a browser test came first
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work()).result()


def texts(result: Any) -> list[str]:
    assert not result.isError, result.content
    return [part.text for part in result.content if part.type == "text"]


def picture(result: Any) -> Any:
    (image,) = [part for part in result.content if part.type == "image"]
    with Image.open(io.BytesIO(base64.b64decode(image.data))) as opened:
        return np.array(opened)


def test_the_list_of_tools_says_what_each_takes(url: str) -> None:
    from jsonschema import Draft202012Validator

    tools = {f"/{tool.name}": tool for tool in call(url)}
    assert list(tools) == ["/align", "/invert", "/edit", "/adapt", "/stylise", "/export"]
    for name, tool in tools.items():
        Draft202012Validator.check_schema(tool.inputSchema)
        known = tool.inputSchema["properties"]
        assert all(part["description"] for part in known.values()), name
        for file in FILES.get(name, []):
            assert "data:<type>;base64," in known[file]["description"]
            assert known[file]["type"] == ("array" if file == "pictures" else "string")
        assert "http" not in str(tool.inputSchema) + tool.description  # web addresses are refused
    assert "inversion_file" not in tools["/edit"].inputSchema.get("required", [])
    assert "the .safetensors file of the face" in str(tools["/edit"].inputSchema["properties"]["inversion_file"])


def test_an_agent_edits_and_stylises_the_face_that_it_inverted(url: str, connect: Any, photo: str) -> None:
    shown = data_address(Path(photo).read_bytes(), "image/png")
    (inverted,) = call(url, ("invert", {"photo": shown, "aligned": True, "steps": 2}))
    *_, figures, address = texts(inverted)
    assert "steps: 2" in figures
    face = httpx.get(address).content
    results = call(
        url,
        ("edit", {"edits": {"smile": 1.0}, "inversion_file": address}),
        ("edit", {"edits": {"smile": 1.0}, "inversion_file": data_address(face)}),
        ("stylise", {"domains": {"ink": 1.0}, "edits": {"smile": 1.0}, "inversion_file": address}),
    )
    client = connect()
    *_, file = client.predict(photo=handle_file(photo), steps=2, aligned=True, api_name="/invert")
    edited = pixels(client.predict(edits={"smile": 1.0}, api_name="/edit")[1])
    styled = pixels(client.predict(domains={"ink": 1.0}, on="my face", api_name="/stylise")[1])
    for result, wanted in zip(results, (edited, edited, styled), strict=True):
        assert np.array_equal(picture(result), wanted)


def test_an_agent_uses_the_domain_that_it_made(url: str, tmp_path: Path) -> None:
    shown = [data_address(Path(file).read_bytes(), "image/png") for file in style(tmp_path)]
    steps: list[Any] = []

    async def told(*values: Any) -> None:
        steps.append(values)

    (made,) = call(url, ("adapt", {"pictures": shown, "name": "mine", "rights": True, "steps": 2}), told=told)
    assert steps
    note, file = texts(made)[-2:]
    assert "**mine** is ready" in note
    plain, styled = call(url, ("stylise", {}), ("stylise", {"domain_file": file, "domains": {"mine": 1.5}}))
    assert not np.array_equal(picture(plain), picture(styled))


def test_agents_do_not_meet(url: str, photo: str) -> None:
    shown = data_address(Path(photo).read_bytes(), "image/png")
    results = call(
        url,
        ("invert", {"photo": shown, "aligned": True, "steps": 0}),
        ("edit", {"edits": {"smile": 1.0}}),
        ("export", {"what": FACE}),
        ("stylise", {"on": "my face"}),
        ("edit", {"inversion_file": shown}),
        ("edit", {"inversion_file": "https://example.com/face.safetensors"}),
        ("edit", {"inversion_file": PASSWORDS}),
        ("edit", {"edits": {"smile": PASSWORDS}}),
        ("invert", {"photo": PASSWORDS}),
    )
    assert [result.isError for result in results] == [False] + [True] * 8
    no_face, nothing, again, picture_of, away, *stolen = (result.content[0].text for result in results[1:])
    assert no_face == again == messages.NOT_INVERTED
    assert nothing == messages.NOTHING_TO_EXPORT
    assert picture_of == messages.NOT_SAFETENSORS
    assert away == messages.BAD_ADDRESS
    assert all("Input validation error" in text for text in stolen)


def converted(value: Any) -> Any:
    values = {"file": value, "name": "data:,x"}
    return object.__new__(Tools).convert_strings_to_filedata(values, [["file"], ["file", "items"]])


def test_only_what_the_app_gave_out_is_taken_for_a_file(cache: Path) -> None:
    served = cache_file(b"numbers", "a b.safetensors")
    for address in (f"http://here{SERVED}{served}", f"https://here/app{SERVED}{served.replace(' ', '%20')}"):
        taken = converted(address)
        assert taken["file"] == {"path": served, "orig_name": "a b.safetensors", "meta": {"_type": "gradio.FileData"}}
        assert taken["name"] == "data:,x"  # no file, whatever it looks like
    (outside := cache.parent / "outside.safetensors").write_bytes(b"numbers")
    (cache / "link").symlink_to(outside)
    for path in (outside, cache / ".." / outside.name, cache / "link", cache, cache / "none", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="are not read"):
            converted(f"http://here{SERVED}{path}")
    assert converted(None)["file"] is None
    for text in ("", served, "http://example.com/x.safetensors", "data:x;base64,A", "data:x;base64,é", PASSWORDS):
        with pytest.raises(ValueError, match="are not read"):
            converted(text)


def test_data_addresses_become_files(cache: Path) -> None:
    face = Path(inversion_file(Inversion(torch.zeros(3, 5)))).read_bytes()
    one, two = converted([data_address(face), data_address(b"\x89PNG")])["file"]
    assert Path(one["path"]).read_bytes() == face
    assert one["orig_name"] == "file.safetensors"
    assert Path(two["path"]).read_bytes() == b"\x89PNG"
    assert all(Path(part["path"]).is_relative_to(cache) for part in (one, two))


def test_states_are_left_out_of_the_outputs() -> None:
    with gr.Blocks():
        parts = [gr.Textbox(), gr.State(), gr.State(), gr.Textbox()]
    assert Tools.pop_returned_state(parts, ["a", None, None, "b"]) == ["a", "b"]


def test_the_face_of_the_largest_generator_fits_into_a_call() -> None:
    tokens = TokenSet({f"b{n}.conv1": layer_tokens(torch.Generator(), 8, 512, 512, 3) for n in range(17)})
    content = Path(inversion_file(Inversion(torch.zeros(18, 512), tokens))).read_bytes()
    assert len(data_address(content)) < limits.MAX_BODY
