"""Pictures at the boundary: read anything a person may give, hand on plain RGB; tensors to pictures and back.

Outside the networks a picture is a PIL image, mode RGB, upright, sRGB, without metadata. Inside it is a float tensor
``[N, 3, H, W]`` in [-1, 1].
"""

from __future__ import annotations

from .listing import Listing, left_out_lines, left_out_of, list_pictures, no_pictures
from .pixels import (
    OutputType,
    check_ending,
    contact_sheet,
    from_uint8,
    save_picture,
    save_png,
    to_image,
    to_images,
    to_output,
    to_tensor,
    to_uint8,
)
from .reading import FORMATS, MAX_BYTES, MAX_PIXELS, PictureSource, is_single, load_picture


__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "Listing",
    "OutputType",
    "PictureSource",
    "check_ending",
    "contact_sheet",
    "from_uint8",
    "is_single",
    "left_out_lines",
    "left_out_of",
    "list_pictures",
    "load_picture",
    "no_pictures",
    "save_picture",
    "save_png",
    "to_image",
    "to_images",
    "to_output",
    "to_tensor",
    "to_uint8",
]
