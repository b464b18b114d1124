"""Training of the encoder: on tiny pictures and a tiny generator, but the real loop from files to files."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MILD, faces, mild_generator
from torch import Tensor, nn

from refinestyle_hub.cli import main
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.discriminator import Discriminator
from refinestyle_hub.encoder import Encoder
from refinestyle_hub.errors import BaseMismatchError, ConfigError, ModelFileError, ModelNotFoundError
from refinestyle_hub.fingerprint import fingerprint
from refinestyle_hub.generator import Generator
from refinestyle_hub.images import to_image
from refinestyle_hub.losses import Perceptual
from refinestyle_hub.train import checkpoint
from refinestyle_hub.train.data import open_pictures
from refinestyle_hub.train.encoder import EncoderTrainer, EncoderTraining, _held_out, train_encoder
from refinestyle_hub.train.redraw import Objective
from refinestyle_hub.train.tasks import sources


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator and a discriminator of 16 px."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    mild_generator().save_pretrained(folder / "generator")
    Discriminator(DiscriminatorConfig(16, MILD)).save_pretrained(folder / "discriminator")
    return folder


@pytest.fixture(scope="module")
def pictures(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures that the generator drew, of the splits train, val and test; those of test are damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = Generator.from_pretrained(model)
    with torch.no_grad():
        drawn = generator(generator.map(torch.randn(20, 8, generator=torch.Generator().manual_seed(3))))
    rows = []
    for i, picture in enumerate(drawn.clamp(-1, 1)):
        to_image(picture).save(folder / f"{i:03d}.png")
        rows.append({"id": i, "split": "train" if i < 12 else "val" if i < 16 else "test"})
        if i >= 16:
            (folder / f"{i:03d}.png").write_bytes(b"nothing that could be trained on")
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def tiny(model: Path, pictures: Path, tmp_path: Path) -> EncoderTraining:
    return EncoderTraining(
        data=str(pictures),
        out=str(tmp_path / "run"),
        model=str(model),
        w_pictures=32,
        pictures=32,
        widths=(8, 8, 8, 16),
        width=16,
        depth=1,
        heads=2,
        rank=2,
        perceptual=0.0,
        batch=8,
        grid_every=32,
        save_every=16,
        validate_every=32,
        validation=3,
    )


class Stop(Exception):
    pass


def stop_at(count: int) -> Callable[[int, int, dict[str, float]], None]:
    def progress(seen: int, total: int, figures: dict[str, float]) -> None:
        if seen >= count:
            raise Stop

    return progress


def state(run: str) -> dict[str, Tensor]:
    return checkpoint.read(Path(run) / "state.safetensors")[0]


def trainer_of(config: EncoderTraining, **networks: Any) -> EncoderTrainer:
    generator = Generator.from_pretrained(config.model)
    return EncoderTrainer(config, generator, open_pictures(config.data, generator.config.resolution), **networks)


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
    assert "foreign_tokens_l2" in lines[1]


WAYS = {"one stage": {"stages": "one"}, "two": {}, "looks": {"looks": 3, "feedback": True, "windows": 0.5}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tiny: EncoderTraining, tmp_path: Path, way: dict[str, Any]
) -> None:
    whole = replace(tiny, **way, out=str(tmp_path / "whole"))
    train_encoder(whole)
    broken = replace(whole, out=str(tmp_path / "broken"))
    for count in (24, 32, 56):  # in the first stage, between two, in the second
        with pytest.raises(Stop):
            train_encoder(broken, stop_at(count))
        if whole.stages == "one" and count == 32:
            break
    train_encoder(broken)
    ours, theirs = state(broken.out), state(whole.out)
    assert ours.keys() == theirs.keys()
    for name in ours:  # the same operations in the same order: not a bit may differ
        assert torch.equal(ours[name], theirs[name]), name


def test_what_a_killed_run_logged_too_much_goes(tiny: EncoderTraining) -> None:
    config = replace(tiny, stages="one", validate_every=8)
    out = Path(config.out)
    with pytest.raises(Stop):
        train_encoder(config, stop_at(16))
    earlier = (out / "state.safetensors").read_bytes()
    train_encoder(config)
    whole = [json.loads(line)["seen"] for line in (out / "log.jsonl").read_text().splitlines()]
    (out / "state.safetensors").write_bytes(earlier)  # as if it had been killed before it saved again
    with (out / "log.jsonl").open("a") as file:
        file.write('{"seen": 4{"seen": 8}\n{"seen": 4')
    train_encoder(config)
    assert [json.loads(line)["seen"] for line in (out / "log.jsonl").read_text().splitlines()] == whole
    assert whole == sorted(whole)
    assert len(whole) > 3


def test_it_is_never_validated_on_the_test_split(tiny: EncoderTraining, tmp_path: Path) -> None:
    own = _held_out(tiny, 32)
    named = _held_out(replace(tiny, validate=tiny.data), 32)
    assert own is not None
    assert named is not None
    assert own.names == named.names
    Image.new("RGB", (32, 32)).save(tmp_path / "1.png")
    plain = _held_out(replace(tiny, validate=str(tmp_path)), 32)  # of no splits: all
    assert plain is not None
    assert len(plain) == 1


def test_the_stages_learn(tiny: EncoderTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same pictures again and again, the first stage finds their w+ and the second what w+ cannot say."""
    config = replace(tiny, w_pictures=160, pictures=240, learning_rate=1e-2, foreign=1.0, clip=10.0, norm=0.0)
    trainer, portraits = trainer_of(config), faces(4)
    domain = trainer.tasks.domain(portraits, sources(1, range(4)))
    foreign = trainer.tasks.foreign(portraits, sources(1, range(4)))
    monkeypatch.setattr(trainer, "task", lambda *_: domain if trainer.stage == "codes" else foreign)
    seen: list[dict[str, float]] = []
    trainer.run(lambda count, total, figures: seen.append(figures))
    assert seen[19]["l2"] < 0.8 * seen[0]["l2"]
    assert seen[19]["latent"] < 0.8 * seen[0]["latent"]
    assert seen[49]["l2"] < 0.8 * seen[20]["l2"]  # where the second stage drew what the first draws


