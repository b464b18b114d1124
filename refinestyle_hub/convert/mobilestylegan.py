"""MobileStyleGAN's published FFHQ generator, two OpenVINO networks in a wheel -> our network.

The graph is followed along its edges, so nothing hangs on the names that an exporter gave. What our network does not
store apart is folded: a kernel's demodulation and style scale are its row norms, a noise map's strength its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ..config import MobileStyleGANConfig
from ..errors import ModelFileError, UnsupportedModelError
from ..generators.base import Generator
from ..generators.mobile import MobileStyleGANGenerator
from ..storage.index import CONFIG
from ..storage.model_folder import Folder
from ..storage.schema import config_to_json, dump_json
from ..storage.tensors import encode_tensors, read_header, read_tensors
from .openvino_ir import Layer, Network, read_network


__all__ = ["convert_files", "read_mobilestylegan"]

MEAN_LATENT = "mean_latent.safetensors"
MEAN_SAMPLES = 1 << 17  # of z, for the mean latent


class _Graph:
    """A network, read backwards and forwards from a layer."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.readers: dict[str, list[Layer]] = {}
        for layer in network.layers.values():
            for source in dict.fromkeys(layer.inputs):
                self.readers.setdefault(source, []).append(layer)

    def fail(self, layer: Layer, wanted: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.network.name}: {wanted} expected at {layer.kind} {layer.name!r}. This is not a MobileStyleGAN."
        )

    def feeds(self, layer: Layer, *kinds: str) -> list[Layer]:
        """The inputs of ``layer``, which are of these kinds in some order; answered in the order of ``kinds``."""
        found = {source.kind: source for source in self.network.inputs(layer)}
        if sorted(kinds) != sorted(source.kind for source in self.network.inputs(layer)):
            raise self.fail(layer, f"Inputs {', '.join(kinds)}")
        return [found[kind] for kind in kinds]

    def reader(self, layer: Layer, kind: str) -> Layer:
        """The only reader of ``layer`` of a kind."""
        readers = [reader for reader in self.readers.get(layer.id, []) if reader.kind == kind]
        if len(readers) != 1:
            raise self.fail(layer, f"One {kind}")
        return readers[0]

    def value(self, layer: Layer, ndim: int | None = None) -> Tensor:
        value = torch.from_numpy(np.array(self.network.constant(layer)))
        if not value.is_floating_point() or (ndim is not None and value.ndim != ndim):
            raise self.fail(layer, f"{ndim or 'Some'} dimensions of floats")
        return value

    def scalar(self, layer: Layer) -> float:
        value = self.value(layer)
        if value.numel() != 1:
            raise self.fail(layer, "One number")
        return float(value)

    def check(self, layer: Layer, wanted: float) -> None:
        if not math.isclose(self.scalar(layer), wanted, rel_tol=1e-5):
            raise self.fail(layer, f"{wanted:.6g}")

    def affine(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Weight [O, I] and bias [O] of x W^T + b, from its last Add (behind a Reshape or not)."""
        add = self.feeds(layer, "Add", "Concat")[0] if layer.kind == "Reshape" else layer
        product = next((source for source in self.network.inputs(add) if source.kind == "MatMul"), None)
        other = [source for source in self.network.inputs(add) if source is not product]
        if add.kind != "Add" or product is None or len(other) != 1:
            raise self.fail(layer, "An affine layer")
        if (product.attributes.get("transpose_a"), product.attributes.get("transpose_b")) != ("false", "true"):
            raise self.fail(product, "x W^T")
        bias = self.feeds(other[0], "Const", "Concat")[0] if other[0].kind == "Reshape" else other[0]
        weight, offset = self.value(self.network.inputs(product)[1], 2), self.value(bias).flatten()
        if offset.shape != weight.shape[:1]:
            raise self.fail(layer, f"{weight.shape[0]} biases")
        return weight, offset


def _mapping(graph: _Graph) -> dict[str, Tensor]:
    """``fc<i>.weight`` and ``.bias``, from the activations of the mapping network."""
    state: dict[str, Tensor] = {}
    for i, activation in enumerate(graph.network.of_kind("PReLU")):
        add, slope = graph.feeds(activation, "Add", "Const")
        graph.check(slope, 0.2)
        gain = graph.feeds(graph.reader(activation, "Multiply"), "PReLU", "Const")[1]
        graph.check(gain, math.sqrt(2))
        state[f"fc{i}.weight"], state[f"fc{i}.bias"] = graph.affine(add)
    return state


def _bands(channels: int) -> Tensor:
    """Where our wavelet bands, LL, HL, LH, HH of C channels each, are in theirs: LL [C], then [C, (LH, HL, HH)]."""
    c = channels // 4
    own = torch.arange(c)
    return torch.cat([own, c + 3 * own + 1, c + 3 * own, c + 3 * own + 2])


def _style(graph: _Graph, product: Layer) -> tuple[Tensor, Tensor, float]:
    """Affine and scale of the style that a Multiply brings to a map."""
    for source in graph.network.inputs(product):
        if source.kind == "Reshape":
            return *graph.affine(source), 1.0
        if source.kind == "Multiply" and {x.kind for x in graph.network.inputs(source)} == {"Reshape", "Const"}:
            affine, scale = graph.feeds(source, "Reshape", "Const")
            return *graph.affine(affine), graph.scalar(scale)
    raise graph.fail(product, "A style")


def _convolution(graph: _Graph, conv: Layer) -> tuple[dict[str, Tensor], Layer]:
    """Tensors of one modulated convolution, and the last layer of it."""
    state: dict[str, Tensor] = {}
    source, kernel = graph.network.inputs(conv)
    if source.kind == "GroupConvolution":
        source, taps = graph.network.inputs(source)
        state["depthwise"] = graph.value(taps, 5)[:, 0]
    weight, bias, scale = _style(graph, source)
    state["affine.weight"], state["affine.bias"] = weight, bias
    kernels = graph.value(kernel, 4) * scale
    norm = kernels.flatten(1).norm(dim=1)
    state["weight"], state["demod"] = kernels / norm[:, None, None, None], norm
    last = graph.reader(conv, "Add")
    offset = graph.value(graph.feeds(last, "Convolution", "Const")[1], 4)
    if offset.shape[1] == 1 and offset.shape[2] > 1:  # noise, then the bias and the activation
        noise = offset[0, 0]
        state["noise_strength"] = noise.square().mean().sqrt()
        state["noise_const"] = noise / state["noise_strength"].clamp_min(1e-12)
        last = graph.reader(last, "Add")
        offset = graph.value(graph.feeds(last, "Add", "Const")[1], 4)
        last = graph.reader(last, "PReLU")
        graph.check(graph.feeds(last, "Add", "Const")[1], 0.2)
    state["bias"] = offset.flatten()
    return state, last


def _check_wavelet(graph: _Graph) -> None:
    """All transposed convolutions are Haar's."""
    for layer in graph.network.of_kind("GroupConvolutionBackpropData"):
        taps = graph.value(graph.network.inputs(layer)[1], 5).flatten(1) * math.sqrt(2)
        low, high = torch.ones(2), torch.tensor([1.0, -1.0])
        if taps.shape[1] != 2 or not any(torch.allclose(taps, x.expand_as(taps), atol=1e-5) for x in (low, high)):
            raise graph.fail(layer, "A Haar wavelet")


def _names(count: int) -> Iterator[tuple[int, str]]:
    """Resolution and name of each convolution, coarse to fine."""
    yield 4, "conv1"
    resolution = 4
    for i in range(count - 2):
        resolution *= 1 if i % 2 else 2
        yield resolution, f"conv{i % 2}"
    yield resolution, "torgb"


def _synthesis(graph: _Graph) -> tuple[dict[str, Tensor], dict[int, int]]:
    """Tensors by name, and widths by resolution."""
    _check_wavelet(graph)
    convs = graph.network.of_kind("Convolution")
    if len(convs) < 4 or len(convs) % 2:
        raise UnsupportedModelError(f"{graph.network.name}, of {len(convs)} convolutions, is not a MobileStyleGAN.")
    state: dict[str, Tensor] = {}
    channels: dict[int, int] = {}
    for conv, (resolution, name) in zip(convs, _names(len(convs)), strict=True):
        found, last = _convolution(graph, conv)
        ups = [x for x in graph.readers[last.id] if x.kind == "Multiply"]
        if name == "conv1":
            channels[resolution] = found["bias"].shape[0]
        if name == "torgb":
            order = _bands(found["bias"].shape[0])
        elif name == "conv1" and conv is not convs[-2]:  # feeds the wavelet of the next block
            weight, bias, scale = _style(graph, ups[0])
            order = _bands(bias.shape[0])
            state |= {f"b{2 * resolution}.up.weight": weight[order] * scale, f"b{2 * resolution}.up.bias": bias[order]}
        else:
            order = torch.arange(found["bias"].shape[0])
        found |= {key: found[key][order] for key in ("weight", "demod", "bias")}
        state |= {f"b{resolution}.{name}.{key}": tensor for key, tensor in found.items()}
        if name == "conv1" and resolution == 4:
            start = graph.network.of_kind("Parameter")
            const = [x for x in graph.network.of_kind("Const") if x.attributes.get("shape", "").endswith(", 4, 4")]
            wide = [x for x in const if graph.value(x).shape[1:] == (found["weight"].shape[1], 4, 4)]
            if len(start) != 1 or len(wide) != 1:
                raise graph.fail(conv, "One constant map of 4 px")
            state["b4.const"] = graph.value(wide[0], 4)[0]
    return state, channels


def read_mobilestylegan(mapping: Network, synthesis: Network, mean_latent: Tensor | None = None) -> Generator:
    """Our generator from the two published networks.

    Args:
        mean_latent: Mean of w, [D], which the files do not have; None: over 131,072 samples of a fixed seed.

    Raises:
        UnsupportedModelError: The graphs are of another network.
        ModelFileError: A tensor does not fit.
    """
    state, channels = _synthesis(_Graph(synthesis))
    mapped = _mapping(_Graph(mapping))
    if not mapped:
        raise UnsupportedModelError(f"{mapping.name} has no layers. This is not a mapping network.")
    z_dim, w_dim = mapped["fc0.weight"].shape[1], mapped["fc0.weight"].shape[0]
    config = MobileStyleGANConfig(2 * max(channels), z_dim, w_dim, len(mapped) // 2, channels)
    found = {f"synthesis.{key}": tensor for key, tensor in state.items()}
    for key, tensor in mapped.items():  # ours are stored over their learning rate
        found[f"mapping.{key}"] = tensor / 0.01 * (tensor.shape[1] ** 0.5 if tensor.ndim == 2 else 1)
    for key in found:
        if key.endswith(("affine.weight", "up.weight")):
            found[key] = found[key] * w_dim**0.5
    found["mapping.w_avg"] = torch.zeros(w_dim) if mean_latent is None else mean_latent
    for key, tensor in MobileStyleGANGenerator.template(config).items():
        if key not in found or found[key].shape != tensor.shape:
            shape = list(found[key].shape) if key in found else "missing"
            raise ModelFileError(f"{synthesis.name}: {key} should be {list(tensor.shape)} and is {shape}.")
    net = MobileStyleGANGenerator.from_state(config, {key: tensor.contiguous() for key, tensor in found.items()})
    net.requires_grad_(False)
    if mean_latent is None:
        rng, total = torch.Generator().manual_seed(0), torch.zeros(w_dim, dtype=torch.float64)
        for _ in range(MEAN_SAMPLES >> 12):
            total += net.sample(1 << 12, rng)[:, 0].double().sum(dim=0)
        net.mean_latent.copy_(total / MEAN_SAMPLES)
    return net


def convert_files(files: Mapping[str, bytes], recipe: Folder) -> dict[str, bytes]:
    """The files of our generator's folder, from those of the ``random-face`` package by their path in it.

    The mean latent comes from ``mean_latent.safetensors`` beside the recipe, so that it is the same everywhere.

    Raises:
        ModelFileError, UnsupportedModelError: See ``read_mobilestylegan``.
    """
    networks: list[Network] = []
    for name in ("MappingNetwork", "SynthesisNetwork"):
        place = f"random_face/data/{name}"
        networks.append(read_network(files[f"{place}.xml"], files[f"{place}.bin"], name))
    path, mean = recipe.find(MEAN_LATENT), None
    if path is not None:
        width = read_header(path).tensors["w_avg"][1]
        mean = read_tensors(path, {"w_avg": torch.empty(width)})["w_avg"]
    net = read_mobilestylegan(networks[0], networks[1], mean)
    config = config_to_json(type(net).__name__, net.config)
    return {"model.safetensors": encode_tensors(net.state_dict(), config, torch.float32), CONFIG: dump_json(config)}
