"""Training of the generator: on tiny pictures, but the real loop from files to files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_parts import Stop, in_two_processes, stop_at

from refinestyle_hub.errors import ConfigError, ModelFileError, PictureError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.train import checkpoint
from refinestyle_hub.train.generator_settings import GeneratorTraining
from refinestyle_hub.train.generator_trainer import GeneratorTrainer, train_generator


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve 16 px pictures of two colours each."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, (red, blue) in enumerate(rng.random((12, 2))):
        array = np.full((16, 16, 3), 60, dtype=np.uint8)
        array[:8, :, 0], array[8:, :, 2] = int(red * 255), int(blue * 255)
        Image.fromarray(array).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def tiny(pictures: Path, tmp_path: Path) -> GeneratorTraining:
    return GeneratorTraining(
        data=str(pictures),
        out=str(tmp_path / "run"),
        resolution=16,
        channels={4: 8, 8: 8, 16: 8},
        z_dim=8,
        mapping_layers=2,
        pictures=48,
        batch=4,
        cooldown=8,
        warmup=8,
        r1_every=2,
        grid_every=24,
        save_every=16,
    )


def weights(run: str) -> dict[str, torch.Tensor]:
    return checkpoint.read(Path(run) / "state.safetensors")[0]


def test_a_run_leaves_models_grids_and_a_log(tiny: GeneratorTraining) -> None:
    train_generator(tiny)
    out = Path(tiny.out)
    drawn = Generator.from_pretrained(out / "generator")
    assert torch.isfinite(drawn(drawn.map(torch.randn(2, 8)))).all()
    Discriminator.from_pretrained(out / "discriminator")
    with Image.open(next((out / "grids").iterdir())) as sheet:
        assert sheet.size == (8 * 16 + 7 * 2, 8 * 16 + 7 * 2)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tiny: GeneratorTraining, tmp_path: Path) -> None:
    whole = replace(tiny, out=str(tmp_path / "whole"), path_weight=2.0, path_every=3)
    train_generator(whole)
    broken = replace(whole, out=str(tmp_path / "broken"))
    with pytest.raises(Stop):
        train_generator(broken, stop_at(20))  # between two regular savings
    train_generator(broken)
    ours, theirs = weights(broken.out), weights(whole.out)
    assert ours.keys() == theirs.keys()
    for name in ours:  # the same operations in the same order: not a bit may differ
        assert torch.equal(ours[name], theirs[name]), name


def test_a_larger_run_starts_from_a_smaller_one(tiny: GeneratorTraining, tmp_path: Path) -> None:
    train_generator(tiny)
    small = Generator.from_pretrained(Path(tiny.out) / "generator")
    discriminator = Discriminator.from_pretrained(Path(tiny.out) / "discriminator")
    larger = replace(tiny, resolution=32, channels={4: 8, 8: 8, 16: 8, 32: 4}, out=str(tmp_path / "larger"))
    trainer = GeneratorTrainer(larger, _pictures(larger))
    trainer.start_from(small, discriminator)
    assert torch.equal(trainer.discriminator.b4.out.weight, discriminator.b4.out.weight)
    w = small.map(torch.randn(3, 8))
    wide = torch.cat([w, w[:, -2:]], dim=1)
    for own in (trainer.average, trainer.generator):
        drawn = own(wide, noise=[None] * 7)
        # the new layer's toRGB is zero but for its bias: the picture is the small one, enlarged by the skip
        mean = torch.nn.functional.avg_pool2d(drawn, 2)
        inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
        small_picture = small(w, noise=[None] * 5)
        assert (mean - small_picture)[inner].abs().mean() < 0.5 * small_picture[inner].std()
    with pytest.raises(ModelFileError, match="another network"):
        trainer.load(Path(tiny.out) / "state.safetensors")


def test_a_run_starts_from_a_model_and_then_goes_its_own_way(tiny: GeneratorTraining, tmp_path: Path) -> None:
    train_generator(tiny)
    tuned = replace(tiny, out=str(tmp_path / "tuned"), start_from=tiny.out, learning_rate=1e-9, pictures=8)
    trainer = train_generator(tuned)
    wanted = Generator.from_pretrained(Path(tiny.out) / "generator").state_dict()
    for name, tensor in trainer.average.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], atol=0.05 if name == "mapping.w_avg" else 1e-6, rtol=0)
    continued = train_generator(replace(tuned, learning_rate=1e-2, pictures=16))  # from its own state
    assert not torch.equal(continued.generator.mapping.fc0.weight, wanted["mapping.fc0.weight"])


def _pictures(config: GeneratorTraining):  # noqa: ANN202
    from refinestyle_hub.train.dataset import open_pictures

    return open_pictures(config.data, config.resolution)


def test_a_small_set_is_shifted(tiny: GeneratorTraining) -> None:
    """Only what the discriminator sees moves; the run stays reproducible."""
    shifted = replace(tiny, translate=0.125, pictures=16)
    train_generator(shifted)
    still = replace(tiny, out=tiny.out + "-still", pictures=16)
    train_generator(still)
    name = "discriminator.b16.conv0.weight"
    assert not torch.equal(weights(shifted.out)[name], weights(still.out)[name])
    x = torch.rand(2, 3, 16, 16)
    trainer = GeneratorTrainer(shifted, _pictures(shifted))
    assert torch.equal(trainer.shifted(x, 1), trainer.shifted(x, 1))
    assert GeneratorTrainer(still, _pictures(still)).shifted(x, 1) is x


def test_bad_input_is_named(tiny: GeneratorTraining, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        replace(tiny, batch=0)
    with pytest.raises(ConfigError, match="seed"):
        replace(tiny, seed=-1)
    with pytest.raises(ConfigError, match="learning_rate"):
        replace(tiny, learning_rate=0.0)
    with pytest.raises(ConfigError, match="precision must be"):
        replace(tiny, precision="fp8")
    with pytest.raises(PictureError, match="no folder"):
        train_generator(replace(tiny, data=str(tmp_path / "nowhere")))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "state.safetensors").write_bytes(b"not a state")
    with pytest.raises(ModelFileError, match="not the state"):
        train_generator(replace(tiny, out=str(damaged)))


@pytest.mark.slow
def test_two_processes_share_a_batch(tiny: GeneratorTraining, tmp_path: Path) -> None:
    config = replace(tiny, pictures=16, mixing=0.0)
    lines = [
        "import json, sys",
        "from refinestyle_hub.train.generator_trainer import *",
        "config = json.loads(sys.argv[1])",
        "config['channels'] = {int(k): v for k, v in config['channels'].items()}",
        "train_generator(GeneratorTraining(**config))",
    ]
    in_two_processes(tmp_path / "train.py", lines, json.dumps(asdict(config)))
    state = checkpoint.read(Path(config.out) / "state.safetensors")
    assert state[1]["seen"] == 16
    assert all(torch.isfinite(t).all() for t in state[0].values())
    # each process drew other latents, so the mean gradient is not that of one process
    alone = replace(config, out=str(tmp_path / "alone"))
    train_generator(alone)
    assert not torch.equal(
        weights(alone.out)["generator.mapping.fc0.weight"], state[0]["generator.mapping.fc0.weight"]
    )
