"""Age, gender and expression of a face crop: two small networks of the npm package ``@vladmandic/face-api`` (MIT)."""

from __future__ import annotations

import json
from pathlib import Path

import torch.nn.functional as F
from graph_model import read_weights, same_padding
from torch import Tensor


__all__ = ["EXPRESSIONS", "AgeGender", "Expression"]

EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
MEAN = (122.782, 117.001, 104.298)


class _Network:
    """Weights of a package folder, and the layers that both networks are made of. Maps are [N, C, H, W]."""

    def __init__(self, folder: Path, name: str) -> None:
        manifest = json.loads((folder / f"{name}-weights_manifest.json").read_text())
        self.weights = {}
        for key, tensor in read_weights(manifest, folder).items():
            if tensor.dim() == 4:
                depthwise = key.endswith("depthwise_filter")
                tensor = tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)
            self.weights[key] = tensor.contiguous()

    def normalised(self, x: Tensor) -> Tensor:
        """Crops [N, 3, H, W], 0..255 -> [N, 3, 112, 112] as the networks want them."""
        x = F.interpolate(x, (112, 112), mode="bilinear", antialias=True)
        return (x - x.new_tensor(MEAN)[:, None, None]) / 255

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}/filters"]
        x = same_padding(x, weight.shape[2:], (stride, stride))
        return F.conv2d(x, weight, self.weights[f"{name}/bias"], stride)

    def separable(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}/depthwise_filter"]
        x = F.conv2d(same_padding(x, weight.shape[2:], (stride, stride)), weight, stride=stride, groups=x.shape[1])
        return F.conv2d(x, self.weights[f"{name}/pointwise_filter"], self.weights[f"{name}/bias"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}/weights"] + self.weights[f"{name}/bias"]


class AgeGender(_Network):
    """TinyXception with two main blocks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "age_gender_model")

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [N, 3, H, W], 0..255 -> age in years [N], and the logit of feminine over masculine [N]."""
        x = F.relu(self.conv(self.normalised(x), "entry_flow/conv_in", 2))
        x = self._reduce(x, "entry_flow/reduction_block_0", first=True)
        x = self._reduce(x, "entry_flow/reduction_block_1")
        for block in range(2):
            y = x
            for place in range(3):
                y = self.separable(F.relu(y), f"middle_flow/main_block_{block}/separable_conv{place}")
            x = x + y
        x = self._reduce(x, "exit_flow/reduction_block")
        x = F.relu(self.separable(x, "exit_flow/separable_conv"))
        pooled = x.mean(dim=(2, 3))
        logits = self.linear(pooled, "fc/gender")
        return self.linear(pooled, "fc/age")[:, 0], logits[:, 1] - logits[:, 0]

    def _reduce(self, x: Tensor, name: str, first: bool = False) -> Tensor:
        y = self.separable(x if first else F.relu(x), f"{name}/separable_conv0")
        y = self.separable(F.relu(y), f"{name}/separable_conv1")
        y = F.max_pool2d(same_padding(y, (3, 3), (2, 2), -1e30), 3, 2)
        return y + self.conv(x, f"{name}/expansion_conv", 2)


class Expression(_Network):
    """Four dense blocks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "face_expression_model")

    def __call__(self, x: Tensor) -> Tensor:
        """Crops [N, 3, H, W], 0..255 -> logits [N, 7] of ``EXPRESSIONS``."""
        x = self.normalised(x)
        for block in range(4):
            name = f"dense{block}"
            first = self.conv(x, f"{name}/conv0", 2) if block == 0 else self.separable(x, f"{name}/conv0", 2)
            total = F.relu(first)
            for place in (1, 2, 3):
                total = total + self.separable(F.relu(total), f"{name}/conv{place}")
            x = F.relu(total)
        return self.linear(F.avg_pool2d(x, 7, 2).flatten(1), "fc")
