"""Training of the encoder: on tiny pictures and a tiny generator, but the real loop from files to files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from encoder_runs import trainer_of, varied
from PIL import Image
from tiny import MILD, faces, mild_generator
from torch import Tensor

from refinestyle_hub.cli import main
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError, ModelFileError, ModelNotFoundError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.train.dataset import open_held_out, open_pictures
from refinestyle_hub.train.encoder_objective import Objective
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.encoder_trainer import EncoderTrainer, train_encoder
from refinestyle_hub.train.tasks import pair_rngs


# --- The run --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_an_encoder_sheets_and_a_log(tiny: EncoderTraining, model: Path) -> None:
    calls: list[tuple[int, int]] = []
    train_encoder(tiny, lambda seen, total, figures: calls.append((seen, total)))
    assert calls == [(8 * n, 64) for n in range(1, 9)]
    out = Path(tiny.out)
    encoder = Encoder.from_pretrained(out / "encoder")
    generator = Generator.from_pretrained(model)
    w_plus, tokens = encoder(torch.zeros(2, 3, 16, 16), generator)
    assert torch.isfinite(generator(w_plus, tokens)).all()
    with Image.open(out / "grids" / "00000064.png") as sheet:
        assert sheet.size == (4 * 18 - 2, 6 * 18 - 2)  # all four pictures of the split "val", six rows
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["seen"]) for line in lines] == [("codes", 32), ("tokens", 64)]
    # w+ stays as the first stage left it, and what is said of it
    assert lines[0]["val_w_plus_l2"] == lines[0]["val_tokens_l2"] == lines[1]["val_w_plus_l2"]
    assert lines[1]["val_tokens_l2"] != lines[1]["val_w_plus_l2"]
    assert "ood_tokens_l2" in lines[1]


def test_it_is_never_validated_on_the_test_split(tiny: EncoderTraining, tmp_path: Path) -> None:
    own = open_held_out(tiny.data, "", 32)
    named = open_held_out("elsewhere", tiny.data, 32)
    assert own is not None
    assert named is not None
    assert list(own.names) == list(named.names) == [f"{i:03d}.png" for i in range(12, 16)]
    rows = [{"id": i, "split": "train" if i < 12 else "test"} for i in range(20)]
    others = tmp_path / "others"
    others.mkdir()
    for kind in (rows, rows[12:]):
        for row in kind:
            Image.new("RGB", (32, 32)).save(others / f"{row['id']:03d}.png")
        (others / "labels.jsonl").write_text("\n".join(map(json.dumps, kind)))
        assert open_held_out(str(others), "", 32) is None
        with pytest.raises(ConfigError, match='none that is called "val"'):
            open_held_out(tiny.data, str(others), 32)
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "plain" / "1.png")
    assert open_held_out(str(tmp_path / "plain"), "", 32) is None  # of no splits, and all of it is learnt from
    plain = open_held_out(tiny.data, str(tmp_path / "plain"), 32)
    assert plain is not None
    assert len(plain) == 1


def test_the_stages_learn(tiny: EncoderTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same pictures again and again, the first stage finds their w+ and the second what w+ cannot say."""
    config = varied(tiny, w_pictures=160, pictures=240, learning_rate=1e-2, ood_fraction=1.0, clip=10.0, norm=0.0)
    trainer, portraits = trainer_of(config), faces(4)
    domain = trainer.tasks.in_domain(portraits, pair_rngs(1, range(4)))
    foreign = trainer.tasks.out_of_domain(portraits, pair_rngs(1, range(4)))
    monkeypatch.setattr(trainer, "task", lambda *_: domain if trainer.stage == "codes" else foreign)
    seen: list[dict[str, float]] = []
    trainer.run(lambda count, total, figures: seen.append(figures))
    assert seen[19]["l2"] < 0.8 * seen[0]["l2"]
    assert seen[19]["latent"] < 0.8 * seen[0]["latent"]
    assert seen[49]["l2"] < 0.8 * seen[20]["l2"]  # where the second stage drew what the first draws


