"""Training of the encoder: runs that were stopped, begin with another encoder, or are shared among processes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_runs import log, state, trainer_of, varied
from run_parts import Stop, in_two_processes, stop_at
from safetensors.torch import save_file
from tiny import faces, mild_generator
from torch import Tensor

from refinestyle_hub.encoder.backbone import open_backbone
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import BaseMismatchError, ConfigError, ModelFileError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.train import checkpoint
from refinestyle_hub.train.dataset import open_pictures
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.encoder_trainer import EncoderTrainer, train_encoder


FEEDBACK: dict[str, Any] = {"num_iters": 3, "gradient_feedback": True}
WAYS = {"one stage": {"stages": "one"}, "two": {}, "iterations": FEEDBACK | {"crop_prob": 0.5}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tiny: EncoderTraining, tmp_path: Path, way: dict[str, Any]
) -> None:
    whole = varied(tiny, **way, out=str(tmp_path / "whole"))
    train_encoder(whole)
    broken = varied(whole, out=str(tmp_path / "broken"))
    for count in (24, 32, 56):  # in the first stage, between two, in the second
        with pytest.raises(Stop):
            train_encoder(broken, stop_at(count))
        if whole.network.stages == "one" and count == 32:
            break
    train_encoder(broken)
    ours, theirs = state(broken.out), state(whole.out)
    assert ours.keys() == theirs.keys()
    for name in ours:  # the same operations in the same order: not a bit may differ
        assert torch.equal(ours[name], theirs[name]), name


def test_what_a_killed_run_logged_too_much_goes(tiny: EncoderTraining) -> None:
    config = varied(tiny, stages="one", validate_every=8)
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


def test_the_log_does_not_tell_where_a_run_was_stopped(tiny: EncoderTraining, tmp_path: Path) -> None:
    whole = varied(tiny, stages="one", batch=2, pictures=106, save_every=1000, validate_every=1000, grid_every=1000)
    train_encoder(whole)
    broken = varied(whole, out=str(tmp_path / "broken"))
    with pytest.raises(Stop):
        train_encoder(broken, stop_at(60))
    train_encoder(broken)
    (ours, *_), (theirs, *_) = log(broken.out), log(whole.out)
    assert ours.pop("rate") > 0
    assert theirs.pop("rate") > 0
    assert ours == theirs
    assert (ours["seen"], ours["stage"]) == (100, "both")


def test_the_second_stage_can_start_from_another_runs_first(tiny: EncoderTraining, tmp_path: Path) -> None:
    train_encoder(varied(tiny, pictures=0))
    start = str(Path(tiny.out) / "encoder")
    further = varied(tiny, out=str(tmp_path / "further"), start_from=start, w_pictures=0, spatial="full")
    trainer = train_encoder(further)
    first = Encoder.from_pretrained(start).first.state_dict()
    for encoder in (trainer.encoder, trainer.average):
        assert all(torch.equal(t, first[name]) for name, t in encoder.first.state_dict().items())
    with pytest.raises(ModelFileError, match="another network"):
        train_encoder(varied(further, width=32, out=str(tmp_path / "wider")))


@pytest.mark.parametrize("stages", ["one", "two"])
def test_a_whole_encoder_learns_on(tiny: EncoderTraining, tmp_path: Path, stages: Any) -> None:
    taught = train_encoder(varied(tiny, stages=stages)).average
    start = str(Path(tiny.out) / "encoder")
    on = varied(tiny, stages=stages, out=str(tmp_path / "on"), start_from=start, start_whole=True, w_pictures=0)
    on = varied(on, num_iters=2 if stages == "two" else 1, warmup=0.0)
    still = train_encoder(varied(on, learning_rate=1e-12, out=str(tmp_path / "still")))
    generator = still.generator
    for net in (still.encoder, still.average):
        (codes, tokens), (theirs, told) = (any_net(faces(2), generator, None, 1) for any_net in (net, taught))
        torch.testing.assert_close(codes, theirs)
        torch.testing.assert_close(generator(codes, tokens), generator(codes, told))
    assert (generator(codes, told) - generator(codes)).abs().max() > 1e-4  # it had learnt some
    done = train_encoder(on).encoder
    moved = {name for name, x in done.state_dict().items() if not torch.equal(x, taught.state_dict()[name])}
    assert any(name.startswith("second." if stages == "two" else "first.") for name in moved)
    assert stages == "one" or not any(name.startswith("first.") for name in moved)
    assert done.config.network.num_iters == on.network.num_iters
    with pytest.raises(ConfigError, match="other settings: rank"):
        train_encoder(varied(on, rank=3, out=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="began with a whole encoder"):
        train_encoder(varied(on, start_whole=False))


def test_a_whole_encoder_keeps_its_tokens_while_w_plus_learns_on(tiny: EncoderTraining, tmp_path: Path) -> None:
    taught = train_encoder(tiny).average
    start = str(Path(tiny.out) / "encoder")
    on = varied(tiny, out=str(tmp_path / "on"), start_from=start, start_whole=True, learning_rate=1e-12)
    still = train_encoder(on).average  # through both stages
    first = train_encoder(varied(on, out=str(tmp_path / "first"), pictures=0)).average  # through the first alone
    saved = Encoder.from_pretrained(tmp_path / "first" / "encoder")
    for net in (still, first, saved):
        assert net.config.network.stages == "two"
        for name, x in taught.state_dict().items():
            torch.testing.assert_close(net.state_dict()[name], x, msg=lambda told, name=name: f"{name}: {told}")


def test_tokens_of_another_generators_encoder_get_the_units_of_this_one(tiny: EncoderTraining) -> None:
    other = Generator.from_pretrained(tiny.model)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if ".conv" in name and name.endswith("weight"):
                p.mul_(4.0)
    trainer = trainer_of(varied(tiny, start_from="that", start_whole=True))
    units = {name: x.clone() for name, x in trainer.encoder.state_dict().items() if name.endswith("unit")}
    theirs = Encoder.for_generator(other, **vars(tiny.network))
    assert any(not torch.equal(theirs.state_dict()[name], x) for name, x in units.items())
    trainer.start_from(theirs)
    for net in (trainer.encoder, trainer.average):
        assert all(torch.equal(net.state_dict()[name], x) for name, x in units.items())


def test_an_interrupt_amid_a_step_leaves_the_state_before(
    tiny: EncoderTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = varied(tiny, stages="one", save_every=8)
    move = EncoderTrainer.move_average

    def interrupted(self: EncoderTrainer, moving: str) -> None:
        if self.seen == 16:
            raise KeyboardInterrupt  # the weights have moved, their average has not
        move(self, moving)

    with monkeypatch.context() as patched:
        patched.setattr(EncoderTrainer, "move_average", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_encoder(config)
    whole = varied(config, out=str(tmp_path / "whole"))
    train_encoder(whole)
    train_encoder(config)
    ours, theirs = state(config.out), state(whole.out)
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_one_stage_can_start_from_the_first_of_two(tiny: EncoderTraining, tmp_path: Path) -> None:
    first = train_encoder(varied(tiny, pictures=0)).average
    one = varied(tiny, stages="one", out=str(tmp_path / "one"))
    trainer = trainer_of(one)
    trainer.start_from(first)
    codes, tokens = trainer.encoder(faces(2), trainer.generator)
    torch.testing.assert_close(codes, first.codes(faces(2)), atol=0.3, rtol=0.3)  # tokens' queries are beside it now
    mean = trainer.encoder.w_avg.expand_as(codes)
    assert (codes - first.codes(faces(2))).norm() < 0.2 * (codes - mean).norm()
    with torch.no_grad():
        torch.testing.assert_close(trainer.generator(codes, tokens), trainer.generator(codes))  # no residual yet
    with pytest.raises(ModelFileError, match="another network"):
        trainer_of(varied(one, width=32)).start_from(first)


def test_codes_stay_in_the_coordinates_they_were_learnt_in(tiny: EncoderTraining, tmp_path: Path) -> None:
    """Another machine finds other axes for the same w: here those of the encoder, and of the saved run, are turned."""
    encoder = train_encoder(varied(tiny, pictures=0)).average
    encoder.basis.copy_(encoder.basis.flip(0))
    encoder.first.groups[0].code_heads[0].bias.data.fill_(0.3)  # type: ignore[union-attr, index, operator]
    trainer = trainer_of(varied(tiny, w_pictures=0))
    trainer.start_from(encoder)
    wanted = encoder.codes(faces(2))
    for own in (trainer.encoder, trainer.average):
        torch.testing.assert_close(own.codes(faces(2)), wanted)
    trainer.save(tmp_path / "state.safetensors")
    again = trainer_of(varied(tiny, w_pictures=0))
    again.load(tmp_path / "state.safetensors")
    for own in (again.encoder, again.average):
        torch.testing.assert_close(own.codes(faces(2)), wanted)


def test_a_first_stage_that_stays_is_of_the_same_generator(tiny: EncoderTraining) -> None:
    other = Generator.from_pretrained(tiny.model)
    with torch.no_grad():
        other.mapping.get_parameter("fc0.weight").mul_(1.5)
    encoder = Encoder.for_generator(other, **vars(tiny.network))
    with pytest.raises(BaseMismatchError, match="start from"):
        trainer_of(varied(tiny, w_pictures=0)).start_from(encoder)
    trainer_of(tiny).start_from(encoder)  # and learns the codes of this one


def test_a_first_stage_that_stays_keeps_its_coordinates_on_a_relative(tiny: EncoderTraining) -> None:
    """A generator that was tuned from that of the encoder has other axes, of arbitrary signs."""
    encoder = train_encoder(varied(tiny, pictures=0)).average
    parent = Generator.from_pretrained(tiny.model)
    tuned = StyleGAN2Generator.from_state(
        replace(parent.config, parents=(parent.fingerprint().digest,)),
        {name: x * 1.03 if name.endswith("fc0.weight") else x for name, x in parent.state_dict().items()},
    )
    trainer = EncoderTrainer(varied(tiny, w_pictures=0), tuned, open_pictures(tiny.data, 16))
    with pytest.warns(UserWarning, match="relative"):
        trainer.start_from(encoder)
    torch.testing.assert_close(trainer.encoder.codes(faces(2)), encoder.codes(faces(2)))


@pytest.mark.parametrize(("change", "what"), [({"depth": 2}, "depth"), (FEEDBACK, "num_iters, gradient_feedback")])
def test_a_run_goes_on_only_as_the_network_that_it_was(
    tiny: EncoderTraining, change: dict[str, Any], what: str
) -> None:
    with pytest.raises(Stop):
        train_encoder(tiny, stop_at(8))
    with pytest.raises(ConfigError, match=f"other settings of the network: {what}. Keep its settings"):
        train_encoder(varied(tiny, **change))


def test_a_run_goes_on_only_by_its_own_distance(tiny: EncoderTraining) -> None:
    """Which "auto" is differs from machine to machine."""
    config = varied(tiny, stages="one", perceptual=0.1, perceptual_backend="st-lpips-alex")
    pictures, networks = open_pictures(config.data, 32), {"perceptual": Perceptual.load("st-lpips-alex")}
    trainer = EncoderTrainer(config, mild_generator(32), pictures, **networks)
    path = Path(config.out) / "state.safetensors"
    trainer.save(path)
    EncoderTrainer(config, mild_generator(32), pictures, **networks).load(path)
    networks["perceptual"].name = "lpips-alex"
    with pytest.raises(ConfigError, match="learns by st-lpips-alex, not lpips-alex"):
        EncoderTrainer(config, mild_generator(32), pictures, **networks).load(path)


def test_a_discriminator_can_join_a_run(tiny: EncoderTraining) -> None:
    one = varied(tiny, stages="one")
    with pytest.raises(Stop):
        train_encoder(one, stop_at(16))
    before = Discriminator.from_pretrained(one.model).state_dict()
    seen: list[dict[str, float]] = []
    joined = varied(one, adversarial=0.1)
    trainer = train_encoder(joined, lambda count, total, metrics: seen.append(metrics))
    assert len(seen) == 2
    assert "adversarial" in seen[0]
    after = trainer.networks["discriminator"].state_dict()
    assert any(not torch.equal(after[name], x) for name, x in before.items())
    train_encoder(varied(joined, pictures=40))  # and what it has learnt is kept
    tensors, saved = checkpoint.read(Path(one.out) / "state.safetensors")
    kept = {name: x for name, x in tensors.items() if not name.startswith("discriminator.b16")}
    save_file(kept, Path(one.out) / "state.safetensors", metadata={"state": json.dumps(saved)})
    with pytest.raises(ModelFileError, match="discriminator"):
        train_encoder(varied(joined, pictures=48))


def test_published_weights_are_opened_once(tiny: EncoderTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on has weights of its own, and needs no connection."""
    asked: list[bool] = []

    def note(network: Any, inputs: int, pretrained: bool = False) -> Any:
        asked.append(pretrained)
        return open_backbone(network, inputs)

    monkeypatch.setattr("refinestyle_hub.encoder.encoder.open_backbone", note)
    config = varied(tiny, stages="one", pretrained=True)
    with pytest.raises(Stop):
        train_encoder(config, stop_at(8))
    assert asked.count(True) == 1
    train_encoder(config)
    assert asked.count(True) == 1


