"""Load and abuse of the demo, on the loopback alone: many users, bad files, slow clients, kill -9.

    python benchmarks/space_load.py [--model mini-faces-128] [--users 20] [--seconds 120] [--steps 10] [--bad 1000]

It starts the demo in a process of its own and prints a table: who waited how long, how memory grew, and what failed.
Every user has a picture of their own; a crop that comes back with another user's mark is the worst failure there is.
The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from space_server import ROOT, Server


# --- Users ----------------------------------------------------------------------------------------------------------


def portrait(user: int, size: int) -> Any:
    """A user's picture: noise of their own, with their number as a colour in one corner. [size, size, 3]"""
    picture = np.random.default_rng(user).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)).copy()
    picture[:8, :8] = (user * 11 % 256, user * 37 % 256, 255 - user * 11 % 256)
    return picture


def opened(file: Any) -> Any:
    """Pixels of a picture that a client got."""
    with Image.open(file["path"] if isinstance(file, dict) else file) as picture:
        return np.array(picture)


class Visit:
    """What happened to all users, written by their threads."""

    def __init__(self, steps: int) -> None:
        self.steps = steps  # of each inversion
        self.waits: dict[str, list[float]] = defaultdict(list)
        self.refused = 0
        self.failures: list[str] = []
        self.lock = threading.Lock()

    def ask(self, name: str, call: Callable[[], Any]) -> Any:
        """Time a call; None where the line was full."""
        began = time.monotonic()
        try:
            answer = call()
        except Exception as error:
            with self.lock:
                if "full" in str(error).lower() or "422" in str(error) or "503" in str(error):
                    self.refused += 1
                else:
                    self.failures.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            return None
        with self.lock:
            self.waits[name].append(time.monotonic() - began)
        return answer


class User:
    """Somebody with a picture of their own, and an idea of what to do next."""

    def __init__(self, server: Server, number: int, size: int, visit: Visit, folder: Path) -> None:
        self.number, self.visit, self.chance = number, visit, random.Random(number)
        self.server, self.got = server, folder / f"got{number}"
        self.mine = portrait(number, size)
        self.file = folder / f"user{number}.png"
        Image.fromarray(self.mine).save(self.file)

    def stay(self, until: float) -> None:
        """Every tenth user learns domains; the others invert, edit and stylise. They go when the time is up."""
        from gradio_client import Client

        client = Client(
            self.server.url, verbose=False, analytics_enabled=False, download_files=str(self.got),
            httpx_kwargs={"timeout": 120},  # a cancel is answered when the present chunk is done
        )  # fmt: skip
        have_face = False
        while time.monotonic() < until:
            if self.number % 10 == 9:
                try:
                    self.adapt(client, until)
                except Exception as error:  # such as a server that does not answer in time
                    with self.visit.lock:
                        self.visit.failures.append(f"/adapt: {type(error).__name__}: {str(error)[:200]}")
            elif not have_face or self.chance.random() < 0.2:
                have_face = self.invert(client) or have_face
            elif self.chance.random() < 0.7:
                self.edit(client)
            else:
                self.visit.ask(
                    "/stylise", lambda: client.predict(domains={}, on="my face", seed=0, api_name="/stylise")
                )
            time.sleep(self.chance.uniform(0.5, 2.0))  # people look at what they got

    def invert(self, client: Any) -> bool:
        """Whether there is a face now."""
        from gradio_client import handle_file

        photo = handle_file(self.file)
        answer = self.visit.ask(
            "/invert", lambda: client.predict(photo=photo, aligned=True, steps=self.visit.steps, api_name="/invert")
        )
        self.check(answer, "crop")
        return answer is not None

    def edit(self, client: Any) -> None:
        """A step of one slider, or none."""
        edits = {} if self.chance.random() < 0.3 else {"smile": round(self.chance.uniform(-3, 3), 1)}
        answer = self.visit.ask("/edit", lambda: client.predict(edits=edits, before="photo", api_name="/edit"))
        self.check(answer, "photo")

    def adapt(self, client: Any, until: float) -> None:
        """A domain from one picture, with as many chunks as there is time for: what it has reached is kept."""
        from gradio_client import handle_file

        job = client.submit(
            pictures=[handle_file(self.file)],
            name=f"user{self.number}",
            rights=True,
            steps=50,
            api_name="/adapt",
        )
        began, updates = time.monotonic(), 0
        while not job.done():
            if time.monotonic() > until:
                self.visit.ask("/adapt, to stop", job.cancel)
                break
            time.sleep(0.2)
            if len(job.outputs()) > updates:
                updates = len(job.outputs())
                with self.visit.lock:
                    self.visit.waits["/adapt, to an update"].append(time.monotonic() - began)
                began = time.monotonic()
        if job.done() and not job.cancelled():
            job.result()

    def check(self, answer: Any, what: str) -> None:
        shown = None if answer is None else opened(answer[0][0]).astype(int)
        if shown is not None and np.abs(shown - self.mine).mean() > 12:  # of 255: a session keeps a WebP of it
            with self.visit.lock:
                self.visit.failures.append(f"user {self.number} was shown another {what} than their own")


