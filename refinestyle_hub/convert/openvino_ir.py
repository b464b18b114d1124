"""Constants of an OpenVINO IR network: XML that describes a graph, and one file of raw numbers.

Nothing is executed and no graph is built: layers, edges and shapes are read as data, and every constant is checked
against the size of the file before it becomes an array. Document types and entities are refused, so an XML file cannot
grow while it is parsed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError


__all__ = ["Layer", "Network", "read_network"]

MAX_XML = 8 << 20  # bytes; the synthesis of a 1024 px generator takes 0.4 MB
MAX_LAYERS = 20_000
TYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "i32": np.dtype("<i4"), "i64": np.dtype("<i8")}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A node of the graph."""

    id: str
    kind: str  # such as "Const" or "Convolution"
    name: str
    attributes: Mapping[str, str]
    inputs: tuple[str, ...]  # ids of the layers that feed its ports, in the order of the ports


class Network:
    """Layers in graph order, and their constants.

    Args:
        layers: Nodes by id, in the order of the file.
        weights: The raw file that constants point into.
        name: What errors call it.
    """

    def __init__(self, layers: Mapping[str, Layer], weights: bytes, name: str) -> None:
        self.layers = layers
        self.name = name
        self._weights = weights

    def of_kind(self, kind: str) -> list[Layer]:
        """All layers of one kind, in graph order."""
        return [layer for layer in self.layers.values() if layer.kind == kind]

    def inputs(self, layer: Layer) -> list[Layer]:
        """The layers that feed ``layer``."""
        return [self.layers[source] for source in layer.inputs]

    def constant(self, layer: Layer) -> Array:
        """Value of a constant, with the shape that the file gives it.

        Raises:
            ModelFileError: It is not a constant, of another type than f32, i32 and i64, or out of the file's bounds;
                its shape and its size differ; or a float is not finite.
        """
        at = f"{self.name}: constant {layer.name!r}"
        if layer.kind != "Const":
            raise ModelFileError(f"{self.name}: {layer.name!r} is a {layer.kind}, not a constant.")
        dtype = TYPES.get(layer.attributes.get("element_type", ""))
        if dtype is None:
            raise ModelFileError(f"{at} is of type {layer.attributes.get('element_type')!r}, not f32, i32 or i64.")
        shape = _integers(layer.attributes.get("shape", ""), at)
        offset, size = (_integers(layer.attributes.get(key, ""), at) for key in ("offset", "size"))
        if len(offset) != 1 or len(size) != 1 or size[0] != math.prod(shape) * dtype.itemsize:
            raise ModelFileError(f"{at} of shape {list(shape)} does not take {list(size)} bytes.")
        if offset[0] + size[0] > len(self._weights):
            raise ModelFileError(f"{at} ends past the {len(self._weights)} bytes of the weights.")
        value: Array = np.frombuffer(self._weights, dtype, math.prod(shape), offset[0]).reshape(shape)
        if dtype.kind == "f" and not np.isfinite(value).all():
            raise ModelFileError(f"{at} holds numbers that are not finite.")
        return value


def _integers(text: str, at: str) -> tuple[int, ...]:
    """Non-negative integers from ``"1, 64, 3"``; an empty text is a scalar's shape."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > 8 or not all(part.isascii() and part.isdigit() and len(part) < 13 for part in parts):
        raise ModelFileError(f"{at}: {text[:60]!r} is not a list of sizes.")
    return tuple(int(part) for part in parts)


def _parse(xml: bytes, name: str) -> ElementTree.Element:
    """The XML tree, without document types."""

    def refuse(*_: object) -> None:
        raise ModelFileError(f"{name} declares a document type, which no network needs.")

    if len(xml) > MAX_XML:
        raise ModelFileError(f"{name} has {len(xml)} bytes, over {MAX_XML}.")
    guard = expat.ParserCreate()  # a first pass that only looks for declarations
    guard.StartDoctypeDeclHandler = refuse
    guard.EntityDeclHandler = refuse
    try:
        guard.Parse(xml, True)
        return ElementTree.fromstring(xml)
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{name} is not well-formed XML: {error}.") from error


def read_network(xml: bytes, weights: bytes, name: str = "network") -> Network:
    """Read an IR network of version 10 or 11.

    Args:
        xml: The graph, as the bytes of the ``.xml`` file.
        weights: The raw numbers, as the bytes of the ``.bin`` file.
        name: What errors call it.

    Raises:
        ModelFileError: The XML is broken, too large or declares entities; or it is not such a graph.
    """
    root = _parse(xml, name)
    nodes, edges = root.find("layers"), root.find("edges")
    if root.tag != "net" or root.get("version") not in ("10", "11") or nodes is None or edges is None:
        raise ModelFileError(f"{name} is not an OpenVINO network of version 10 or 11.")
    if len(nodes) > MAX_LAYERS or len(edges) > 8 * MAX_LAYERS:
        raise ModelFileError(f"{name} has {len(nodes)} layers and {len(edges)} edges, over what is read.")
    feeds: dict[str, dict[int, str]] = {}
    for edge in edges:
        source, target, port = edge.get("from-layer"), edge.get("to-layer"), edge.get("to-port", "")
        if source is None or target is None or not (port.isascii() and port.isdigit()):
            raise ModelFileError(f"{name} has an edge without ends.")
        feeds.setdefault(target, {})[int(port)] = source
    layers: dict[str, Layer] = {}
    for node in nodes:
        id_, kind, data = node.get("id"), node.get("type"), node.find("data")
        if id_ is None or kind is None or id_ in layers:
            raise ModelFileError(f"{name} has a layer without an id or a type, or two of one id.")
        ports = feeds.pop(id_, {})
        attributes = {} if data is None else dict(data.attrib)
        layers[id_] = Layer(id_, kind, node.get("name", id_), attributes, tuple(ports[p] for p in sorted(ports)))
    unknown = [source for layer in layers.values() for source in layer.inputs if source not in layers]
    if feeds or unknown:
        raise ModelFileError(f"{name} has an edge to a layer that is not there: {[*feeds, *unknown][0]!r}.")
    return Network(layers, weights, name)
