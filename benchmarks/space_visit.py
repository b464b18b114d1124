"""One visit to the demo in a real browser: seconds until a person sees each thing.

    python benchmarks/space_visit.py [--model ffhq-1024] [--photo me.jpg] [--style FOLDER] [--rounds 3]

It starts the demo in a process of its own, opens it in Chromium (playwright), and prints medians over the rounds: the
first page, a moved slider, one's own photo (the bundled astronaut unless given) with what the page says of the
likeness, the gallery of styles and, with pictures of a style, an adaptation.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from space_server import ROOT, Server


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 600_000  # milliseconds
PICTURE = """before => { const now = document.querySelector('#canvas .after');
    return now && now.complete && now.naturalWidth > 0 && now.src !== before && now.src }"""
READY = "() => document.querySelector('#canvas .frame')?.dataset.ready !== undefined"
BAR = "pattern => RegExp(pattern).test(document.querySelector('#canvas .progress:not([hidden])')?.innerText || '')"
AT_REST = "() => document.querySelector('#canvas .progress')?.hidden"
SAYS = "([where, what]) => RegExp(what).test(document.querySelector(where)?.innerText || '')"


class Visit:
    """A page, and the seconds that things on it took."""

    def __init__(self, page: Any, taken: dict[str, list[float]]) -> None:
        self.page, self.taken = page, taken

    def wait(self, script: str, argument: Any = None) -> Any:
        return self.page.wait_for_function(script, arg=argument, timeout=PATIENCE, polling=50).json_value()

    def since(self, began: float, what: str) -> None:
        self.taken[what].append(time.monotonic() - began)
        print(f"{what}: {self.taken[what][-1]:.2f} s", file=sys.stderr, flush=True)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def first_page(self, url: str) -> None:
        began = time.monotonic()
        self.page.goto(url)
        self.wait(PICTURE, "")
        self.since(began, "page opened: a face is seen")
        self.wait(READY)
        self.since(began, "page opened: its controls work")

    def slider(self, moves: int = 5) -> None:
        self.tab("Edit")
        self.page.locator("#edit-smile input[type=range]").focus()
        for _ in range(moves):
            before, began = self.wait(PICTURE, ""), time.monotonic()
            self.page.keyboard.press("ArrowRight")
            self.wait(PICTURE, before)
            self.since(began, "slider moved: the picture follows")
            self.page.wait_for_timeout(2000)  # until the face at rest is drawn
        self.page.locator("#canvas [data-event=reset]").first.click()
        self.page.wait_for_timeout(2000)

    def photo(self, file: Path) -> str:
        """What the page says of the likeness."""
        self.tab("Photo")
        before, began = self.wait(PICTURE, ""), time.monotonic()
        self.page.locator("#photo input[type=file]").set_input_files(file)
        self.wait(BAR, "likeness|Step")
        self.wait(PICTURE, before)
        self.since(began, "photo chosen: a likeness is seen")
        self.wait(BAR, "Comparing")
        self.wait(AT_REST)
        self.wait(SAYS, ["#canvas .note", "Same person"])
        self.since(began, "photo chosen: done")
        return str(self.page.locator("#canvas .note").inner_text()).splitlines()[0]

    def gallery(self) -> None:
        began = time.monotonic()
        self.tab("Style")
        self.wait("() => document.querySelectorAll('#domains img').length > 0")
        self.since(began, "style opened: the gallery is seen")

    def adapt(self, pictures: list[Path]) -> None:
        self.tab("Adapt")
        self.page.locator("#pictures input[type=file]").set_input_files(pictures)
        self.wait(SAYS, ["#checked", "can be used"])
        self.page.locator("#rights input").check()
        began = time.monotonic()
        self.page.locator("#adapt-run").click()
        self.wait(SAYS, ["#adapt-note", r"step \d+/"])
        self.wait("() => document.querySelector('#preview img')?.naturalWidth > 0")
        self.since(began, "adaptation begun: a preview is seen")
        self.wait(SAYS, ["#adapt-note", "is ready"])
        self.since(began, "adaptation begun: the style is ready")


def main() -> None:
    """Read the arguments, visit, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ffhq-1024", help="bundled name or folder")
    parser.add_argument("--photo", type=Path, default=ROOT / "space" / "examples" / "astronaut.jpg")
    parser.add_argument("--style", type=Path, help="folder with 1 to 20 pictures of a style")
    parser.add_argument("--rounds", type=int, default=1, help="visits, each to a new server")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    taken: dict[str, list[float]] = defaultdict(list)
    notes, most = [], 0.0
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            server = Server(args.model, Path(folder))
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
            try:
                taken["server started: it answers"].append(server.started_in)
                visit = Visit(browser.new_page(viewport={"width": 1280, "height": 800}), taken)
                visit.first_page(server.url)
                visit.slider()
                notes.append(visit.photo(args.photo))
                visit.gallery()
                if args.style:
                    visit.adapt(sorted(path for path in args.style.iterdir() if path.is_file()))
                most = max(most, server.most_megabytes)
            finally:
                browser.close()
                server.stop()
    print("| | seconds |\n| --- | ---: |")
    for what, seconds in taken.items():
        print(f"| {what} | {statistics.median(seconds):.1f} |")
    print(f"\nThe server's memory reached {most:.0f} MB. Of the photo the page said: {notes}")


if __name__ == "__main__":
    main()
