"""Read a network of TensorFlow.js, a graph in JSON and its weights, and run it in PyTorch.

Only the operations that the networks of the labels need are there. Tensors are [N, H, W, C], as in the files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


__all__ = ["GraphModel", "read_weights", "same_padding"]

TYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": F.relu,
    "Relu6": F.relu6,
    "Elu": F.elu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "AddV2": torch.add,
    "BiasAdd": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "RealDiv": torch.div,
    "Maximum": torch.maximum,
    "Minimum": torch.minimum,
}


def read_weights(manifest: Sequence[Any], folder: Path) -> dict[str, Tensor]:
    """Tensors by name from a weights manifest; quantised ones become float32."""
    tensors = {}
    for group in manifest:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"])) if entry["shape"] else 1
            quantised = entry.get("quantization")
            kind = np.dtype(quantised["dtype"] if quantised else TYPES[entry["dtype"]])
            values = np.frombuffer(data, kind, count, offset)
            offset += count * kind.itemsize
            if quantised:
                values = values.astype(np.float32)
                if "scale" in quantised:
                    values = values * quantised["scale"] + quantised["min"]
            values = np.rint(values).astype(np.int32) if entry["dtype"] == "int32" else values
            tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).copy())
        if offset != len(data):
            raise ValueError(f"{group['paths']} holds {len(data)} bytes, its weights take {offset}.")
    return tensors


def same_padding(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad [N, C, H, W] as TensorFlow's SAME does, which puts the odd pixel at the end."""
    pads = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads, value=value)


class GraphModel:
    """A graph with its weights; calling it gives all outputs by name."""

    def __init__(self, path: Path) -> None:
        graph = json.loads(path.read_text())
        nodes = graph["modelTopology"]["node"]
        self.nodes = {node["name"]: node for node in nodes}
        self.weights = read_weights(graph["weightsManifest"], path.parent)
        self.input = next(node["name"] for node in nodes if node["op"] == "Placeholder")
        used = {name.split(":")[0].lstrip("^") for node in nodes for name in node.get("input", [])}
        self.outputs = [node["name"] for node in nodes if node["name"] not in used and node["op"] != "Const"]

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """x as the network's placeholder wants it, [N, H, W, C]."""
        values = {self.input: x, **self.weights}
        for name in self.nodes:  # in an order in which inputs come first
            self._fill(name, values)
        return {name: values[name] for name in self.outputs}

    def _fill(self, name: str, values: dict[str, Tensor]) -> Tensor:
        if name not in values:
            node = self.nodes[name]
            inputs = [self._fill(i.split(":")[0], values) for i in node.get("input", []) if not i.startswith("^")]
            values[name] = self._run(node, inputs)
        return values[name]

    def _run(self, node: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        op, x = node["op"], inputs[0]
        if op in ACTIVATIONS:
            return ACTIVATIONS[op](x)
        if op in BINARY:
            return BINARY[op](*torch.broadcast_tensors(*inputs))
        if op in ("Identity", "NoOp"):
            return x
        if op in ("Conv2D", "_FusedConv2D"):
            return _fused(node, _convolution(node, x, inputs[1]), inputs[2:])
        if op in ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"):
            return _fused(node, _convolution(node, x, inputs[1], depthwise=True), inputs[2:])
        if op in ("MatMul", "_FusedMatMul"):
            a = x.T if _attribute(node, "transpose_a") else x
            b = inputs[1].T if _attribute(node, "transpose_b") else inputs[1]
            return _fused(node, a @ b, inputs[2:])
        if op == "Conv2DBackpropInput":
            return _transposed(node, inputs[0], inputs[1], inputs[2])
        if op == "Prelu":
            return torch.where(x >= 0, x, x * inputs[1])
        if op == "AddN":
            return sum(inputs[1:], x)
        if op == "Softmax":
            return x.softmax(-1)
        if op == "Mean":
            return x.mean(inputs[1].flatten().tolist(), keepdim=bool(_attribute(node, "keep_dims", False)))
        if op == "Max":
            return x.amax(inputs[1].flatten().tolist(), keepdim=bool(_attribute(node, "keep_dims", False)))
        if op in ("MaxPool", "AvgPool"):
            return _pool(node, x)
        if op in ("Pad", "PadV2"):
            pads = [int(n) for pair in reversed(inputs[1].tolist()) for n in pair]
            return F.pad(x, pads, value=float(inputs[2]) if len(inputs) > 2 else 0.0)
        if op == "Reshape":
            shape = [int(n) for n in inputs[1].flatten().tolist()]
            return x.reshape([len(x), *shape[1:]] if shape[0] == 1 else shape)
        if op == "ResizeBilinear":
            size, corners = inputs[1].flatten().tolist(), bool(_attribute(node, "align_corners", False))
            return F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=corners).permute(
                0, 2, 3, 1
            )
        raise NotImplementedError(f"{node['name']} is a {op}.")