def test_every_look_is_learnt_and_every_second_window_random(tiny: EncoderTraining) -> None:
    trainer = trainer_of(replace(tiny, looks=3, windows=0.5))
    looks, windows = [], []
    for trainer.seen in range(0, 8 * 400, 8):  # noqa: B020
        looks.append(trainer.looks())
        windows.append(trainer.window() is not None)
    shares = [looks.count(n) / len(looks) for n in (1, 2, 3)]
    assert all(0.25 < share < 0.42 for share in shares), shares
    in_last = [window for window, look in zip(windows, looks, strict=True) if look == 3]
    assert 0.35 < sum(in_last) / len(in_last) < 0.65  # the one says nothing about the other


def test_a_window_is_a_part_in_full_detail() -> None:
    taken: list[tuple[Tensor, Tensor]] = []

    def note(x: Tensor, y: Tensor) -> Tensor:
        taken.append((x, y))
        return x.new_zeros(len(x))

    objective = Objective(mild_generator(), note, None, 8)  # type: ignore[arg-type]
    drawn, wanted = faces(2), faces(2) + 1
    objective.pictures(drawn, wanted, torch.Generator().manual_seed(0))
    objective.judged(drawn, wanted)
    (part, same), _, (whole, _) = taken
    assert torch.equal(part + 1, same)
    windows = [drawn[..., top : top + 8, left : left + 8] for top in range(9) for left in range(9)]
    assert any(torch.equal(part, window) for window in windows)
    assert torch.equal(whole, drawn)  # what is held out is not judged at half the size


def test_a_blind_start_learns_from_samples_alone(tiny: EncoderTraining) -> None:
    trainer = trainer_of(replace(tiny, blind=16))
    assert trainer.blind
    task = trainer.task(faces(4), range(4))
    assert task.known is not None
    torch.testing.assert_close(task.seen, trainer.generator(task.known).clamp(-1, 1))
    seen: list[dict[str, float]] = []
    trainer.run(lambda count, total, figures: seen.append(figures))
    assert [set(figures) for figures in seen[:3]] == [{"latent", "delta"}] * 2 + [{"latent", "delta", "l2"}]


def test_one_stage_learns_everything_at_once(tiny: EncoderTraining) -> None:
    trainer = trainer_of(replace(tiny, stages="one", learning_rate=1e-2))
    before = {name: p.clone() for name, p in trainer.encoder.named_parameters()}
    trainer.run()
    assert trainer.seen == 32
    assert not [name for name, p in trainer.encoder.named_parameters() if torch.equal(p, before[name])]


def test_the_second_stage_can_start_from_another_runs_first(tiny: EncoderTraining, tmp_path: Path) -> None:
    train_encoder(replace(tiny, pictures=0))
    start = str(Path(tiny.out) / "encoder")
    further = replace(tiny, out=str(tmp_path / "further"), start_from=start, w_pictures=0, spatial="full")
    trainer = train_encoder(further)
    first = Encoder.from_pretrained(start).first.state_dict()
    for encoder in (trainer.encoder, trainer.average):
        assert all(torch.equal(t, first[name]) for name, t in encoder.first.state_dict().items())
    with pytest.raises(ModelFileError, match="another network"):
        train_encoder(replace(further, width=32, out=str(tmp_path / "wider")))


