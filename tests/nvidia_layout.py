"""Training pickles as NVIDIA's code writes them, without that code: modules of the same names, attributes and tensors.

A class decorated there with ``persistence.persistent_class`` pickles as a call of
``torch_utils.persistence._reconstruct_persistent_obj`` with the class's source code and the object's attributes.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn


SOURCE = "raise SystemExit('the source code of a class in the file was executed')\n"


class EasyDict(dict[str, Any]):
    """Stands for ``dnnlib.util.EasyDict``."""

    __module__ = "dnnlib.util"
    __qualname__ = "EasyDict"


def reconstruct(meta: dict[str, Any]) -> None:
    raise AssertionError("never called: only its name is written")


reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"


class Persistent(nn.Module):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self._init_args = ()
        self._init_kwargs = kwargs

    def __reduce__(self) -> tuple[Any, ...]:
        name = type(self).__name__
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": name, "state": self.__dict__}
        return reconstruct, (meta,), None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


def setup_filter() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return taps.ger(taps) / taps.ger(taps).sum()


class FullyConnectedLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, activation: str = "linear", lr: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.in_features, self.out_features, self.activation = inputs, outputs, activation
        self.weight_gain, self.bias_gain = lr / np.sqrt(inputs), lr
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(bias + 0.3 * torch.randn(outputs) / lr)


class Conv2dLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, kernel: int, clamp: Any, bias: bool = True, down: int = 1):
        super().__init__()
        self.in_channels, self.out_channels = inputs, outputs
        self.activation, self.up, self.down = "lrelu" if bias else "linear", 1, down
        self.conv_clamp = clamp if bias else None
        self.register_buffer("resample_filter", setup_filter())
        self.padding, self.weight_gain = kernel // 2, 1 / np.sqrt(inputs * kernel**2)
        self.act_gain = np.sqrt(2) if bias else 1
        weight = torch.randn(outputs, inputs, kernel, kernel).to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(0.3 * torch.randn(outputs)) if bias else None


class MappingNetwork(Persistent):
    def __init__(self, z_dim: int, w_dim: int, num_ws: int, num_layers: int, c_dim: int = 0):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, 0.995
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, w_dim)
        for i in range(num_layers):
            inputs = z_dim + (w_dim if c_dim else 0) if i == 0 else w_dim
            setattr(self, f"fc{i}", FullyConnectedLayer(inputs, w_dim, "lrelu", lr=0.01))
        self.register_buffer("w_avg", torch.randn(w_dim))


class SynthesisLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: int, clamp: Any):
        super().__init__()
        self.w_dim, self.resolution, self.up, self.use_noise = w_dim, resolution, up, True
        self.activation, self.conv_clamp, self.padding, self.act_gain = "lrelu", clamp, 1, np.sqrt(2)
        self.register_buffer("resample_filter", setup_filter())
        self.affine = FullyConnectedLayer(w_dim, inputs, bias=1.0)
        weight = torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.randn([]))
        self.bias = nn.Parameter(0.3 * torch.randn(outputs))


class ToRGBLayer(Persistent):
    def __init__(self, inputs: int, colours: int, w_dim: int, clamp: Any):
        super().__init__()
        self.w_dim, self.conv_clamp = w_dim, clamp
        self.affine = FullyConnectedLayer(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(colours, inputs, 1, 1))
        self.bias = nn.Parameter(0.3 * torch.randn(colours))
        self.weight_gain = 1 / np.sqrt(inputs)


class SynthesisBlock(Persistent):
    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, colours: int, clamp: Any, fp16: bool, arch: str
    ):
        super().__init__()
        self.in_channels, self.w_dim, self.resolution, self.img_channels = inputs, w_dim, resolution, colours
        self.architecture, self.use_fp16, self.channels_last = arch, fp16, False
        self.register_buffer("resample_filter", setup_filter())
        self.num_conv = self.num_torgb = 0
        if inputs:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, resolution, 2, clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, resolution, 1, clamp)
        self.torgb = ToRGBLayer(outputs, colours, w_dim, clamp)


def widths(resolution: int, base: int, maximum: int) -> dict[int, int]:
    return {2**k: min(base // 2**k, maximum) for k in range(2, resolution.bit_length())}


class SynthesisNetwork(Persistent):
    def __init__(
        self, w_dim: int, resolution: int, colours: int, plan: dict[int, int], clamp: Any, fp16: int, arch: str
    ):
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, resolution, colours
        self.block_resolutions, self.num_ws = list(plan), 2 * len(plan)
        lowest = max(2 * resolution >> fp16, 8)
        for r, outputs in plan.items():
            block = SynthesisBlock(plan.get(r // 2, 0), outputs, w_dim, r, colours, clamp, r >= lowest, arch)
            setattr(self, f"b{r}", block)


class Generator(Persistent):
    def __init__(
        self, *, resolution: int, z_dim: int = 16, w_dim: int = 16, mapping: int = 2, base: int = 256,
        maximum: int = 12, clamp: float | None = None, fp16: int = 0, c_dim: int = 0, colours: int = 3,
        arch: str = "skip",
    ):  # fmt: skip
        kwargs = EasyDict(num_layers=mapping)
        super().__init__(z_dim=z_dim, w_dim=w_dim, img_resolution=resolution, mapping_kwargs=kwargs)
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = resolution, colours
        plan = widths(resolution, base, maximum)
        self.synthesis = SynthesisNetwork(w_dim, resolution, colours, plan, clamp, fp16, arch)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, w_dim, self.num_ws, mapping, c_dim)


class DiscriminatorBlock(Persistent):
    def __init__(self, first: bool, inputs: int, outputs: int, resolution: int, clamp: Any, fp16: bool):
        super().__init__()
        self.in_channels, self.resolution, self.architecture = 0 if first else inputs, resolution, "resnet"
        self.use_fp16, self.num_layers = fp16, 4 if first else 3
        self.register_buffer("resample_filter", setup_filter())
        if first:
            self.fromrgb = Conv2dLayer(3, inputs, 1, clamp)
        self.conv0 = Conv2dLayer(inputs, inputs, 3, clamp)
        self.conv1 = Conv2dLayer(inputs, outputs, 3, clamp, down=2)
        self.skip = Conv2dLayer(inputs, outputs, 1, clamp, bias=False, down=2)


class MinibatchStdLayer(Persistent):
    def __init__(self, group_size: int | None, num_channels: int):
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels


class DiscriminatorEpilogue(Persistent):
    def __init__(self, width: int, group: int | None, clamp: Any):
        super().__init__()
        self.in_channels, self.resolution, self.architecture, self.cmap_dim = width, 4, "resnet", 0
        self.mbstd = MinibatchStdLayer(group, 1)
        self.conv = Conv2dLayer(width + 1, width, 3, clamp)
        self.fc = FullyConnectedLayer(width * 16, width, "lrelu")
        self.out = FullyConnectedLayer(width, 1)


class Discriminator(Persistent):
    def __init__(
        self, *, resolution: int, base: int = 256, maximum: int = 12, clamp: float | None = None, fp16: int = 0,
        group: int | None = 4,
    ):  # fmt: skip
        super().__init__(img_resolution=resolution)
        self.c_dim, self.img_resolution, self.img_channels = 0, resolution, 3
        plan = widths(resolution, base, maximum)
        self.block_resolutions = sorted(plan, reverse=True)[:-1]
        lowest = max(2 * resolution >> fp16, 8)
        for r in self.block_resolutions:
            block = DiscriminatorBlock(r == resolution, plan[r], plan[r // 2], r, clamp, r >= lowest)
            setattr(self, f"b{r}", block)
        self.b4 = DiscriminatorEpilogue(plan[4], group, clamp)


def pickled(content: Any, protocol: int = 4, torch_save: bool = False) -> bytes:
    """A pickle with the original names of modules, which exist only for that moment."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    modules = {name: types.ModuleType(name) for name in names}
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
    modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    with mock.patch.dict(sys.modules, modules):
        if torch_save:
            torch.save(content, buffer)
        else:
            pickle.dump(content, buffer, protocol=protocol)
    return buffer.getvalue()


def write_pickle(path: Path, content: Any, protocol: int = 4, torch_save: bool = False) -> Path:
    path.write_bytes(pickled(content, protocol, torch_save))
    return path


def snapshot(**networks: Persistent) -> dict[str, Any]:
    """What the training loop saves."""
    options = EasyDict(
        class_name="training.dataset.ImageFolderDataset", path="faces.zip", use_labels=False, xflip=True
    )
    return {"training_set_kwargs": options, **networks, "augment_pipe": None}