def test_every_iteration_is_learnt_and_every_second_step_takes_a_crop(tiny: EncoderTraining) -> None:
    trainer = trainer_of(varied(tiny, num_iters=3, crop_prob=0.5))
    counts, crops = [], []
    for trainer.seen in range(0, 8 * 400, 8):  # noqa: B020
        counts.append(trainer.num_iters())
        crops.append(trainer.crop() is not None)
    shares = [counts.count(n) / len(counts) for n in (1, 2, 3)]
    assert all(0.25 < share < 0.42 for share in shares), shares
    in_last = [crop for crop, count in zip(crops, counts, strict=True) if count == 3]
    assert 0.35 < sum(in_last) / len(in_last) < 0.65  # the one says nothing about the other


def test_a_random_crop_is_a_part_in_full_detail() -> None:
    taken: list[tuple[Tensor, Tensor]] = []

    def note(x: Tensor, y: Tensor) -> Tensor:
        taken.append((x, y))
        return x.new_zeros(len(x))

    objective = Objective(mild_generator(), note, None, 8)  # type: ignore[arg-type]
    drawn, wanted = faces(2), faces(2) + 1
    objective.image_losses(drawn, wanted, torch.Generator().manual_seed(0))
    objective.image_metrics(drawn, wanted)
    (part, same), _, (whole, _) = taken
    assert torch.equal(part + 1, same)
    crops = [drawn[..., top : top + 8, left : left + 8] for top in range(9) for left in range(9)]
    assert any(torch.equal(part, crop) for crop in crops)
    assert torch.equal(whole, drawn)  # what is held out is not judged at half the size


def test_the_latent_only_warm_up_learns_from_samples_alone(tiny: EncoderTraining) -> None:
    trainer = trainer_of(varied(tiny, latent_only=16))
    assert trainer.latent_only
    task = trainer.task(faces(4), range(4))
    assert task.w_plus is not None
    torch.testing.assert_close(task.images, trainer.generator(task.w_plus).clamp(-1, 1))
    seen: list[dict[str, float]] = []
    trainer.run(lambda count, total, figures: seen.append(figures))
    assert [set(figures) for figures in seen[:3]] == [{"latent", "delta"}] * 2 + [{"latent", "delta", "l2"}]


def test_one_stage_learns_everything_at_once(tiny: EncoderTraining) -> None:
    trainer = trainer_of(varied(tiny, stages="one", learning_rate=1e-2))
    before = {name: p.clone() for name, p in trainer.encoder.named_parameters()}
    trainer.run()
    assert trainer.seen == 32
    assert not [name for name, p in trainer.encoder.named_parameters() if torch.equal(p, before[name])]


def test_bf16(tiny: EncoderTraining) -> None:
    trainer = train_encoder(varied(tiny, precision="bf16", w_pictures=8, pictures=24))
    assert all(torch.isfinite(p).all() for p in trainer.average.parameters())


def test_every_term_has_its_weight(tiny: EncoderTraining) -> None:
    """All terms at once, with a feature network and a discriminator that learns along."""
    torch.manual_seed(0)
    config = varied(tiny, stages="one", pictures=24, perceptual=0.8, adversarial=0.1, r1_every=2, cycle_every=3)
    discriminator = Discriminator(DiscriminatorConfig(32, {**MILD, 32: 4}))
    before = {name: p.clone() for name, p in discriminator.named_parameters()}
    seen: list[dict[str, float]] = []
    trainer = EncoderTrainer(
        config,
        mild_generator(32),  # the perceptual distance needs as much
        open_pictures(config.data, 32),
        perceptual=Perceptual.load("st-lpips-alex"),
        features=lambda x: x.flatten(1)[:, ::7],
        discriminator=discriminator,
    )
    trainer.run(lambda count, total, figures: seen.append(figures))
    terms = {"l2", "perceptual", "features", "latent", "delta", "norm", "adversarial"}
    assert terms <= vars(config).keys()
    assert seen[1].keys() == terms | {"discriminator"}
    assert seen[0].keys() == terms - {"latent"} | {"discriminator", "r1"}  # w+ of an edited picture is not known
    assert not [name for name, p in discriminator.named_parameters() if torch.equal(p, before[name])]
    with pytest.raises(ConfigError, match="discriminator"):
        trainer_of(varied(config, perceptual=0.0))


