"""The published implementations of StyleGAN2, from folders with their code: same sizes, random weights.

On a CPU both run the plain PyTorch ways that they keep for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from packaging.version import parse
from torch import Tensor


Draw = Callable[[Tensor], Tensor]  # w+ [N, L, 512] -> pictures


def nvidia(folder: Path, size: int, device: torch.device) -> Draw:
    """https://github.com/NVlabs/stylegan3, ``training.networks_stylegan2``, config-f."""
    try:
        import pkg_resources  # noqa: F401
    except ImportError:  # which newer setuptools no longer have; its code wants one function of it
        sys.modules["pkg_resources"] = ModuleType("pkg_resources")
        sys.modules["pkg_resources"].parse_version = parse  # type: ignore[attr-defined]
    module = _imported("training.networks_stylegan2", folder)
    network = module.Generator(512, 0, 512, size, 3, channel_base=32768, channel_max=512).eval().to(device)
    network.requires_grad_(False)
    half = device.type == "cuda"  # by itself it draws its largest maps in fp16 there
    return lambda w: network.synthesis(w, noise_mode="const", force_fp32=not half)


def rosinality(folder: Path, size: int, device: torch.device) -> Draw:
    """https://github.com/rosinality/stylegan2-pytorch, ``model.py``, channel multiplier 2."""
    from torch.utils import cpp_extension

    load = cpp_extension.load
    if device.type == "cpu":  # it compiles its extensions as it is imported, which a CPU never calls
        cpp_extension.load = lambda *_, **__: None
    try:
        module = _imported("model", folder)
    finally:
        cpp_extension.load = load
    network = module.Generator(size, 512, 8, channel_multiplier=2).eval().to(device).requires_grad_(False)
    return lambda w: network([w], input_is_latent=True, randomize_noise=False)[0]


def _imported(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
