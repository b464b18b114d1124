"""MobileStyleGAN's OpenVINO files: they convert to pictures that OpenVINO draws, and hostile ones are refused."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import openvino_writer as openvino
import pytest
import torch
from torch import Tensor

from refinestyle_hub.convert.mobilestylegan import convert_files, read_mobilestylegan
from refinestyle_hub.convert.openvino_ir import Network, read_network
from refinestyle_hub.errors import ModelFileError, RefineStyleHubError, UnsupportedModelError
from refinestyle_hub.generators import Generator
from refinestyle_hub.storage.model_folder import Folder


REFERENCES = Path(__file__).parent / "references"


def networks(seed: int = 0) -> list[Network]:
    return [read_network(*openvino.mapping(seed)), read_network(*openvino.synthesis(seed + 1))]


def tiny() -> Generator:
    return read_mobilestylegan(*networks())


# --- The same numbers as OpenVINO ---


def test_pictures_are_those_of_openvino() -> None:
    """``tiny-openvino.npz``: what OpenVINO 2026.4 draws from ``openvino_writer``'s files, in fp32."""
    known = {name: torch.from_numpy(x) for name, x in np.load(REFERENCES / "tiny-openvino.npz").items()}
    generator = tiny()
    w_plus = generator.map(known["z"])
    assert float((w_plus[:, 0] - known["w"]).abs().max()) < 2e-6
    assert float((generator(w_plus) - known["picture"]).abs().max()) < 2e-6
    assert float(known["picture"].std()) > 0.05


def test_the_mean_latent_is_the_mean() -> None:
    generator = tiny()
    w = generator.sample(1 << 14, torch.Generator().manual_seed(1))[:, 0]
    assert float((generator.mean_latent - w.mean(dim=0)).abs().max()) < 0.03
    assert torch.equal(generator.mean_latent, tiny().mean_latent)


def test_rows_have_norm_one_and_noise_has_size_one() -> None:
    generator = tiny()
    for name in generator.layers:
        norms = generator.layer(name).weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    for conv in generator.convs():
        torch.testing.assert_close(conv.noise_const.square().mean(), torch.tensor(1.0))


def files() -> dict[str, bytes]:
    found = {}
    for name, content in {"MappingNetwork": openvino.mapping(), "SynthesisNetwork": openvino.synthesis()}.items():
        found |= {f"random_face/data/{name}.{kind}": part for kind, part in zip(("xml", "bin"), content, strict=True)}
    return found


def test_the_files_load_as_a_generator(tmp_path: Path) -> None:
    made = convert_files(files(), Folder(tmp_path))
    assert made == convert_files(files(), Folder(tmp_path))
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    loaded, direct = Generator.from_pretrained(tmp_path), tiny()
    assert type(loaded) is type(direct)
    w_plus = direct.sample(2, torch.Generator().manual_seed(0))
    assert torch.equal(loaded(w_plus), direct(w_plus))


# --- What is refused ---


def refuse(xml: bytes, weights: bytes | None = None, error: type[Exception] = ModelFileError) -> None:
    with pytest.raises(error) as caught:
        read_mobilestylegan(networks()[0], read_network(xml, openvino.synthesis()[1] if weights is None else weights))
    assert len(str(caught.value).splitlines()) <= 3


def test_entities_are_refused_before_they_expand() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaaaaaaaa">'
    bomb += b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    with pytest.raises(ModelFileError, match="document type"):
        read_network(bomb + b"]><net>&j;</net>", b"")
    with pytest.raises(ModelFileError, match="document type"):
        read_network(b'<!DOCTYPE net SYSTEM "file:///etc/passwd"><net version="10"/>', b"")


@pytest.mark.parametrize("xml", [b"", b"<net", b"<net/>", b"\x00" * 100, b'<net version="7"><layers/><edges/></net>'])
def test_what_is_no_network_is_refused(xml: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_network(xml, b"")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb'offset="0"', b'offset="99999999"'),
        (rb'offset="0"', b'offset="-4"'),
        (rb'shape="16, 8"', b'shape="16, 9"'),
        (rb'shape="16, 8"', b'shape="999999999999, 999999999999"'),
        (rb'element_type="f32" shape="16, 8"', b'element_type="f64" shape="16, 8"'),
        (rb'to-layer="3"', b'to-layer="99999"'),
        (rb'<layer id="5"', b'<layer id="4"'),
    ],
)
def test_what_points_out_of_the_file_is_refused(pattern: bytes, replacement: bytes) -> None:
    xml, weights = openvino.synthesis()
    changed = re.sub(pattern, replacement, xml, count=1)
    assert changed != xml
    refuse(changed, weights)


def test_numbers_that_are_not_finite_are_refused() -> None:
    xml, weights = openvino.synthesis()
    refuse(xml, b"\x00\x00\xc0\x7f" * (len(weights) // 4))


def test_a_short_weights_file_is_refused() -> None:
    xml, weights = openvino.synthesis()
    refuse(xml, weights[:-4])


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb'type="PReLU"', b'type="Relu"'),
        (rb'type="GroupConvolution"', b'type="Convolution"'),
        (rb'type="Multiply"', b'type="Divide"'),
        (rb'transpose_b="true"', b'transpose_b="false"'),
        (rb'type="Convolution"', b'type="Pooling"'),
    ],
)
def test_another_graph_is_refused(pattern: bytes, replacement: bytes) -> None:
    xml, weights = openvino.synthesis()
    refuse(xml.replace(pattern, replacement, 1), weights, UnsupportedModelError)


def test_networks_that_changed_places_are_refused() -> None:
    mapping, synthesis = networks()
    with pytest.raises(RefineStyleHubError):
        read_mobilestylegan(synthesis, mapping)


def test_random_damage_ends_in_a_typed_error_or_a_generator() -> None:
    rng = random.Random(0)
    xml, weights = openvino.synthesis()
    refused = 0
    for _ in range(100):
        text = bytearray(xml)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
        try:
            generator = read_mobilestylegan(networks()[0], read_network(bytes(text), weights), torch.zeros(8))
        except RefineStyleHubError:
            refused += 1
        else:
            picture: Tensor = generator(generator.sample(1))
            assert picture.isfinite().all()
    assert refused > 15