def load(server: Server, options: argparse.Namespace, size: int) -> list[str]:
    """Many users at once; prints who waited how long, and how memory grew."""
    users, seconds = options.users, options.seconds
    visit, until = Visit(options.steps), time.monotonic() + seconds
    memory = []
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(users) as pool:
        going = [pool.submit(User(server, n, size, visit, Path(scratch)).stay, until) for n in range(users)]
        while time.monotonic() < until:
            memory.append(server.megabytes)
            time.sleep(2)
        for each in going:
            each.result()
    print(f"\n{users} users for {seconds:.0f} s")
    print("| endpoint | answers | median wait | 95 % | longest |\n| --- | --- | --- | --- | --- |")
    for name, waits in sorted(visit.waits.items()):
        ordered = sorted(waits)
        late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        print(f"| {name} | {len(waits)} | {statistics.median(waits):.1f} s | {late:.1f} s | {ordered[-1]:.1f} s |")
    middle = memory[len(memory) // 2]
    print(f"refused because the line was full: {visit.refused}")
    eighths = ", ".join(f"{memory[(len(memory) - 1) * n // 8]:.0f}" for n in range(9))
    print(f"memory in MB, from the start by eighths of the time: {eighths}; at most {server.most_megabytes:.0f}")
    if memory[-1] > 1.15 * middle + 50:
        visit.failures.append("memory grew by more than 15 % in the second half")
    return visit.failures


# --- Bad files ------------------------------------------------------------------------------------------------------


def seeds(size: int) -> dict[str, bytes]:
    """Good files of every kind, to be spoilt."""
    files = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = io.BytesIO()
        Image.fromarray(portrait(1, size)).save(data, kind)
        files[f"x.{kind.lower()}"] = data.getvalue()
    return files


def spoilt(content: bytes, chance: random.Random) -> bytes:
    """One to eight mutations: bytes changed, cut out, doubled, or the end missing."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 200))
        match chance.randrange(5):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randint(1, 64)]
            case 2:
                data[place:place] = data[place : place + chance.randint(1, 64)]
            case 3:
                data[place : place + 4] = chance.randbytes(4)
            case _:
                del data[max(place, 1) :]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def told(server: Server, endpoint: str, data: list[Any]) -> tuple[str, str]:
    """The kind of an answer and its text."""
    joined = httpx.post(f"{server.url}gradio_api/call/{endpoint}", json={"data": data}, timeout=120)
    if joined.status_code != 200:
        return "refused", joined.text
    with httpx.stream(
        "GET", f"{server.url}gradio_api/call/{endpoint}/{joined.json()['event_id']}", timeout=300
    ) as answer:
        text = answer.read().decode()
    return ("error" if "event: error" in text else "complete"), text


def upload(server: Server, name: str, content: bytes) -> Any:
    """A file as a request names it."""
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": (name, content)}, timeout=120)
    answer.raise_for_status()
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


def abuse(server: Server, count: int, size: int, tokens: bytes) -> list[str]:
    """Spoilt pictures and token files; after every 50 a good one, which must be served."""
    chance, failures, kinds = random.Random(0), [], defaultdict(int)
    good = seeds(size)
    unexpected = "Something went wrong here"
    for number in range(count):
        if number % 4 == 3:
            file, endpoint = upload(server, "x.safetensors", spoilt(tokens, chance)), "load_file"
            data: list[Any] = [file]
        else:
            name = chance.choice(sorted(good))
            file, endpoint = upload(server, name, spoilt(good[name], chance)), "align"
            data = [file, True]
        kind, text = told(server, endpoint, data)
        kinds[f"{endpoint}: {kind}"] += 1
        if kind == "error" and ('"error": null' in text or "data: null" in text or unexpected in text):
            failures.append(f"bad file {number} ({endpoint}) was answered by {text[:200]!r}")
        if number % 50 == 49:
            kind, text = told(server, "align", [upload(server, "x.png", good["x.png"]), True])
            if kind != "complete":
                failures.append(f"after bad file {number} a good one was answered by {text[:200]!r}")
    print(f"\nspoilt files, {count}: " + ", ".join(f"{name} {n}" for name, n in sorted(kinds.items())))
    return failures


def slow(server: Server, clients: int = 20, seconds: float = 15) -> list[str]:
    """Clients that send a byte at a time do not keep others waiting."""
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(clients)]
    for each in sockets:
        each.sendall(head)
    until, waits = time.monotonic() + seconds, []
    while time.monotonic() < until:
        for each in sockets:
            each.send(b"x")
        began = time.monotonic()
        ok = server.alive()
        waits.append(time.monotonic() - began)
        if not ok:
            return ["the page was not served while slow clients were connected"]
        time.sleep(0.5)
    for each in sockets:
        each.close()
    print(
        f"\n{clients} slow clients: others waited {statistics.median(waits) * 1000:.0f} ms, {max(waits):.2f} s at most"
    )
    return []


def crash(server: Server) -> list[str]:
    """kill -9 in the middle of a job, then start again at the same place."""
    photo = io.BytesIO()
    Image.fromarray(portrait(1, 128)).save(photo, "PNG")
    data = [upload(server, "x.png", photo.getvalue()), True, 0, 400, True, 0]
    httpx.post(f"{server.url}gradio_api/call/invert", json={"data": data}, timeout=60)
    time.sleep(1)
    server.kill()
    server.start()
    kind, text = told(server, "align", [upload(server, "x.png", photo.getvalue()), True])
    print(f"\nkilled and started again in {server.started_in:.1f} s")
    return [] if kind == "complete" else [f"after a crash: {text[:200]!r}"]


def main() -> int:
    """Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-faces-128", help="bundled name, folder or Hub id")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=10, help="of each inversion")
    parser.add_argument("--bad", type=int, default=1000, help="spoilt files")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from refinestyle_hub import RefineStylePipeline
    from refinestyle_hub.tokens.parameters import TokenParameters
    from space.tokenfiles import domain_file

    pipe = RefineStylePipeline.from_pretrained(options.model)
    size = pipe.generator.config.resolution
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        drawn = TokenParameters(pipe.generator.kernel_stats(), 2, ("*",), "pre").token_set(pipe.fingerprint)
        tokens = Path(domain_file(drawn.detach(), "x")).read_bytes()
        server = Server(options.model, Path(folder))
        print(f"{options.model}, {size} px, on {os.cpu_count()} cores; {server.megabytes:.0f} MB at the start")
        print(f"started in {server.started_in:.1f} s, with {server.start_cpu:.1f} s of processor time")
        try:
            failures = load(server, options, size)
            failures += abuse(server, options.bad, size, tokens)
            failures += slow(server)
            failures += crash(server)
        finally:
            server.stop()
    for failure in failures:
        print("FAILED", failure)
    print("nothing failed" if not failures else f"failures: {len(failures)}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
