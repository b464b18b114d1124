"""Figures of a domain: what they say where the answer is known, and what they say when they cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, attribute_net, tiny_generator, token_set
from torch import Tensor

from refinestyle_hub.cards.facts import read_card
from refinestyle_hub.cli.evaluate import find_domain
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.errors import ConfigError, MissingDependencyError, ShapeError
from refinestyle_hub.evaluation.domain import MetricNets, card_metrics, compare, evaluate_domain, sample_codes
from refinestyle_hub.evaluation.drift import Faces, attribute_drift
from refinestyle_hub.faces import dlib_models
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.images import save_png, to_image, to_tensor
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.model_folder import Folder
from refinestyle_hub.tokens.token_set import TokenSet


@pytest.fixture(scope="module")
def nets() -> MetricNets:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator(DiscriminatorConfig(resolution=32, channels=TINY.channels)).eval()
    return MetricNets(attribute_net(), discriminator.requires_grad_(False), Perceptual.load("st-lpips-alex"))


class Toy:
    """Pictures of one brightness and one contrast, as codes say: every figure has a known answer."""

    def __call__(self, w: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, 32).expand(3, 32, 32)
        return (0.3 * w[:, 0, :1, None, None] + 0.3 * w[:, 0, 1:2, None, None] * ramp).clamp(-1, 1)


def darker(w: Tensor) -> Tensor:
    return Toy()(w) - 0.4


def codes(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 2, generator=torch.Generator().manual_seed(seed))


# --- Sets -----------------------------------------------------------------------------------------------------------


def test_the_right_change_closes_the_gap_and_another_does_not(nets: MetricNets) -> None:
    nets = replace(nets, perceptual=None)
    true = darker(codes(80, seed=1))
    right = compare(Toy(), darker, codes(80), true, nets, faces=0)
    wrong = compare(Toy(), lambda w: Toy()(w) + 0.2, codes(80), true, nets, faces=0)
    for name in ("attribute_features", "discriminator_features"):
        assert right[name]["before_kernel_x1000"] > 5 * right[name]["kernel_x1000_std"]
        assert right[name]["gap_closed"] > 0.9  # the same distribution, other samples
        assert right[name]["before_frechet"] > 5 * right[name]["frechet"]
        assert wrong[name]["gap_closed"] < 0
        assert wrong[name]["before_kernel_x1000"] == right[name]["before_kernel_x1000"]


def test_metrics_do_not_depend_on_the_batches(nets: MetricNets, monkeypatch: pytest.MonkeyPatch) -> None:
    true = darker(codes(7, seed=1))
    one = compare(Toy(), darker, codes(20), true, nets, faces=0)
    monkeypatch.setattr("refinestyle_hub.evaluation.domain.BATCH", 6)
    other = compare(Toy(), darker, codes(20), [picture for picture in true], nets, faces=0)  # noqa: C416
    assert json.loads(json.dumps(one, allow_nan=False)).keys() == other.keys()
    for name in ("attribute_features", "discriminator_features"):
        # fp32 sums in another order, against distances of some tens
        assert one[name]["kernel_x1000"] == pytest.approx(other[name]["kernel_x1000"], rel=1e-3, abs=1e-2)
    assert one["diversity"]["intra_perceptual"] == pytest.approx(other["diversity"]["intra_perceptual"], rel=1e-3)


def test_one_true_picture_has_no_distances_but_all_else(nets: MetricNets) -> None:
    found = compare(Toy(), darker, codes(8), darker(codes(1)), nets, faces=0)
    assert found["attribute_features"] is None
    assert found["discriminator_features"] is None
    assert found["diversity"]["clusters"] == [8]
    assert any("at least two true pictures" in note for note in found["notes"])


def test_few_true_pictures_are_said_to_bias_the_frechet_distance(nets: MetricNets) -> None:
    few = compare(Toy(), darker, codes(8), darker(codes(3)), nets, faces=0)
    assert any("Frechet" in note and note.startswith("3 true pictures") for note in few["notes"])
    many = compare(Toy(), darker, codes(8), darker(codes(70)), nets, faces=0)
    assert not any("Frechet" in note for note in many["notes"])


def test_absent_judges_leave_gaps_with_a_reason() -> None:
    found = compare(Toy(), darker, codes(4), darker(codes(4)), MetricNets(), faces=0)
    for name in (
        "trunk_features",
        "attribute_features",
        "discriminator_features",
        "diversity",
        "landmarks",
        "attributes",
    ):
        assert found[name] is None
    assert len(found["notes"]) == 5  # three networks, the perceptual distance, landmarks
    assert card_metrics(found, "nothing") == ()


def test_a_trunk_measures_at_all_its_depths(nets: MetricNets) -> None:
    """Maps of the pictures themselves and of their halves: two samples of one brightness are the same set."""
    trunk = MetricNets(trunk=lambda x: [x[..., ::8, ::8], x[..., ::16, ::16]])
    found = compare(Toy(), darker, codes(20), darker(codes(20, seed=1)), trunk, faces=0)["trunk_features"]
    assert found["before_kernel_x1000"] > 5 * abs(found["kernel_x1000"])
    assert found["gap_closed"] > 0.8


def test_wrong_sizes_and_numbers_are_typed_errors(nets: MetricNets) -> None:
    with pytest.raises(ShapeError, match="no true picture"):
        compare(Toy(), darker, codes(4), torch.empty(0, 3, 32, 32), nets, faces=0)
    with pytest.raises(ShapeError, match=r"\[3, 64, 64\]"):
        compare(Toy(), darker, codes(4), torch.zeros(2, 3, 64, 64), MetricNets(), faces=0)
    with pytest.raises(ConfigError, match="two samples"):
        sample_codes(tiny_generator(), 1)


# --- Diversity ------------------------------------------------------------------------------------------------------


def test_diversity_is_that_of_the_definition(nets: MetricNets) -> None:
    """CDC, section 4.1, written out: nearest reference, mean distance of pairs in a cluster, mean of the clusters."""
    perceptual = nets.perceptual
    assert perceptual is not None
    samples, references = darker(codes(9)), darker(codes(2, seed=1))
    nearest = torch.stack([perceptual(samples, r.expand_as(samples)) for r in references]).argmin(0)
    clusters = [samples[nearest == k] for k in range(2)]
    means = [
        np.mean([float(perceptual(c[i : i + 1], c[j : j + 1])) for i in range(len(c)) for j in range(i)])
        for c in clusters
        if len(c) > 1
    ]
    found = compare(Toy(), darker, codes(9), darker(codes(3)), nets, references=references, faces=0)["diversity"]
    assert found["intra_perceptual"] == pytest.approx(np.mean(means), rel=5e-3)  # maps are kept in half precision
    assert found["clusters"] == [len(c) for c in clusters]
    assert found["around"] == "the references"


def test_copies_of_the_references_have_no_diversity(nets: MetricNets) -> None:
    references = darker(codes(2, seed=1))
    turn = iter(range(1000))
    copies = lambda w: references[[next(turn) % 2 for _ in w]]  # noqa: E731
    found = compare(Toy(), copies, codes(10), references, nets, references=references, faces=0)
    assert found["diversity"]["intra_perceptual"] == pytest.approx(0.0, abs=1e-6)
    assert found["diversity"]["clusters"] == [5, 5]


# --- Drift ----------------------------------------------------------------------------------------------------------


def test_landmarks_of_a_moved_face_drift_by_the_move(astronaut: Image.Image) -> None:
    face = to_tensor(astronaut.crop((128, 0, 384, 256)))
    moved = torch.roll(face, 8, dims=3)
    blank = torch.zeros_like(face)
    looks = Faces(10)
    looks.add(torch.cat([face, face, blank]), torch.cat([moved, blank, face]))
    found = looks.report([])
    assert found is not None
    assert (found["pictures"], found["share"], found["share_before"]) == (
        3,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )
    # 8 pixels; her eyes are some 40 apart
    assert 0.15 < found["drift"] < 0.3
    assert found["median"] == found["drift"]
    assert 0 < found["identity"] < 0.3  # the same picture, moved
    same = Faces(1)
    same.add(face, face)
    assert same.drifts == [0.0]
    same.add(face, face)  # beyond the limit
    assert len(same.drifts) == 1


def test_no_face_anywhere_is_a_share_of_none() -> None:
    looks = Faces(2)
    looks.add(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64))
    none = dict.fromkeys(("drift", "median", "identity"))
    assert looks.report([]) == {**none, "pictures": 2, "share": 0.0, "share_before": 0.0}


def test_without_dlib_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object) -> Any:
        raise MissingDependencyError("dlib is not installed.")

    monkeypatch.setattr(dlib_models.FaceModels, "detect", absent)
    looks, notes = Faces(2), []
    looks.add(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64))
    assert looks.report(notes) is None
    assert notes == ["No landmarks: dlib is not installed."]


def test_attribute_drift_in_the_units_of_the_labels() -> None:
    net = attribute_net()
    old = torch.zeros(4, 4)
    new = torch.tensor([[0.5, 0.1, 0.0, 9.0]] * 3 + [[8.0, 0.1, 0.0, 9.0]])  # the last yaw is beyond all labels
    found = attribute_drift(net, [(old[:2], new[:2]), (old[2:], new[2:])])
    assert found is not None
    assert found["each"].keys() == {"yaw", "smile", "glasses"}
    assert found["each"]["yaw"] == {"drift": pytest.approx(5.0), "deviations": pytest.approx(0.5), "share": 0.75}
    assert found["each"]["smile"]["drift"] == pytest.approx(0.03)
    assert found["each"]["glasses"] == {"drift": 0.0, "deviations": 0.0, "share": 1.0}
    assert found["content_deviations"] == pytest.approx(0.3)  # mean of yaw and smile
    assert found["share"] == pytest.approx(0.875)
    assert attribute_drift(None, []) is None


def test_unreadable_attributes_have_no_drift() -> None:
    found = attribute_drift(attribute_net(), [(torch.zeros(2, 4), torch.full((2, 4), 50.0))])
    assert found is not None
    assert found["each"]["yaw"] == {"drift": None, "deviations": None, "share": 0.0}
    assert (found["content_deviations"], found["share"]) == (None, 0.0)


# --- A domain -------------------------------------------------------------------------------------------------------


def test_a_domain_with_its_size_and_time(nets: MetricNets) -> None:
    generator, tokens = tiny_generator(), token_set(residual="pre")
    ticks: list[tuple[int, int]] = []
    found = evaluate_domain(
        generator, tokens, torch.zeros(3, 3, 32, 32), nets, samples=20, faces=0,
        on_batch=lambda done, total: ticks.append((done, total)),
    )  # fmt: skip
    assert ticks == [(16, 20), (20, 20)]
    assert found["bytes"] == tokens.nbytes
    assert found["values"] == tokens.num_values
    assert found["training_bytes"] == 12 * tokens.num_values
    assert found["share_of_generator"] == tokens.num_values / sum(p.numel() for p in generator.parameters())
    assert found["seconds"]["picture"] > 0
    assert found["landmarks"] is None
    again = evaluate_domain(generator, tokens, torch.zeros(3, 3, 32, 32), nets, samples=20, faces=0)
    assert {**again, "seconds": None} == {**found, "seconds": None}


def test_metrics_of_a_card(nets: MetricNets) -> None:
    report = compare(Toy(), darker, codes(8), darker(codes(8, seed=1)), nets, faces=1)
    found = card_metrics(report, "toys", "a command")
    assert found[0].name == "Kernel distance in attribute features, x1000"
    assert found[0].value == report["attribute_features"]["kernel_x1000"]
    assert len({metric.name for metric in found}) == len(found)
    diversity = next(metric for metric in found if "diversity" in metric.name)
    assert (diversity.version, diversity.samples) == ("st-lpips-alex", 8)
    assert not any("Landmark drift" in metric.name for metric in found)  # toys have no faces


# --- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def domain(tiny_pipe: RefineStylePipeline, tmp_path: Path) -> Path:
    replace(token_set(residual="pre"), base=tiny_pipe.generator.fingerprint()).save_pretrained(tmp_path / "wild")
    return tmp_path / "wild"


@pytest.fixture
def true(tmp_path: Path) -> Path:
    for number, picture in enumerate(darker(codes(3))):
        save_png(to_image(picture), tmp_path / "true" / f"{number}.png")
    return tmp_path / "true"


def test_command(run: Any, tiny_pipeline_dir: Path, domain: Path, true: Path, tmp_path: Path) -> None:
    attribute_net().save_pretrained(tmp_path / "net")
    args = ["evaluate", "domain", tiny_pipeline_dir, domain, "--true", true, "--samples", 6, "--faces", 1]
    args += ["--attributes", tmp_path / "net"]
    code, out, err = run(*args, "--json", "--card")
    assert code == 0, err
    report = json.loads(out)
    assert (report["samples"], report["true_pictures"]) == (6, 3)
    assert report["discriminator_features"] is None  # the tiny model has none
    assert report["diversity"]["perceptual"] == "st-lpips-alex"
    written = read_card(Folder(domain)).metrics
    assert written[0].value == report["attribute_features"]["kernel_x1000"]
    assert written[0].dataset == "true, 3 pictures"
    code, out, err = run(*args, "--references", true, "--card")
    assert code == 0, err
    assert "around the references" in out
    assert "note: No discriminator features" in out
    assert len(read_card(Folder(domain)).metrics) == len(written)  # replaced, not added


def test_the_card_gets_the_metrics_of_its_own_domain(
    run: Any, tiny_pipe: RefineStylePipeline, domain: Path, true: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the model has another of the same name, which is meant by the name elsewhere."""
    other = TokenSet.from_pretrained(domain).scale(-3.0)
    RefineStylePipeline(tiny_pipe.generator, domains={"wild": other}).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    measured = {}
    for how in (["wild", "--card"], ["./wild"], ["wild"]):
        if how == ["wild"]:
            with pytest.warns(UserWarning, match=r"'wild' is the model's own domain here; .* is \./wild"):
                code, out, err = run("evaluate", "domain", "model", *how, "--true", true, "--samples", 4, "--json")
        else:
            code, out, err = run("evaluate", "domain", "model", *how, "--true", true, "--samples", 4, "--json")
        assert code == 0, err
        report = json.loads(out)
        measured[" ".join(how)] = report["attribute_features"] or report["diversity"]
    assert measured["wild --card"] == measured["./wild"] != measured["wild"]


