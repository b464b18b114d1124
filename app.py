"""The demo: ``python app.py``. REFINESTYLE_MODEL names a bundled model, a folder or a Hub id."""

from __future__ import annotations

import os


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported
os.environ.setdefault("GRADIO_SSR_MODE", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from space import jobs  # imports spaces, which must come before torch on ZeroGPU
from space.model import load
from space.ui import LAUNCH, build


pipe, name, notice = load(os.environ.get("REFINESTYLE_MODEL"))
demo = build(pipe, name, notice, jobs.gpu)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
