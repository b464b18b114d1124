"""Clients of the app over the loopback: sessions, the queue, Stop, and what is refused."""

from __future__ import annotations

import concurrent.futures
import json
import re
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from space_parts import busy, held, jobs_of, pixels, style, wait_for
from starlette.testclient import TestClient

from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from space import admission, limits, messages
from space.ui import build, launch_settings


ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the server's libraries, which warn each other in its threads
    pytest.mark.usefixtures("closed_loops"),
]


def test_events_run_only_through_the_queue(tiny_pipe: RefineStylePipeline) -> None:
    app = gr.mount_gradio_app(fastapi.FastAPI(), build(tiny_pipe, "tiny"), path="/")
    with TestClient(app) as client:
        nothing = {"data": [None, False]}
        assert client.post("/gradio_api/run/align", json=nothing).status_code == 404
        event = client.post("/gradio_api/call/align", json=nothing).json()["event_id"]
        assert client.get(f"/gradio_api/call/align/{event}").text.startswith("event: complete")
        refused = client.post("/gradio_api/call/invert", json={"data": [None, False, 0, 10, True, 0]}).json()
        answer = client.get(f"/gradio_api/call/invert/{refused['event_id']}").text
        assert answer.startswith("event: ")
        assert "event: error" in answer
        assert messages.NO_PHOTO in answer


def test_a_full_line_is_said_to_be_full(tiny_pipe: RefineStylePipeline) -> None:
    demo = build(tiny_pipe, "tiny")
    demo._queue.max_size = 0
    with TestClient(gr.mount_gradio_app(fastapi.FastAPI(), demo, path="/")) as client:
        answer = client.post("/gradio_api/call/align", json={"data": [None, False]})
    assert answer.status_code == 503
    assert "full" in answer.json()["detail"]


def test_two_sessions_never_meet(connect: Any, photo: str, tmp_path: Path, tiny_pipe: RefineStylePipeline) -> None:
    before = tiny_pipe.generator.fingerprint()
    flipped = str(tmp_path / "flipped.png")
    Image.fromarray(pixels(photo)[:, ::-1]).save(flipped)
    clients = [connect(), connect()]

    def work(who: int) -> list[Any]:
        seen = []
        for strength in (0.5, 1.5):
            client, file = clients[who], (photo, flipped)[who]
            pair, *_ = client.predict(photo=handle_file(file), steps=2, aligned=True, api_name="/invert")
            edited, download = client.predict(edits={"smile": strength}, before="photo", api_name="/edit")
            styled, _ = client.predict(domains={"ink": strength}, on="my face", seed=0, api_name="/stylise")
            seen.append([pixels(x).tobytes() for x in (*pair, *edited, download, *styled)])
        return seen

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, (0, 1))
    assert not {p for pictures in first for p in pictures} & {p for pictures in second for p in pictures}
    for pictures in (first, second):
        assert len({p[0] for p in pictures}) == len({p[1] for p in pictures}) == 1  # the same each time
        assert len({p[3] for p in pictures}) == 2
        assert len({p[2] for p in pictures}) == 1  # the session's own photo is what its edit is compared with
    assert tiny_pipe.generator.fingerprint() == before


def test_a_session_without_a_face_is_told_so(connect: Any) -> None:
    with pytest.raises(AppError, match="There is no face to edit yet"):
        connect().predict(edits={"smile": 1}, before="photo", api_name="/edit")