def test_one_stage_can_start_from_the_first_of_two(tiny: EncoderTraining, tmp_path: Path) -> None:
    first = train_encoder(replace(tiny, pictures=0)).average
    one = replace(tiny, stages="one", out=str(tmp_path / "one"))
    trainer = trainer_of(one)
    trainer.start_from(first)
    codes, tokens = trainer.encoder(faces(2), trainer.generator)
    torch.testing.assert_close(codes, first.codes(faces(2)), atol=0.3, rtol=0.3)  # tokens' queries are beside it now
    mean = trainer.encoder.w_avg.expand_as(codes)
    assert (codes - first.codes(faces(2))).norm() < 0.2 * (codes - mean).norm()
    with torch.no_grad():
        torch.testing.assert_close(trainer.generator(codes, tokens), trainer.generator(codes))  # no residual yet
    with pytest.raises(ModelFileError, match="another network"):
        trainer_of(replace(one, width=32)).start_from(first)


def test_codes_stay_in_the_coordinates_they_were_learnt_in(tiny: EncoderTraining, tmp_path: Path) -> None:
    """Another machine finds other axes for the same w: here those of the encoder, and of the saved run, are turned."""
    encoder = train_encoder(replace(tiny, pictures=0)).average
    encoder.basis.copy_(encoder.basis.flip(0))
    encoder.first.groups[0].codes[0].bias.data.fill_(0.3)  # type: ignore[union-attr, index, operator]
    trainer = trainer_of(replace(tiny, w_pictures=0))
    trainer.start_from(encoder)
    wanted = encoder.codes(faces(2))
    for own in (trainer.encoder, trainer.average):
        torch.testing.assert_close(own.codes(faces(2)), wanted)
    trainer.save(tmp_path / "state.safetensors")
    again = trainer_of(replace(tiny, w_pictures=0))
    again.load(tmp_path / "state.safetensors")
    for own in (again.encoder, again.average):
        torch.testing.assert_close(own.codes(faces(2)), wanted)


def test_a_first_stage_that_stays_is_of_the_same_generator(tiny: EncoderTraining) -> None:
    other = Generator.from_pretrained(tiny.model)
    with torch.no_grad():
        other.mapping.get_parameter("fc0.weight").mul_(1.5)
    encoder = Encoder.for_generator(other, **tiny.network())
    with pytest.raises(BaseMismatchError, match="start from"):
        trainer_of(replace(tiny, w_pictures=0)).start_from(encoder)
    trainer_of(tiny).start_from(encoder)  # and learns the codes of this one


def test_a_first_stage_that_stays_keeps_its_coordinates_on_a_relative(tiny: EncoderTraining) -> None:
    """A generator that was tuned from that of the encoder has other axes, of arbitrary signs."""
    encoder = train_encoder(replace(tiny, pictures=0)).average
    parent = Generator.from_pretrained(tiny.model)
    tuned = Generator.from_state(
        replace(parent.config, parents=(fingerprint(parent).digest,)),
        {name: x * 1.03 if name.endswith("fc0.weight") else x for name, x in parent.state_dict().items()},
    )
    trainer = EncoderTrainer(replace(tiny, w_pictures=0), tuned, open_pictures(tiny.data, 16))
    with pytest.warns(UserWarning, match="relative"):
        trainer.start_from(encoder)
    torch.testing.assert_close(trainer.encoder.codes(faces(2)), encoder.codes(faces(2)))


def test_moments_come_back_also_where_a_parameter_had_none(tmp_path: Path) -> None:
    """As those of layers that no step has used so far."""
    nets = {name: nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)}) for name in ("saved", "again")}
    adams = {name: torch.optim.Adam(net.parameters()) for name, net in nets.items()}
    nets["saved"]["used"](torch.ones(1, 2)).sum().backward()
    adams["saved"].step()
    checkpoint.write(tmp_path / "state", {"net": nets["saved"]}, {"net": adams["saved"]}, {})
    tensors, _ = checkpoint.read(tmp_path / "state")
    assert checkpoint.load_optimizer(tensors, "net", nets["again"], adams["again"])
    for name in ("weight", "bias"):
        mine, theirs = (adams[which].state[nets[which]["used"].get_parameter(name)] for which in ("again", "saved"))
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert not adams["again"].state.get(nets["again"]["unused"].get_parameter("weight"))
    assert not checkpoint.load_optimizer({}, "net", nets["again"], torch.optim.Adam(nets["again"].parameters()))


