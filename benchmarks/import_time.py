"""What ``import refinestyle_hub`` and the first picture cost beside ``import torch``; fresh interpreters, medians."""

from __future__ import annotations

import statistics
import subprocess
import sys


CASES = {
    "import torch": "import torch",
    "import refinestyle_hub": "import refinestyle_hub",
    "import refinestyle_hub.generators.stylegan2": "import refinestyle_hub.generators.stylegan2",
}
FIRST = """
import time, torch
start = time.perf_counter()
from refinestyle_hub import RefineStylePipeline
RefineStylePipeline.from_pretrained("mini-faces-128").generate(seeds=[0])
print(time.perf_counter() - start)
"""


def seconds(code: str) -> float:
    timed = f"import time; s = time.perf_counter()\n{code}\nprint(time.perf_counter() - s)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def main(repeats: int = 5) -> None:
    runs = {name: [] for name in CASES}
    for _ in range(repeats):  # interleaved, so that a noisy moment hits all
        for name, code in CASES.items():
            runs[name].append(seconds(code))
    base = statistics.median(runs["import torch"])
    for name, values in runs.items():
        print(f"{name:36} {statistics.median(values):6.2f} s   {statistics.median(values) / base:5.2f} x import torch")
    first = [
        float(subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    print(f"{'first picture after import torch':36} {statistics.median(first):6.2f} s")


if __name__ == "__main__":
    main()