def test_features_of_ones_own(tiny: EncoderTraining) -> None:
    """Whatever network knows people; its angle is a term of the loss."""
    taken: list[tuple[int, ...]] = []

    def features(x: Tensor) -> Tensor:
        taken.append(tuple(x.shape))
        return x.flatten(1)[:, ::7]

    seen: list[dict[str, float]] = []
    train_encoder(
        varied(tiny, stages="one", pictures=8), lambda count, total, figures: seen.append(figures), features=features
    )
    assert 0 < seen[0]["features"] < 2
    longer = varied(tiny, stages="one", pictures=16)
    with pytest.raises(ConfigError, match="give their network again"):
        train_encoder(longer)
    train_encoder(varied(longer, features=0.0))
    assert taken[0] == (8, 3, 16, 16)


def test_nothing_is_written_into_the_generator(tiny: EncoderTraining, model: Path) -> None:
    trainer = train_encoder(tiny)
    for name, tensor in Generator.from_pretrained(model).state_dict().items():
        assert torch.equal(tensor, trainer.generator.state_dict()[name]), name


def test_bad_input_is_named(tiny: EncoderTraining, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="divisible"):
        varied(tiny, batch=6, accumulate=2)
    with pytest.raises(ConfigError, match="at least 1"):
        varied(tiny, save_every=0)
    for change, what in (
        ({"ood_fraction": 1.5}, "shares"),
        ({"mixing": -3.0}, "shares"),
        ({"clip": 0.0}, "positive"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number"),
        ({"perceptual_size": 0}, "at least 32"),
        ({"seed": -1}, "seed"),
        ({"stages": "one", "pictures": 0}, "no pictures to learn from"),
        ({"start_whole": True}, "name it by start_from"),
        ({"residual": "Post"}, "residual must be 'post' or 'pre', not 'Post'"),
        ({"precision": "fp16"}, "precision must be 'no' or 'bf16'"),
    ):
        with pytest.raises(ConfigError, match=what):
            varied(tiny, **change)
    with pytest.raises(ConfigError, match="set perceptual to 0"):
        trainer_of(varied(tiny, perceptual=0.1))
    assert train_encoder(varied(tiny, stages="one", layers=(), pictures=8, out=str(tmp_path / "codes"))).seen == 8
    with pytest.raises(ConfigError, match="start_from"):
        train_encoder(varied(tiny, w_pictures=0))
    with pytest.raises(ModelNotFoundError):
        train_encoder(varied(tiny, model=str(tmp_path / "nowhere")))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.safetensors").write_bytes(b"not a state")
    with pytest.raises(ModelFileError, match="not the state"):
        train_encoder(tiny)


def test_from_the_command_line(tiny: EncoderTraining, pictures: Path, model: Path, tmp_path: Path) -> None:
    """A first stage alone, and then on with the second; what is not said again is as it was."""

    def run(*args: object) -> None:
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        assert ended.value.code == 0

    out = tmp_path / "model"
    sizes = ["--widths", "8,8,8,16", "--width", 16, "--depth", 1, "--heads", 2, "--perceptual", 0]
    run("train", "encoder", pictures, "--out", out, "--model", model, *sizes, "--w-pictures", 16, "--pictures", 0)
    run("train", "encoder", pictures, "--out", out, "--pictures", 16)
    log = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert (log["stage"], log["seen"]) == ("tokens", 32)