def _attribute(node: dict[str, Any], key: str, default: Any = None) -> Any:
    attribute = node.get("attr", {}).get(key)
    if attribute is None:
        return default
    if "s" in attribute:
        return base64.b64decode(attribute["s"]).decode()
    if "list" in attribute:
        entries = attribute["list"]
        return [int(v) for v in entries.get("i", [])] or [base64.b64decode(v).decode() for v in entries.get("s", [])]
    return next((cast(attribute[k]) for k, cast in (("i", int), ("f", float), ("b", bool)) if k in attribute), default)


def _convolution(node: dict[str, Any], x: Tensor, kernel: Tensor, depthwise: bool = False) -> Tensor:
    stride, padding = _attribute(node, "strides")[1:3], _attribute(node, "padding")
    height, width, inputs, outputs = kernel.shape
    x = x.permute(0, 3, 1, 2)
    if padding == "SAME":
        x = same_padding(x, (height, width), stride)
    elif padding == "EXPLICIT":
        pads = _attribute(node, "explicit_paddings")
        x = F.pad(x, (pads[4], pads[5], pads[2], pads[3]))
    if depthwise:
        weight = kernel.permute(2, 3, 0, 1).reshape(inputs * outputs, 1, height, width)
        y = F.conv2d(x, weight, stride=stride, groups=inputs)
    else:
        y = F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)
    return y.permute(0, 2, 3, 1)


def _transposed(node: dict[str, Any], shape: Tensor, kernel: Tensor, x: Tensor) -> Tensor:
    """The gradient of a SAME convolution, cut to the wanted size."""
    stride = _attribute(node, "strides")[1:3]
    _, height, width, _ = shape.tolist()
    y = F.conv_transpose2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=stride)
    top, left = (y.shape[2] - height) // 2, (y.shape[3] - width) // 2
    return y[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1)


def _fused(node: dict[str, Any], y: Tensor, rest: list[Tensor]) -> Tensor:
    rest = list(rest)
    for op in _attribute(node, "fused_ops", []) or []:
        if op == "BiasAdd":
            y = y + rest.pop(0)
        elif op == "Prelu":
            y = torch.where(y >= 0, y, y * rest.pop(0))
        else:
            y = ACTIVATIONS[op](y)
    return y


def _pool(node: dict[str, Any], x: Tensor) -> Tensor:
    kernel, stride = _attribute(node, "ksize")[1:3], _attribute(node, "strides")[1:3]
    x, same = x.permute(0, 3, 1, 2), _attribute(node, "padding") == "SAME"
    if node["op"] == "MaxPool":
        x = same_padding(x, kernel, stride, -1e30) if same else x
        return F.max_pool2d(x, kernel, stride).permute(0, 2, 3, 1)
    if same:  # the mean of the pixels that there are
        there = F.avg_pool2d(same_padding(torch.ones_like(x), kernel, stride), kernel, stride)
        return (F.avg_pool2d(same_padding(x, kernel, stride), kernel, stride) / there).permute(0, 2, 3, 1)
    return F.avg_pool2d(x, kernel, stride).permute(0, 2, 3, 1)