@pytest.mark.parametrize(
    ("change", "what"), [({"depth": 2}, "depth"), ({"feedback": True, "looks": 2}, "looks, feedback")]
)
def test_a_run_goes_on_only_as_the_network_that_it_was(
    tiny: EncoderTraining, change: dict[str, Any], what: str
) -> None:
    with pytest.raises(Stop):
        train_encoder(tiny, stop_at(8))
    with pytest.raises(ConfigError, match=f"other settings of the network: {what}. Take what it had"):
        train_encoder(replace(tiny, **change))


def test_a_run_goes_on_only_for_its_own_generator(tiny: EncoderTraining, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_encoder(tiny, stop_at(8))
    other = Generator.from_pretrained(tiny.model)
    with torch.no_grad():
        other.mapping.get_parameter("fc0.weight").mul_(1.5)
    other.save_pretrained(tmp_path / "other" / "generator")
    with pytest.raises(ConfigError, match="for another generator"):
        train_encoder(replace(tiny, model=str(tmp_path / "other")))


def test_parts_of_a_batch_add_up_to_it(tiny: EncoderTraining, tmp_path: Path) -> None:
    whole = train_encoder(tiny)
    parts = train_encoder(replace(tiny, accumulate=2, out=str(tmp_path / "parts")))
    for name, p in parts.encoder.named_parameters():
        # the sums run in another order, and Adam's first steps turn small differences into signs
        torch.testing.assert_close(p, whole.encoder.get_parameter(name), rtol=0, atol=2e-3, msg=name)


def test_bf16(tiny: EncoderTraining) -> None:
    trainer = train_encoder(replace(tiny, precision="bf16", w_pictures=8, pictures=24))
    assert all(torch.isfinite(p).all() for p in trainer.average.parameters())


def test_every_term_has_its_weight(tiny: EncoderTraining) -> None:
    """All terms at once, with a feature network and a discriminator that learns along."""
    torch.manual_seed(0)
    config = replace(tiny, stages="one", pictures=24, perceptual=0.8, adversarial=0.1, r1_every=2, cycle_every=3)
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
        trainer_of(replace(config, perceptual=0.0))


def test_nothing_is_written_into_the_generator(tiny: EncoderTraining, model: Path) -> None:
    trainer = train_encoder(tiny)
    for name, tensor in Generator.from_pretrained(model).state_dict().items():
        assert torch.equal(tensor, trainer.generator.state_dict()[name]), name


def test_bad_input_is_named(tiny: EncoderTraining, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="divisible"):
        replace(tiny, batch=6, accumulate=2)
    with pytest.raises(ConfigError, match="at least 1"):
        replace(tiny, save_every=0)
    for change, what in (
        ({"foreign": 1.5}, "shares"),
        ({"mixing": -3.0}, "shares"),
        ({"clip": 0.0}, "positive"),
        ({"learning_rate": math.nan}, "positive"),
        ({"perceptual_size": 0}, "at least 32"),
        ({"seed": -1}, "seed"),
        ({"stages": "one", "pictures": 0}, "no pictures to learn from"),
    ):
        with pytest.raises(ConfigError, match=what):
            replace(tiny, **change)
    with pytest.raises(ConfigError, match="set perceptual to 0"):
        trainer_of(replace(tiny, perceptual=0.1))
    assert train_encoder(replace(tiny, stages="one", layers=(), pictures=8, out=str(tmp_path / "codes"))).seen == 8
    with pytest.raises(ModelNotFoundError):
        train_encoder(replace(tiny, model=str(tmp_path / "nowhere")))
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


# --- Several processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tiny: EncoderTraining, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys\n"
        "from refinestyle_hub.files import construct\n"
        "from refinestyle_hub.train.encoder import *\n"
        "train_encoder(construct(EncoderTraining, json.loads(sys.argv[1])))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), json.dumps(asdict(tiny))], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    alone = replace(tiny, out=str(tmp_path / "alone"))
    train_encoder(alone)
    ours, theirs = state(tiny.out), state(alone.out)
    for name in theirs:
        if name.startswith("average."):
            # the same pairs in the same order; gradients are summed in another, which Adam's first steps magnify
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-3, msg=name)


def test_the_work_is_shared_without_overlap(tiny: EncoderTraining) -> None:
    """Pairs of all parts and processes of a step are those of one process in one part, in order."""

    class Rank:
        device = torch.device("cpu")
        num_processes = 2

        def __init__(self, process_index: int) -> None:
            self.process_index = process_index

    ranks = [trainer_of(replace(tiny, accumulate=2), accelerator=Rank(i)) for i in (0, 1)]
    for one in ranks:
        one.seen = 16
    places = [place for part in (0, 1) for one in ranks for place in one.pairs(part)]
    assert places == [8, 9, 10, 11]
    assert np.array_equal(places, sorted(set(places)))
    with pytest.raises(ConfigError, match="2 processes"):
        trainer_of(replace(tiny, batch=6), accelerator=Rank(0))
