"""Published checkpoints <-> our folders. Nothing in a file is executed; what is a pickle, ``pickles`` reads."""

from __future__ import annotations

from .conversion import Conversion, convert
from .export import export, export_nvidia, export_rosinality, nvidia_state_dict, rosinality_checkpoint
from .latent_files import read_latents
from .nvidia import read_nvidia_state


__all__ = [
    "Conversion",
    "convert",
    "export",
    "export_nvidia",
    "export_rosinality",
    "nvidia_state_dict",
    "read_latents",
    "read_nvidia_state",
    "rosinality_checkpoint",
]
