"""A small MobileStyleGAN as OpenVINO IR: the graph that the published exporter writes, with random weights."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt


Array = npt.NDArray[Any]
W_DIM = 8
CHANNELS = {4: 16, 8: 16, 16: 8}  # pictures of 32 px
NAMES = {np.dtype("<f4"): "f32", np.dtype("<i4"): "i32", np.dtype("<i8"): "i64"}
PRECISIONS = {"f32": "FP32", "i32": "I32", "i64": "I64"}


class Writer:
    """Layers are added in order; each answers its id and output port, with its shape kept for the ports' dims."""

    def __init__(self, name: str) -> None:
        self.name, self.weights = name, bytearray()
        self.layers: list[str] = []
        self.edges: list[str] = []
        self.shapes: dict[tuple[int, int], tuple[int, ...]] = {}
        self.kinds: dict[tuple[int, int], str] = {}

    def add(
        self,
        kind: str,
        inputs: Sequence[tuple[int, int]],
        shapes: Sequence[tuple[int, ...]],
        name: str = "",
        of: str = "f32",
        **data: object,
    ) -> tuple[int, int]:
        """A layer; answers its first output."""
        id_ = len(self.layers)
        ports = ""
        if inputs:
            ports += "<input>"
            for port, source in enumerate(inputs):
                ports += self._port(port, self.kinds[source], self.shapes[source])
                self.edges.append(
                    f'<edge from-layer="{source[0]}" from-port="{source[1]}" to-layer="{id_}" to-port="{port}"/>'
                )
            ports += "</input>"
        if shapes:
            ports += "<output>"
            for i, shape in enumerate(shapes):
                self.shapes[id_, len(inputs) + i], self.kinds[id_, len(inputs) + i] = shape, of
                ports += self._port(len(inputs) + i, of, shape)
            ports += "</output>"
        attributes = "".join(f" {key}={quoteattr(str(value))}" for key, value in data.items())
        text = f"<data{attributes}/>" if data else ""
        label = quoteattr(name or f"{kind}_{id_}")
        self.layers.append(f'<layer id="{id_}" name={label} type="{kind}" version="opset1">{text}{ports}</layer>')
        return id_, len(inputs)

    @staticmethod
    def _port(port: int, kind: str, shape: tuple[int, ...]) -> str:
        dims = "".join(f"<dim>{size}</dim>" for size in shape)
        return f'<port id="{port}" precision="{PRECISIONS[kind]}">{dims}</port>'

    def const(self, value: Array | float | Sequence[int], name: str = "") -> tuple[int, int]:
        array = np.asarray(value)
        array = array.astype("<i8" if array.dtype.kind == "i" else "<f4")
        offset = len(self.weights)
        self.weights += array.tobytes()
        shape = ", ".join(map(str, array.shape))
        of = NAMES[array.dtype]
        return self.add(
            "Const", [], [array.shape], name, of, element_type=of, shape=shape, offset=offset, size=array.nbytes
        )

    def binary(self, kind: str, a: tuple[int, int], b: tuple[int, int], name: str = "") -> tuple[int, int]:
        shape = np.broadcast_shapes(self.shapes[a], self.shapes[b])
        return self.add(kind, [a, b], [tuple(map(int, shape))], name, auto_broadcast="numpy")

    def affine(self, x: tuple[int, int], weight: Array, bias: Array) -> tuple[int, int]:
        matrix = self.const(weight)
        product = self.add("MatMul", [x, matrix], [(1, len(weight))], transpose_a="false", transpose_b="true")
        return self.binary("Add", product, self.const(bias[None]))

    def column(self, x: tuple[int, int]) -> tuple[int, int]:
        """[1, C] -> [1, C, 1, 1], through a Concat as the exporter writes it."""
        sizes = [self.const(np.array([value])) for value in (1, -1, 1, 1)]
        shape = self.add("Concat", sizes, [(4,)], of="i64", axis=0)
        return self.add("Reshape", [x, shape], [(1, self.shapes[x][1], 1, 1)], special_zero="true")

    def leaky_relu(self, x: tuple[int, int]) -> tuple[int, int]:
        return self.add("PReLU", [x, self.const(np.array([0.2], np.float32))], [self.shapes[x]])

    def haar(self, x: tuple[int, int]) -> tuple[int, int]:
        """[1, 4 C, H, W] -> [1, C, 2 H, 2 W]."""
        _, channels, height, width = self.shapes[x]
        c = channels // 4
        split = self.add(
            "VariadicSplit", [x, self.const(np.array(1)), self.const(np.array([c, 3 * c]))],
            [(1, c, height, width), (1, 3 * c, height, width)],
        )  # fmt: skip
        shape = self.const(np.array([1, c, 3, height, width]))
        high = self.add("Reshape", [(split[0], 4), shape], [(1, c, 3, height, width)], special_zero="true")
        bands = self.add(
            "VariadicSplit", [high, self.const(np.array(2)), self.const(np.array([1, 1, 1]))],
            [(1, c, 1, height, width)] * 3,
        )  # fmt: skip
        lh, hl, hh = (
            self.add("Squeeze", [(bands[0], 3 + i), self.const(np.array([2]))], [(1, c, height, width)])
            for i in range(3)
        )

        def spread(a: tuple[int, int], b: tuple[int, int], down: bool) -> tuple[int, int]:
            parts = []
            for source, taps in ((a, (1, 1)), (b, (1, -1))):
                kernel = np.tile(np.array(taps, np.float32) / np.sqrt(2), (c, 1, 1, 1, 1))
                kernel = kernel.reshape(c, 1, 1, 2, 1) if down else kernel.reshape(c, 1, 1, 1, 2)
                _, _, h, w = self.shapes[source]
                parts.append(
                    self.add(
                        "GroupConvolutionBackpropData", [source, self.const(kernel)],
                        [(1, c, 2 * h, w) if down else (1, c, h, 2 * w)],
                        strides="2, 1" if down else "1, 2", pads_begin="0, 0", pads_end="0, 0", dilations="1, 1",
                        auto_pad="explicit", output_padding="0, 0",
                    )
                )  # fmt: skip
            return self.binary("Add", *parts)

        return spread(spread((split[0], 3), lh, True), spread(hl, hh, True), False)

    def files(self) -> tuple[bytes, bytes]:
        """The XML and the weights."""
        layers, edges = "\n".join(self.layers), "\n".join(self.edges)
        text = f'<?xml version="1.0"?>\n<net name="{self.name}" version="10"><layers>{layers}</layers>'
        return f"{text}<edges>{edges}</edges></net>".encode(), bytes(self.weights)


