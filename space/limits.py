"""Every limit of the demo in one place: what a visitor may send, hold and ask for."""

from __future__ import annotations

import os


MAX_BYTES = 10_000_000  # of an uploaded file
MAX_PIXELS = 64_000_000  # of a picture, by its header; phones take 50 million
MIN_ROOM = 500_000_000  # bytes of the disk that uploads leave free
MAX_BODY = 1_000_000  # bytes of any other request: values of sliders and the like

MIN_FACE = 64  # pixels; below, a photo is refused
SMALL_FACE = 128  # pixels; below, it is taken with a warning

MAX_STEPS = 400  # of an inversion, both phases together
DEFAULT_STEPS = {True: 12, False: 100}  # with an encoder, about 15 s on two cores; and without one
CHUNK_SECONDS = 1.0  # length of one turn on the device: Stop waits no longer than this
JOB_SECONDS = 180.0  # longest wall-clock time of one inversion
MAX_STRENGTH = 10.0  # of an edit that comes over the API
DRAG_SIDE = 512  # pixels of the canvas while a control moves
WHOLE_SIDE = 1280  # pixels of the longer side of a whole photo on the canvas
THUMB = 256  # pixels of the faces in a gallery or on a sheet
LIKENESS = {"yes": 0.4, "nearly": 0.6, "no": float("inf")}  # up to which identity distance; dlib's line is 0.6
DISPLACED = 0.07  # landmarks further apart than this, as a share of the eyes' distance, make another face

ADAPT_STEPS = (20, 1000)  # fewest and most of an adaptation
DEFAULT_ADAPT_STEPS = {"cpu": 90, "cuda": 500}  # under two minutes of an idle machine with two cores
ADAPT_TOKENS = (1, 8)  # fewest and most for each layer
ADAPT_SECONDS = 900.0  # longest wall-clock time of one adaptation
TURN_SECONDS = 20.0 if os.environ.get("SPACES_ZERO_GPU") == "true" else 4.0  # of an adaptation, then others have one
PREVIEWS = 4  # fixed samples that are shown while it runs

DOMAIN_STRENGTHS = (-0.5, 1.5)
MIXED = 4  # domains at a time
SEEDS = 4  # random faces at a time
FILM = 20  # different frames of a film, which runs forwards and backwards

MAX_TOKEN_BYTES = 8_000_000  # of a .safetensors file that is uploaded, or named on the Hub
MAX_HEADER = 256_000  # bytes of its header
MAX_VALUE = 1e4  # of its numbers; trained ones are below 10
MAX_RANK = 64  # tokens for a layer
MAX_NAME = 40  # characters of a domain's name

GPU_JOBS = int(os.environ.get("REFINESTYLE_GPU_JOBS", "1"))  # at a time of a kind; more only where there are more GPUs
ADAPT_JOBS = 2 * GPU_JOBS  # adaptations that take turns, chunk by chunk; others wait
SMALL_JOBS = 2  # at a time of each kind that needs no accelerator
JOBS_PER_SESSION = 2  # inversions and adaptations, running or waiting
DRAWS_PER_SESSION = 6  # pictures, likewise: as many as a page asks for at a time, with a film and a sheet
SMALL_JOBS_PER_SESSION = 4  # the same of other work, for each kind of it
JOBS_PER_ADDRESS = 8  # of all kinds: a third of the line, for people may share an address
QUEUE = 24  # all sessions together
SESSIONS = 500  # states kept in memory
SUBJECT_BYTES = 1_200_000  # of a face of a session
FACES = 4  # inverted ones that undo can come back to, mostly of half a megabyte
HISTORY = 60  # looks that undo can come back to
SHELF_BYTES = 2_400_000  # of its domains: 7.2 MB in all at most
SHELF = 8  # domains
STATE_SECONDS = 1800  # until the values of a session are dropped; an open page renews them
CACHE_SECONDS = (600, 7200)  # between two sweeps, and the age at which files are deleted