def test_a_session_is_forgotten(
    tiny_pipe: RefineStylePipeline, tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STATE_SECONDS", 1)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    demo = build(tiny_pipe, "tiny")
    _, address, _ = demo.launch(**launch_settings(), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(address, verbose=False, analytics_enabled=False, download_files=str(tmp_path))
        client.predict(photo=handle_file(photo), steps=0, aligned=True, api_name="/invert")
        state = demo.app.state_holder[client.session_hash]
        subject = next(
            block for block in demo.blocks.values() if isinstance(block, gr.State) and block.value is not None
        )
        assert state._state_ttl[subject._id][0] == 1  # it was there
        wait_for(lambda: subject._id not in state.state_data)
    finally:
        demo.close(verbose=False)


def test_align_over_the_api(connect: Any, photo: str) -> None:
    framed, crops, note, face = connect().predict(photo=handle_file(photo), aligned=False, api_name="/align")
    framed, crops = (part.get("value", part) if isinstance(part, dict) else part for part in (framed, crops))
    assert pixels(framed).shape == (512, 512, 3)
    assert len(crops) == 1
    assert "px wide" in str(note)
    assert face == 0


def test_a_third_job_of_a_session_is_refused_and_another_session_is_not(
    url: str, demo: gr.Blocks, connect: Any, photo: str
) -> None:
    patient, other = connect(), connect()
    with held(jobs_of(demo).turns):  # the first waits for it, the second in the queue
        running = [
            patient.submit(photo=handle_file(photo), steps=2, aligned=True, api_name="/invert") for _ in range(2)
        ]
        wait_for(lambda: admission.queued_jobs(demo, patient.session_hash) == 2)
        assert [admission.address(event.request) for event in admission.queued_events(demo)] == [
            None,
            None,
        ]  # of this machine
        body = {"data": [None, True, 0, 2, True, 0, None], "session_hash": patient.session_hash}
        event = event_of(demo, "PhotoHandlers.invert")
        answer = httpx.post(f"{url}gradio_api/queue/join", json={**body, "fn_index": event})
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["message"] == messages.BUSY
        elsewhere = {"X-Forwarded-For": "9.9.9.9"}
        invert = event_of(demo, "PhotoHandlers.invert")
        for count in range(limits.JOBS_PER_ADDRESS + 1):  # under a new name each time
            asked = {"data": [None, True, 0, 2, True, 0, None], "session_hash": f"s{count}", "fn_index": invert}
            answer = httpx.post(f"{url}gradio_api/queue/join", json=asked, headers=elsewhere)
            assert answer.status_code == (200 if count < limits.JOBS_PER_ADDRESS else 422), answer.text
        assert answer.json()["detail"][0]["message"] == messages.CROWDED
        third = other.submit(photo=handle_file(photo), steps=2, aligned=True, api_name="/invert")
        wait_for(lambda: admission.queued_jobs(demo, other.session_hash) == 1)
    assert all(job.result(timeout=60) for job in (*running, third))


def test_stop_over_the_api_keeps_the_face(url: str, demo: gr.Blocks, connect: Any, photo: str) -> None:
    client = connect()
    job = client.submit(photo=handle_file(photo), steps=400, aligned=True, api_name="/invert")
    wait_for(lambda: len(job.outputs()) > 0)
    asked = {"data": [], "fn_index": stop_of(demo, "canvas"), "session_hash": client.session_hash}
    httpx.post(f"{url}gradio_api/run/predict", json=asked)
    note = job.result(timeout=60)[2]
    assert re.search(r"stopped at \d+/400", note)
    assert len(client.predict(edits={}, before="photo", api_name="/edit")) == 2


def event_of(demo: gr.Blocks, name: str) -> int:
    return next(event._id for event in demo.fns.values() if getattr(event.fn, "__qualname__", "") == name)


def stop_of(demo: gr.Blocks, elem_id: str) -> int:
    """The event of the Stop button in a part of the page."""
    place = next(block._id for block in demo.blocks.values() if getattr(block, "elem_id", None) == elem_id)
    return next(e._id for e in demo.fns.values() if {(place, "stop"), (place, "click")} & {*e.targets})


def adapted(client: Client, tmp_path: Path, **other: Any) -> Any:
    pictures = [handle_file(file) for file in style(tmp_path)]
    values = {"name": "ink", "rights": True, "steps": 2, "tokens": 1, "seed": 0} | other
    return client.submit(pictures=pictures, **values, api_name="/adapt")


def test_a_style_from_pictures_to_a_file_over_the_api(connect: Any, tmp_path: Path) -> None:
    client, other = connect(), connect()
    preview, note, file = adapted(client, tmp_path).result(timeout=300)
    assert "**ink-2** is ready" in note  # the model has an "ink" of its own
    assert TokenSet.from_pretrained(file).metadata["pictures"] == 5
    (plain, styled), _ = client.predict(domains={"ink-2": 1.0}, on="random faces", seed=1, api_name="/stylise")
    assert not np.array_equal(pixels(plain), pixels(styled))
    assert Path(client.predict(what="ink-2", api_name="/export")).read_bytes() == Path(file).read_bytes()
    for call in ({"domains": {"ink-2": 1.0}, "on": "random faces", "api_name": "/stylise"},
                 {"what": "ink-2", "api_name": "/export"}):  # fmt: skip
        with pytest.raises(AppError, match="There is no domain 'ink-2'"):
            other.predict(**call)
    with pytest.raises(AppError, match="tick the box"):
        adapted(client, tmp_path, rights=False).result(timeout=300)


def test_stop_ends_an_adaptation_and_others_draw_meanwhile(
    url: str, demo: gr.Blocks, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN_SECONDS", 0.0)
    client, other = connect(), connect()
    running = adapted(client, tmp_path, steps=400)
    wait_for(lambda: any("step" in output[1] for output in running.outputs()), 300)
    assert other.predict(domains={"wax": 1.0}, on="random faces", api_name="/stylise")
    assert not running.done()
    body = {"data": [None, "ink", True, 9, 1, 0, None], "session_hash": client.session_hash}
    adapt = next(e._id for e in demo.fns.values() if e.api_name == "adapt")
    assert httpx.post(f"{url}gradio_api/queue/join", json={**body, "fn_index": adapt}).status_code == 422
    asked = {"data": [], "fn_index": stop_of(demo, "adapt-stop"), "session_hash": client.session_hash}
    assert "best so far is kept" in httpx.post(f"{url}gradio_api/run/predict", json=asked).text
    assert re.search(r"stopped at \d+/400", running.result(timeout=300)[1])
    wait_for(lambda: not busy(jobs_of(demo).turns))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "http://169.254.169.254/",
    ],
)
def test_paths_and_addresses_are_not_read(url: str, path: str) -> None:
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, True, 0, 0, True, 0]
    answer = httpx.post(f"{url}gradio_api/call/invert", json={"data": data})
    if answer.status_code == 200:
        text = httpx.get(f"{url}gradio_api/call/invert/{answer.json()['event_id']}").text
        assert "event: error" in text
        assert "root:" not in text


def test_files_outside_the_cache_are_not_served(url: str) -> None:
    assert httpx.get(f"{url}gradio_api/file=/etc/passwd").status_code == 403
    assert httpx.get(f"{url}gradio_api/file={ROOT}/pyproject.toml").status_code in (403, 404)


def test_uploads_have_a_limit_and_no_way_around_it(url: str) -> None:
    large = b"\0" * (limits.MAX_BYTES + 2)
    assert httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", large)}).status_code == 413
    address = "data:image/png;base64," + "A" * 100
    data = [{"path": None, "url": address, "meta": {"_type": "gradio.FileData"}}, True, 0, 0, True, 0]
    assert httpx.post(f"{url}gradio_api/call/invert", json={"data": data}).status_code == 422
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": ("../../evil.png", b"x")})
    assert ".." not in json.dumps(answer.json())


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "The file is empty"), (b"GIF89a", "damaged"), (b"no picture", "This is a text file")]
)
def test_no_answer_is_empty(connect: Any, tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(AppError, match=told):
        connect().predict(photo=handle_file(str(tmp_path / "x.png")), aligned=True, api_name="/invert")