def test_a_folder_that_is_called_as_a_bundled_model(
    tiny_pipe: RefineStylePipeline, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    domain.rename("mini-faces-128")
    found = find_domain(tiny_pipe, "mini-faces-128", elsewhere=True)  # as --card asks for it
    assert found.config == TokenSet.from_pretrained(tmp_path / "mini-faces-128").config


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"domain": "owner-less"}, "owner-less"),
        ({"--true": "absent-folder/of/pictures"}, "absent-folder"),
        ({"--samples": "1"}, "--samples"),
        ({"--card": ""}, ""),
    ],
)
def test_command_says_what_is_wrong(
    run: Any,
    tiny_pipeline_dir: Path,
    domain: Path,
    true: Path,
    change: dict[str, str],
    reason: str,
) -> None:
    options = {"--true": str(true), "--samples": "4", **{k: v for k, v in change.items() if k != "domain"}}
    place = change.get("domain", str(domain))
    if "--card" in change:
        place = "sketch"
    pairs = [word for pair in options.items() for word in pair if word]
    code, _, err = run("evaluate", "domain", tiny_pipeline_dir, place, *pairs)
    assert code in (1, 2)
    assert reason in err
    assert "Traceback" not in err


def test_command_refuses_a_domain_of_another_generator(
    run: Any,
    tiny_pipeline_dir: Path,
    true: Path,
    tmp_path: Path,
) -> None:
    other = replace(token_set(), base=tiny_generator(seed=5).fingerprint())
    other.save_pretrained(tmp_path / "other")
    code, _, err = run("evaluate", "domain", tiny_pipeline_dir, tmp_path / "other", "--true", true)
    assert code == 1
    assert "other" in err