def test_a_run_goes_on_only_for_its_own_generator(tiny: EncoderTraining, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_encoder(tiny, stop_at(8))
    other = Generator.from_pretrained(tiny.model)
    with torch.no_grad():
        other.mapping.get_parameter("fc0.weight").mul_(1.5)
    other.save_pretrained(tmp_path / "other" / "generator")
    with pytest.raises(ConfigError, match="for another generator"):
        train_encoder(varied(tiny, model=str(tmp_path / "other")))


class Rank:
    """One of two processes that never hears of the other."""

    device = torch.device("cpu")
    num_processes = 2

    def __init__(self, process_index: int) -> None:
        self.process_index, self.is_main_process = process_index, process_index == 0

    def reduce(self, x: Tensor, how: str) -> Tensor:
        return x

    def wait_for_everyone(self) -> None:
        pass


def gradients(run: str) -> dict[str, Tensor]:
    """What Adam keeps of the gradients of a run's last steps, by stage."""
    found = {name: x.flatten() for name, x in state(run).items() if name.endswith(".exp_avg")}
    return {part: torch.cat([x for n, x in found.items() if n.startswith(part)]) for part in ("first", "second")}


def distances(run: str, other: str) -> list[float]:
    """Of the gradients of two runs, relative to their norm."""
    ours, theirs = gradients(run), gradients(other)
    return [float((ours[part] - theirs[part]).norm() / theirs[part].norm()) for part in theirs]


def test_parts_of_a_batch_add_up_to_it(tiny: EncoderTraining, tmp_path: Path) -> None:
    slow = varied(tiny, learning_rate=1e-6)  # Adam turns what rounding leaves of a zero into whole steps
    parts, half = varied(slow, accumulate=2, out=str(tmp_path / "2")), varied(slow, out=str(tmp_path / "half"))
    train_encoder(slow)
    train_encoder(parts)
    trainer_of(half, accelerator=Rank(0)).run()
    assert max(distances(parts.out, slow.out)) < 1e-4  # the sums run in another order
    assert min(distances(half.out, slow.out)) > 0.1  # where half of each batch is lost


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tiny: EncoderTraining, tmp_path: Path) -> None:
    lines = [
        "import json, sys",
        "from refinestyle_hub.storage.schema import construct",
        "from refinestyle_hub.train.encoder_trainer import *",
        "train_encoder(construct(EncoderTraining, json.loads(sys.argv[1])))",
    ]
    slow = varied(tiny, learning_rate=1e-6, batch=4, w_pictures=200)  # as above; long enough for a line of the log
    in_two_processes(tmp_path / "train.py", lines, json.dumps(asdict(slow)))
    alone = varied(slow, out=str(tmp_path / "alone"))
    train_encoder(alone)
    assert max(distances(slow.out, alone.out)) < 1e-4  # the same pairs in the same order, summed in another
    ours, theirs = ([line for line in log(run.out) if "rate" in line][-1] for run in (slow, alone))
    assert ours.pop("rate") > 0
    assert theirs.pop("rate") > 0
    assert ours.pop("stage") == theirs.pop("stage")
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)  # also what is logged is of both


def test_the_work_is_shared_without_overlap(tiny: EncoderTraining) -> None:
    """Pairs of all parts and processes of a step are those of one process in one part, in order."""

    ranks = [trainer_of(varied(tiny, accumulate=2), accelerator=Rank(i)) for i in (0, 1)]
    for one in ranks:
        one.seen = 16
    places = [place for part in (0, 1) for one in ranks for place in one.pairs(part)]
    assert places == [8, 9, 10, 11]
    assert np.array_equal(places, sorted(set(places)))
    with pytest.raises(ConfigError, match="number of processes, 2"):
        trainer_of(varied(tiny, batch=6), accelerator=Rank(0))
