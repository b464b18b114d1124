"""Every limit of the demo, in one place: what a stranger may send, hold and ask for."""

from __future__ import annotations

import os


MAX_BYTES = 10_000_000  # of an uploaded file
MAX_PIXELS = 40_000_000  # of a picture, by its header
MAX_BODY = 1_000_000  # bytes of any other request: values of sliders and the like

MIN_FACE = 64  # pixels; below, a photo is refused
SMALL_FACE = 128  # pixels; below, it is taken with a warning

MAX_STEPS = 400  # of an inversion, both phases together
DEFAULT_STEPS = 100
CHUNK_SECONDS = 1.0  # wanted length of one turn on the device: Stop waits no longer than this
JOB_SECONDS = 180.0  # wall clock of one inversion, whatever was asked for
MAX_STRENGTH = 10.0  # of an edit that comes over the API
STRIP = 7  # pictures in a strip of strengths

GPU_JOBS = int(
    os.environ.get("REFINESTYLE_GPU_JOBS", "1")
)  # at a time, of all sessions; more only where there are more GPUs
JOBS_PER_SESSION = 2  # running or waiting
QUEUE = 24  # all sessions together
SESSIONS = 500  # states kept in memory
STATE_BYTES = 5_000_000  # of one session
STATE_SECONDS = 1800  # a session's state is dropped that long after its last use
CACHE_SECONDS = (600, 7200)  # how often old files are looked for, and how old they are
