"""The demo: ``python app.py``. REFINESTYLE_MODEL names another model than ffhq-1024, a folder or a Hub id."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor


os.environ.setdefault("GRADIO_TEMP_DIR", os.path.join(tempfile.gettempdir(), "refinestyle-demo"))
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported
os.environ.setdefault("GRADIO_SSR_MODE", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLBACKEND", "agg")  # or the first visitor waits while Gradio looks for a window to plot in
# PyTorch's threads soon sleep where they wait for each other. Awake, they wait for a core that a browser or another
# program has, and hold the other one meanwhile: a step was seen to take several times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import spaces  # before torch, on ZeroGPU
import torch

from refinestyle_hub.runtime.allocator import give_back_memory, keep_memory
from space import files
from space.model import load
from space.ui import build, launch_settings


keep_memory()
with ThreadPoolExecutor(1) as ending:  # and PyTorch's helpers of it: all later work has a thread of its own
    once = map if torch.cuda.is_available() else ending.map  # ZeroGPU stands in for CUDA in this thread alone
    ((pipe, name, notice),) = once(load, [os.environ.get("REFINESTYLE_MODEL")])
give_back_memory()  # what files were read into
files.keep_swept()
demo = build(pipe, name, notice, spaces.GPU)

if __name__ == "__main__":
    demo.launch(**launch_settings())
