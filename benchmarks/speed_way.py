"""The whole way of a user, step by step: seconds of each, and as ratios to those of another checkout or setting.

Each round is a process of its own, which imports the package from one checkout; those that are compared take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "space" / "examples" / "astronaut.jpg"
FIRST = (
    "import sys\n"
    "from refinestyle_hub import RefineStylePipeline\n"
    "RefineStylePipeline.from_pretrained(sys.argv[1]).generate([0])\n"
)


def compare(
    model: str, against: Path | None, keep_memory: bool, rounds: int, quick: bool, cpu_time: bool
) -> dict[str, dict[str, float]]:
    """Print, and return, medians by step: of this checkout ("now"), and of what it is compared with."""
    others: dict[str, tuple[Path, tuple[str, ...]]] = {"before": (against.resolve(), ())} if against else {}
    others |= {"memory kept": (ROOT, ("keep",))} if keep_memory else {}
    words = (*["quick"] * quick, *["cpu"] * cpu_time)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("now", *others)}
    for _ in range(rounds):
        for name, (root, more) in {"now": (ROOT, ()), **others}.items():
            runs[name].append(_round(root, model, (*words, *more)))
    found = {
        step: {name: statistics.median(run[step] for run in several) for name, several in runs.items()}
        for step in runs["now"][0]
    }
    print(f"| {model} | " + " | ".join(runs) + " |" + "".join(f" now / {name} |" for name in others))
    print("| --- |" + " ---: |" * (len(runs) + len(others)))
    for step, taken in found.items():
        ratios = "".join(f" {taken['now'] / taken[name]:.2f} |" for name in others)
        print(f"| {step} | " + " | ".join(f"{taken[name]:.3f} s" for name in runs) + f" |{ratios}")
    return found


def _round(root: Path, model: str, words: tuple[str, ...]) -> dict[str, float]:
    cpu_time = "cpu" in words
    environment = {**os.environ, "PYTHONPATH": str(root), **({"OMP_NUM_THREADS": "1"} if cpu_time else {})}
    clock = _children if cpu_time else time.perf_counter
    began = clock()
    subprocess.run([sys.executable, "-c", FIRST, model], env=environment, check=True)
    first = clock() - began
    command = [sys.executable, __file__, model, *words]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {"process start to first picture": first, **json.loads(done.stdout.splitlines()[-1])}


def _children() -> float:
    """Seconds that processes which have ended took of the processor."""
    used = os.times()
    return used.children_user + used.children_system


def steps(model: str, quick: bool, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each step in this process, the second time where it is short."""
    import torch

    from refinestyle_hub.faces.photo import read_photo
    from refinestyle_hub.images import to_tensor
    from refinestyle_hub.pipeline import RefineStylePipeline

    taken: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object], times: int = 3) -> None:
        values = []
        for _ in range(1 if quick else times):
            began = clock()
            work()
            values.append(clock() - began)
        taken[name] = min(values)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    timed("load", lambda: RefineStylePipeline.from_pretrained(model, device=device))
    pipe = RefineStylePipeline.from_pretrained(model, device=device)
    size, few = pipe.generator.config.resolution, 4 if quick else 24
    timed("detect and align", lambda: read_photo(PHOTO, "required").crop(size))
    crop = to_tensor(read_photo(PHOTO, "required").crop(size).image)
    pipe.invert_crops(crop, steps=0)
    timed("invert, no steps", lambda: pipe.invert(PHOTO, steps=0))
    count = 3 if quick else 30

    def invert() -> float:
        """Seconds of one step, the median."""
        ticks: list[float] = []
        pipe.invert(PHOTO, steps=count, on_step=lambda *_: ticks.append(clock()))
        return statistics.median(b - a for a, b in zip(ticks, ticks[1:], strict=False))

    began = clock()
    taken["one step of it"] = invert()
    taken["invert, 30 steps"] = clock() - began
    with ThreadPoolExecutor(1) as second:  # this thread has helpers of PyTorch's already
        taken["one step of it, in a second thread"] = second.submit(invert).result()
    face = pipe.invert(PHOTO, steps=1)
    smile: Mapping[str, object] = {next(iter(pipe.directions)): 1.0}
    mix = dict.fromkeys(list(pipe.domains)[:3], 0.4)
    for side in (size // 2, size):
        timed(f"edit at {side} px", lambda side=side: pipe.render(face, edits=smile, resolution=side))
    timed("mix of three domains", lambda: pipe.render(face, edits=smile, domains=mix))
    film = {next(iter(pipe.directions)): [i / few for i in range(few)]}
    timed("film of 24 frames", lambda: pipe.render([face] * few, edits=film, resolution=size // 2), 1)
    run = pipe.adaptation([PHOTO], steps=8)
    run.step(2)  # they are of two kinds, by turns
    timed("two steps of an adaptation", lambda: run.step(2))
    return taken


if __name__ == "__main__":
    if "keep" in sys.argv[2:]:
        from refinestyle_hub.runtime.allocator import keep_memory

        keep_memory()
    chosen = time.process_time if "cpu" in sys.argv[2:] else time.perf_counter
    print(json.dumps(steps(sys.argv[1], "quick" in sys.argv[2:], chosen)))
