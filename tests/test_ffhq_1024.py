"""The published weights of ffhq-1024: what they draw, and that their latent space is StyleGAN2's."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.editing.directions import Directions
from refinestyle_hub.errors import FetchError, ModelNotFoundError
from refinestyle_hub.generators import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.hub.fetched import FetchedModel
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.inversion.inversion_settings import InversionSettings
from refinestyle_hub.pipeline import RefineStylePipeline


REFERENCES = Path(__file__).parent / "references"


@pytest.fixture(scope="module")
def published() -> Generator:
    try:
        return Generator.from_pretrained("ffhq-1024").requires_grad_(False)
    except (FetchError, ModelNotFoundError) as error:
        pytest.skip(f"the weights of ffhq-1024 cannot be had here: {error}")


@pytest.mark.slow
def test_published_weights_draw_what_openvino_draws(published: Generator) -> None:
    """``ffhq-1024.npz`` comes from ``benchmarks/mobile_parity.py``: seeds 0 to 2 by OpenVINO in fp32."""
    known = {name: torch.from_numpy(x) for name, x in np.load(REFERENCES / "ffhq-1024.npz").items()}
    source = open_source("ffhq-1024")
    assert isinstance(source, FetchedModel)
    assert published.fingerprint().digest == source.recipe.digest
    for seed in range(3):
        w_plus = published.map(torch.randn(1, 512, generator=torch.Generator().manual_seed(seed)))
        picture = published(w_plus)[0]
        assert picture.shape == (3, 1024, 1024)
        assert float((F.avg_pool2d(picture, 32) - known["mean"][seed]).abs().max()) < 2e-4
        assert float((picture[:, 460:492, 380:412] - known["square"][seed]).abs().max()) < 2e-4


def test_a_stylegan2_with_its_mapping_takes_its_codes_directions_and_encoder(published: Generator) -> None:
    """As if converted from NVIDIA's file, whose weights were rounded elsewhere; the synthesis is random and small."""
    channels = dict.fromkeys([4, 8, 16, 32, 64, 128, 256, 512, 1024], 4)
    other = StyleGAN2Generator(StyleGAN2Config(1024, 512, 512, 8, channels)).requires_grad_(False)
    for name, tensor in published.mapping.state_dict().items():
        other.mapping.state_dict()[name].copy_((tensor * 0.01).half().float() / 0.01)
    parts = RefineStylePipeline.from_pretrained("ffhq-1024")
    with pytest.warns(UserWarning, match="same mapping network"):
        pipe = RefineStylePipeline(other, directions=parts.directions, encoder=parts.encoder)
    (found,) = pipe.invert_crops(torch.zeros(1, 3, 1024, 1024), steps=0)
    assert found.w_plus.shape == (18, 512)
    name = next(iter(parts.directions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        face = Inversion(parts.generator.mean_latent.expand(16, 512), base=parts.fingerprint)
        edited, plain = (pipe.render(face, edits=edits, output_type="pt") for edits in ({name: 2.0}, {}))
    assert float((edited - plain).abs().max()) > 0
    with pytest.warns(UserWarning, match="same mapping network"):
        back = RefineStylePipeline(parts.generator, directions=Directions(pipe.directions, other.fingerprint()))
    assert set(back.directions) == set(parts.directions)


def test_its_settings_of_inversions_ship(published: Generator) -> None:
    """A tool that writes the index anew must not lose them: with the defaults, photos come out as smears."""
    assert RefineStylePipeline.from_pretrained("ffhq-1024").inversion != InversionSettings()
