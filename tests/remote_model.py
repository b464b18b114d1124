"""A model on the test Hub, and the parts it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from tiny import tiny_generator, token_set

from refinestyle_hub.cards.facts import Card, Metric
from refinestyle_hub.config import DiscriminatorConfig, EncoderConfig, EncoderNetwork
from refinestyle_hub.editing.directions import Direction, Directions
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import RefineStyleHubError
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.pipeline import RefineStylePipeline


GENERATOR = tiny_generator()
DISCRIMINATOR = Discriminator(DiscriminatorConfig(32, GENERATOR.config.channels))
DOMAIN = replace(token_set(seed=1), base=GENERATOR.fingerprint(), metadata={"steps": 300})
DIRECTIONS = Directions({"smile": Direction(torch.ones(1, 16))}, GENERATOR.fingerprint())
SMALL: dict[str, Any] = {"widths": (4, 4, 4, 4), "width": 16, "depth": 1, "heads": 2, "rank": 2}
ENCODER = Encoder(EncoderConfig(GENERATOR.config.shape, EncoderNetwork(**SMALL), GENERATOR.fingerprint()))

CARD = Card(
    license="cc-by-4.0",
    base_model="me/faces",
    data="Ten pictures.",
    metrics=(Metric("LPIPS", 0.25, "portraits-128, test split", samples=500, seed=0, command="python quality.py"),),
)


def saved(save: Callable[[Path], Any], folder: Path) -> dict[str, bytes]:
    """What ``save`` writes into a folder, by relative name."""
    save(folder)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def host_pipeline(hub: HubServer, folder: Path) -> str:
    """Publish me/faces, with every part and one domain, but no card; returns its commit."""

    def save(folder: Path) -> None:
        parts = RefineStylePipeline(GENERATOR, DISCRIMINATOR, DIRECTIONS, {"sketch": DOMAIN}, ENCODER)
        parts.save_pretrained(folder)
        GENERATOR.save_pretrained(folder / "generator", variant="fp16")

    return hub.add("me/faces", saved(save, folder))


def assert_same(a: Any, b: Any) -> None:
    assert a.config == b.config
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def assert_helps(error: pytest.ExceptionInfo[RefineStyleHubError], *words: str) -> None:
    text = str(error.value)
    assert text.count("\n") <= 2, text
    for word in words:
        assert word in text, text
