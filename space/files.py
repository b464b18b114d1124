"""Files in Gradio's cache, from where they are served and where they are swept; and pictures as they leave.

A picture that leaves says in its one piece of metadata that a model took part: an XMP packet with the IPTC digital
source type, as https://iptc.org/standards/photo-metadata describes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from refinestyle_hub.storage.atomic import write_file

from . import limits
from .images import Pixels, encoded


FRAME_MS = 70  # of a film
XMP = Path(__file__).with_name("mark.xmp").read_bytes()


def marked(pixels: Pixels, kind: str = "PNG") -> bytes:
    """A picture as a PNG or JPEG file with the mark, and no other metadata."""
    if kind == "JPEG":
        segment = b"http://ns.adobe.com/xap/1.0/\0" + XMP
        extra = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment  # APP1
        return encoded(pixels, "JPEG", quality=95, subsampling=0, extra=extra)
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return encoded(pixels, "PNG", pnginfo=info)


def cache_file(data: bytes, name: str) -> str:
    """Write a file that is to be shown or downloaded, and return its path.

    The folder is named after the contents, because Gradio would overwrite a file of the same name while a browser
    reads it.
    """
    folder = Path(get_upload_folder()) / hashlib.sha256(data).hexdigest()[:32]
    write_file(folder / name, data)
    return str(folder / name)


def picture_file(pixels: Pixels, name: str = "picture.png") -> str:
    """A picture as a marked PNG file in the cache."""
    return cache_file(marked(pixels), name)


def film_file(frames: Sequence[Pixels], name: str = "film.webp") -> str:
    """Frames forwards and backwards in an endless loop, as an animated, marked WebP in the cache."""
    others = [Image.fromarray(frame) for frame in [*frames[1:], *frames[-2:0:-1]]]
    how = {"duration": FRAME_MS, "loop": 0, "quality": 88, "method": 3, "xmp": XMP}
    return cache_file(encoded(frames[0], "WEBP", save_all=True, append_images=others, **how), name)


def sweep_cache() -> None:
    """Delete what is older than any session. Gradio itself deletes only files that it served since it was started."""
    eldest = time.time() - limits.CACHE_SECONDS[1]
    for path in sorted(Path(get_upload_folder()).rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # another process may sweep as well, and not every folder is empty
            if path.stat().st_mtime < eldest:
                remove = path.rmdir if path.is_dir() else path.unlink
                remove()


def keep_swept() -> None:
    """Sweep now, and then at intervals for as long as the process lives."""

    def sweep() -> None:
        while True:
            sweep_cache()
            time.sleep(limits.CACHE_SECONDS[0])

    threading.Thread(target=sweep, daemon=True).start()