def mapping(seed: int = 0) -> tuple[bytes, bytes]:
    """Two layers of the mapping network."""
    rng, net = np.random.default_rng(seed), Writer("MappingNetwork")
    x = net.add("Parameter", [], [(1, W_DIM)], "var", shape=f"1, {W_DIM}", element_type="f32")
    power = net.add("Power", [x, net.const(np.float32([[2]]))], [(1, W_DIM)], auto_broadcast="numpy")
    mean = net.add("ReduceMean", [power, net.const(np.array([1]))], [(1, 1)], keep_dims="true")
    size = net.binary("Add", mean, net.const(np.float32([[1e-8]])))
    x = net.binary("Multiply", x, net.binary("Power", size, net.const(np.float32([[-0.5]]))))
    for _ in range(2):
        x = net.affine(x, rng.normal(size=(W_DIM, W_DIM)) / W_DIM**0.5, rng.normal(size=W_DIM) * 0.1)
        x = net.binary("Multiply", net.leaky_relu(x), net.const(np.float32([[2**0.5]])))
    net.add("Result", [x], [])
    return net.files()


def synthesis(seed: int = 1) -> tuple[bytes, bytes]:
    """Two blocks: w [1, W_DIM] -> a picture [1, 3, 32, 32]."""
    rng, net = np.random.default_rng(seed), Writer("SynthesisNetwork")
    w = net.add("Parameter", [], [(1, W_DIM)], "style", shape=f"1, {W_DIM}", element_type="f32")

    def style(channels: int) -> tuple[int, int]:
        weight = rng.normal(size=(channels, W_DIM)) * 0.3 / W_DIM**0.5
        return net.column(net.affine(w, weight, np.ones(channels)))

    def scaled(channels: int, scale: float) -> tuple[int, int]:
        return net.binary("Multiply", style(channels), net.const(np.full((1, 1, 1, 1), scale, np.float32)))

    def convolution(x: tuple[int, int], outputs: int, taps: int, noisy: bool = True) -> tuple[int, int]:
        _, inputs, size, _ = net.shapes[x]
        x = net.binary("Multiply", scaled(inputs, 1 / (9 * inputs) ** 0.5), x)
        if taps == 1 and noisy:
            kernel = rng.normal(size=(inputs, 1, 1, 3, 3))
            pads = {
                "strides": "1, 1",
                "pads_begin": "1, 1",
                "pads_end": "1, 1",
                "dilations": "1, 1",
                "auto_pad": "explicit",
            }
            x = net.add("GroupConvolution", [x, net.const(kernel)], [(1, inputs, size, size)], **pads)
        pads = {"strides": "1, 1", "dilations": "1, 1", "pads_begin": f"{taps // 2}, {taps // 2}"}
        pads |= {"pads_end": pads["pads_begin"], "auto_pad": "explicit"}
        kernel = net.const(rng.normal(size=(outputs, inputs, taps, taps)))
        y = net.add("Convolution", [x, kernel], [(1, outputs, size, size)], **pads)
        if noisy:
            y = net.binary("Add", y, net.const(rng.normal(size=(1, 1, size, size)) * 0.1))
        y = net.binary("Add", y, net.const(rng.normal(size=(1, outputs, 1, 1)) * 0.1))
        return net.leaky_relu(y) if noisy else y

    x = net.const(rng.normal(size=(1, CHANNELS[4], 4, 4)), "input")
    x = convolution(x, CHANNELS[4], 3)
    for resolution in (8, 16):
        x = net.haar(net.binary("Multiply", style(net.shapes[x][1]), x))
        x = convolution(x, CHANNELS[resolution], 1)
        x = convolution(x, CHANNELS[resolution], 1)
    net.add("Result", [net.haar(convolution(x, 12, 1, noisy=False))], [])
    return net.files()


def wheel(networks: dict[str, tuple[bytes, bytes]] | None = None) -> bytes:
    """A wheel of random-face with small networks: the same bytes every time."""
    networks = networks or {"MappingNetwork": mapping(), "SynthesisNetwork": synthesis()}
    files = {}
    for name, (xml, weights) in networks.items():
        files |= {f"random_face/data/{name}.xml": xml, f"random_face/data/{name}.bin": weights}
    info = "random_face-2021.7.21.1.dist-info"
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: random-face\nVersion: 2021.7.21.1\n"
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = b"".join(f"{name},,\n".encode() for name in [*files, f"{info}/RECORD"])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()
