"""What would be pushed as a Space."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from space_folder import PARTS, ROOT, assemble, main, problems, starts


pytest.importorskip("gradio")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assemble(tmp_path / "space")
    return tmp_path / "space"


def test_the_checkout_is_a_sound_space(folder: Path) -> None:
    assert list(problems(folder)) == []
    assert {path.name for path in folder.iterdir()} == set(PARTS)
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "refinestyle_hub" / "pretrained" / "mini-faces-128" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("sdk_version: 6", "sdk_version: 5", "sdk_version is '5"),
        ("app_file: app.py", "app_file: main.py", "app_file 'main.py' is not there"),
        ("short_description: ", f"short_description: {'very ' * 20}", "short_description must have 1 to 60"),
        ("contribute-repos", "manage-repos", "contribute-repos and nothing more"),
        ("colorTo: gray", "colorTo: teal", "colorFrom and colorTo must be among"),
        ("title: RefineStyle", "title: [", "front matter of README.md cannot be read"),
        ('python_version: "3.12"', 'python_version: "2.7"', "python_version is '2.7'"),
    ],
)
def test_mistakes_in_the_front_matter_are_found(folder: Path, old: str, new: str, problem: str) -> None:
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert old in text
    readme.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(problem in found for found in problems(folder))


def test_files_that_do_not_belong_there_are_found(folder: Path) -> None:
    (folder / "space" / "weights.pt").write_bytes(b"x")
    (folder / "docs" / "notes.md").write_text("hf_" + "a" * 34)
    with (folder / "requirements.txt").open("a") as file:
        file.write("gradio==6.0\n")
    found = " | ".join(problems(folder))
    for problem in ("space/weights.pt does not belong", "docs/notes.md seems to hold a token", "lists gradio==6.0"):
        assert problem in found


def test_an_app_that_does_not_start_is_found(folder: Path) -> None:
    (folder / "app.py").write_text("raise RuntimeError('no model')")
    assert starts(folder) == "RuntimeError: no model"


@pytest.mark.slow
def test_it_is_assembled_and_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out")]) == 0
    assert "files are ready: hf upload" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("__pycache__"))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out")])


@pytest.mark.slow
def test_the_app_is_served_to_this_machine_alone_and_offline(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    given = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **given, "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300  # 20 on a machine with nothing else to do
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/", timeout=60).status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.2)
        assert (tmp_path / "log").read_text().count(f"http://127.0.0.1:{port}") == 1
        listening = Path("/proc/net/tcp")
        if listening.exists():
            places = [line.split()[1] for line in listening.read_text().splitlines()[1:] if line.split()[3] == "0A"]
            assert [place for place in places if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    finally:
        process.terminate()
        process.wait(60)


def test_what_is_assembled_is_part_of_the_checkout() -> None:
    assert all((ROOT / part).exists() for part in PARTS)
