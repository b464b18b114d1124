"""From pictures to a domain: `pipe.adapt`, the pictures it takes, and the command `adapt`."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapt_parts
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_generator, token_set
from torch import Tensor

from refinestyle_hub.adapt import (
    Adaptation,
    AdaptSettings,
    AdaptState,
    Context,
    References,
    adaptation,
    few_shot,
    load_references,
)
from refinestyle_hub.cards.facts import Card, Metric, dump_card, read_card
from refinestyle_hub.cli import console
from refinestyle_hub.cli.arguments import parse_domains
from refinestyle_hub.config import DiscriminatorConfig
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError, DivergedError, PictureError
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.images import contact_sheet, to_images
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.model_folder import Folder
from refinestyle_hub.tokens.token_set import TokenSet


@pytest.fixture(scope="module")
def pipe() -> RefineStylePipeline:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        discriminator = Discriminator(DiscriminatorConfig(32, channels={4: 4, 8: 4, 16: 4, 32: 4})).eval()
    return RefineStylePipeline(tiny_generator(), discriminator)


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    return adapt_parts.drawings()


# --- Pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 21])
def test_too_few_or_too_many(pipe: RefineStylePipeline, drawings: list[Image.Image], count: int) -> None:
    with pytest.raises(ConfigError, match=f"1 to 20 pictures, not {count}"):
        pipe.adapt(drawings[:1] * count, align="none")


def test_a_bad_picture_is_named(pipe: RefineStylePipeline, drawings: list[Image.Image], tmp_path: Path) -> None:
    bad = tmp_path / "notes.png"
    bad.write_text("no picture")
    with pytest.raises(PictureError, match=r"^notes\.png: .*text file"):
        pipe.adapt([drawings[0], bad], align="none")
    with pytest.raises(PictureError, match="picture 2: "):
        pipe.adapt([drawings[0], b"\x89PNG rubbish"], align="none")
    with pytest.raises(ConfigError, match="align"):
        pipe.adapt(drawings, align="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"settings": {}}, r"^settings must be AdaptSettings.*not \{\}"),
        ({"settings": "fast"}, "^settings must be AdaptSettings.*'fast'"),
        ({"state": "run/state.safetensors"}, r"^state must be an AdaptState, not of type str.*AdaptState\.load"),
        ({"terms": None}, "^terms must be a list of terms, not None"),
        ({"terms": [lambda context: context.adapted.mean()]}, "^A term has a name, a weight and a call, which <func"),
    ],
)
def test_arguments_of_another_kind(
    pipe: RefineStylePipeline, drawings: list[Image.Image], wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        pipe.adaptation(drawings, steps=1, align="none", **wrong)


# --- The verb -------------------------------------------------------------------------------------------------------


def test_adapt_returns_a_domain_that_says_how_it_was_made(
    pipe: RefineStylePipeline, drawings: list[Image.Image], tmp_path: Path
) -> None:
    seen: list[int] = []
    domain = pipe.adapt(
        drawings,
        name="noise",
        steps=2,
        tokens=2,
        align="none",
        seed=3,
        on_step=lambda step, steps, metrics: seen.append(step),
        state=tmp_path / "state.safetensors",
    )
    assert seen == [1, 2]
    assert domain.base == pipe.fingerprint
    known = {"name": "noise", "method": "few-shot adaptation", "pictures": 5, "seed": 3, "left_out": []}
    assert known.items() <= domain.metadata.items()
    domain.save_pretrained(tmp_path / "noise")
    loaded = TokenSet.from_pretrained(tmp_path / "noise")
    assert loaded.metadata == domain.metadata
    assert {x.rank for x in loaded.layers.values()} == {2}
    again = pipe.adapt(drawings, steps=2, tokens=2, align="none", seed=3, state=tmp_path / "state.safetensors")
    assert all(torch.equal(t, domain.state_dict()[name]) for name, t in again.state_dict().items())  # no step was left
    with pytest.raises(ConfigError, match="another run"):
        pipe.adapt(drawings[:4] * 2, steps=2, align="none", state=tmp_path / "state.safetensors")
    assert pipe.domains == {}
    silent = pipe.adapt(drawings, rights="  ", steps=1, tokens=2, align="none")
    assert "rights" not in silent.metadata


def test_a_run_that_diverges_hands_over_what_it_reached(
    pipe: RefineStylePipeline, drawings: list[Image.Image]
) -> None:
    class Bursts:
        name, weight = "bursts", 1.0

        def __call__(self, context: Context) -> Tensor:
            return context.adapted.mean() / (0.0 if context.step == 2 else 1.0)

    settings = AdaptSettings(batch=2, check_every=1)
    with pytest.raises(DivergedError) as caught:
        pipe.adapt(drawings, name="mine", rights="Mine.", steps=3, align="none", settings=settings, terms=[Bursts()])
    assert caught.value.kept is not None
    assert {"name": "mine", "rights": "Mine.", "steps": 2}.items() <= caught.value.kept.metadata.items()


def test_an_encoder_saves_the_inversions() -> None:
    """What an encoder reads is taken for w+ of the references; nothing is optimised."""

    generator = tiny_generator()
    encoder = Encoder.for_generator(generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1).eval()
    discriminator = Discriminator(DiscriminatorConfig(32, channels=dict.fromkeys((4, 8, 16, 32), 4)))
    pipe = RefineStylePipeline(generator, discriminator, encoder=encoder)
    run = pipe.adaptation(References(torch.zeros(1, 3, 32, 32), ("a",), (False,)), steps=1)
    assert run.inversions is not None
    with torch.no_grad():
        assert torch.equal(run.inversions, encoder.codes(torch.zeros(1, 3, 32, 32)))
    assert run.perceptual is None
    assert "reconstruction" in run.step()


# --- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(pipe: RefineStylePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(drawings: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drawings")
    for place, drawing in enumerate(drawings):
        drawing.save(folder / f"{place}.png")
    return sorted(folder.iterdir())


def pressed_after(steps: int) -> Any:
    """Ctrl-C as if pressed during that step."""

    @contextmanager
    def interruptible() -> Iterator[Callable[[], bool]]:
        left = iter(range(steps))
        yield lambda: next(left, None) == steps - 1

    return interruptible


def test_the_command_stops_goes_on_and_ends_the_same(
    run: Any, model: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["adapt", model, *files, "--name", "noise", "--steps", 4, "--tokens", 2, "--align", "none"]
    code, _, _ = run(*args, "--out", tmp_path / "one", "--preview-every", 2)
    assert code == 0
    names = {str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*") if p.is_file()}
    run_files = {"state.safetensors", "report.json", "step0002.png", "step0004.png"}
    made = {"config.json", "tokens.safetensors", "preview.png", "card.json"}
    assert names == made | {f".run/{name}" for name in run_files}
    with Image.open(tmp_path / "one" / "preview.png") as sheet:
        assert sheet.size == (8 * 34 - 2, 2 * 34 - 2)  # the samples before and after

    with monkeypatch.context() as patch:
        patch.setattr(console, "interruptible", pressed_after(3))
        code, out, _ = run(*args, "--out", tmp_path / "two", "--json")
    report = json.loads(out)
    assert code == 130
    assert (report["steps"], report["planned_steps"], report["best_step"]) == (3, 4, 3)
    assert TokenSet.from_pretrained(tmp_path / "two").metadata["steps"] == 3
    code, out, _ = run(*args, "--out", tmp_path / "two", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 4
    for name in ("config.json", "tokens.safetensors", "preview.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    monkeypatch.setattr("refinestyle_hub.adapt.load_references", lambda *_: pytest.fail("pictures were read"))
    for option, what in (("--seed", "seed"), ("--tokens", "settings (tokens)"), ("--steps", "steps")):
        code, _, err = run(*args[:-2], option, 9, "--out", tmp_path / "two")
        assert code == 1
        assert f"state.safetensors is of another run: not the same {what}." in err

    out = tmp_path / "drawn"
    assert run("generate", model, "--seeds", 1, "--domain", f"{tmp_path / 'one'}=0.5", "--out", out)[0] == 0
    domain = TokenSet.from_pretrained(tmp_path / "one")
    wanted = RefineStylePipeline.from_pretrained(model).generate([1], domains={domain: 0.5})[0]
    with Image.open(out / "seed0001.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(wanted))
    code, _, err = run("generate", model, "--seeds", 1, "--domain", "nowhere", "--out", out)
    assert (code, "No domain 'nowhere'" in err) == (1, True)


def test_a_model_without_a_discriminator_leaves_nothing_out(
    run: Any, tiny_pipeline_dir: Path, files: list[Path], tmp_path: Path
) -> None:
    args = ["--name", "n", "--steps", 1, "--align", "none", "--out", tmp_path / "n", "--json"]
    code, out, notes = run("adapt", tiny_pipeline_dir, *files, *args)
    assert (code, json.loads(out)["left_out"]) == (0, [])
    assert "1 step to go: about" in notes  # said before the run
    assert "No face was aligned" in notes


def test_folders_of_pictures(run: Any, tiny_pipeline_dir: Path, files: list[Path], tmp_path: Path) -> None:
    args = ["--name", "n", "--steps", 1, "--align", "none", "--out", tmp_path / "n", "--json"]
    code, out, _ = run("adapt", tiny_pipeline_dir, files[0].parent, *args)
    assert code == 0
    assert json.loads(out)["pictures"]["as_they_are"] == [file.name for file in files]
    out = run("adapt", tiny_pipeline_dir, files[0].parent, *args[:-2], tmp_path / "a style")[1]
    assert f"--domain '{tmp_path / 'a style'}' draws with it" in out
    torn = Path(shutil.copytree(files[0].parent, tmp_path / "style")) / "torn.png"
    torn.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out, The file is empty .*torn\.png"):
        RefineStylePipeline.from_pretrained(tiny_pipeline_dir).adaptation(torn.parent, align="none")
    code, out, notes = run("adapt", tiny_pipeline_dir, torn.parent, *args)
    assert (code, list(json.loads(out)["pictures"]["unreadable"])) == (0, [str(torn)])
    assert "left out, The file is empty" in notes
    (tmp_path / "empty").mkdir()
    code, _, err = run("adapt", tiny_pipeline_dir, tmp_path / "empty", *args)
    assert (code, "no pictures in" in err) == (1, True)


def test_the_preview_shows_what_the_file_holds(
    run: Any, model: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the last average, where an earlier one was better."""
    monkeypatch.setattr(Adaptation, "_distance", lambda self, tokens: 1.0 if self.done <= 2 else 9.0)
    monkeypatch.setattr(adaptation, "preset", lambda *_: AdaptSettings(batch=2, check_every=2))
    monkeypatch.setattr(few_shot, "preset", lambda *_: AdaptSettings(batch=2, check_every=2))
    out = tmp_path / "n"
    code, text, _ = run("adapt", model, *files, "--name", "n", "--steps", 4, "--align", "none", "--out", out, "--json")
    assert (code, json.loads(text)["best_step"]) == (0, 2)
    going = RefineStylePipeline.from_pretrained(model).adaptation(
        load_references(files, 32, "none"), steps=4, state=AdaptState.load(out / ".run" / "state.safetensors")
    )
    drawn = [going.preview(which=which) for which in ("plain", "best", "now")]
    assert not torch.equal(drawn[1], drawn[2])
    wanted = contact_sheet([*to_images(drawn[0]), *to_images(drawn[1])], columns=8)
    with Image.open(out / "preview.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(wanted))


def test_nothing_of_the_users_is_overwritten(run: Any, model: Path, files: list[Path], tmp_path: Path) -> None:
    args = ["adapt", model, files[0].parent, "--name", "n", "--steps", 1, "--align", "none", "--out"]
    shared = tmp_path / "downloaded"
    token_set().save_pretrained(shared)
    before = {p: p.read_bytes() for folder in (model, shared) for p in folder.rglob("*") if p.is_file()}
    for place in (model, model / "generator", shared):
        code, _, err = run(*args, place)
        words = " ".join(err.replace("│", " ").split())  # as the frame breaks them
        assert (code, "Name another folder" in words) == (2, True)
    for given in ([files[0].parent], files):  # the folder, or what a shell makes of its *.png
        code, _, err = run(*args[:2], *given, *args[3:], files[0].parent)
        assert (code, "a folder of its own" in err) == (2, True)
    code, _, err = run(*args, files[0])
    assert (code, "is a file" in err) == (2, True)
    assert before == {p: p.read_bytes() for p in before}


def test_the_card_of_a_domain_made_again(run: Any, model: Path, files: list[Path], tmp_path: Path) -> None:
    """Figures are those of the tokens beside them; rights once stated stay; the command is one to paste."""
    out = tmp_path / "n"
    args = ["adapt", model, *files, "--name", "it's mine", "--align", "none", "--out", out, "--steps"]

    def card() -> Card:
        return read_card(Folder(out))

    assert run(*args, 2, "--rights", "  ")[0] == 0  # states nothing
    assert "rights" not in TokenSet.from_pretrained(out).metadata
    assert card().data.endswith("as the maker states: nothing is stated.")
    assert run(*args, 2, "--rights", "Drawn by me.")[0] == 0
    measured = replace(card(), metrics=(Metric("kernel distance", 1.0, "mine"),))
    (out / "card.json").write_bytes(dump_card(measured))
    assert run(*args, 2, "--rights", " ")[0] == 0
    assert card().metrics == measured.metrics
    assert "Drawn by me." in card().data
    assert TokenSet.from_pretrained(out).metadata["rights"] == "Drawn by me."
    before = (out / "config.json").read_bytes()
    code, _, err = run(*args[:-6], "theirs", *args[-5:], 2)
    assert (code, "Keep its name, or name another folder" in " ".join(err.replace("│", " ").split())) == (2, True)
    assert (out / "config.json").read_bytes() == before
    (out / "config.json").write_text("{")  # damaged, and written anew by a run that goes on
    assert run(*args, 2)[0] == 0
    assert TokenSet.from_pretrained(out).metadata["name"] == "it's mine"
    words = shlex.split(card().training)
    assert words[:5] == ["refinestyle", "adapt", "MODEL", "PICTURES...", "--align"]
    assert words[words.index("--name") + 1] == "it's mine"

    (out / ".run" / "state.safetensors").unlink()
    assert run(*args, 1)[0] == 0  # begun anew
    assert card().metrics == ()
    assert "nothing is stated" in card().data


@pytest.mark.parametrize("at", [12, 25])  # between two looks at fixed samples, and at one
def test_the_command_keeps_what_a_diverging_run_reached(
    run: Any, model: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    step = Adaptation._step

    def bursts(self: Adaptation) -> dict[str, float]:
        if self.done == at:
            raise DivergedError(f"The run diverged at step {at + 1} of 30.")
        return step(self)

    monkeypatch.setattr(Adaptation, "_step", bursts)
    out = tmp_path / "n"
    code, shown, err = run("adapt", model, *files, "--name", "n", "--steps", 30, "--align", "none", "--out", out)
    assert (code, f"diverged at step {at + 1}" in err, "continues" in shown) == (1, True, False)
    assert TokenSet.from_pretrained(out).metadata["steps"] == at


def test_domains_on_the_command_line() -> None:
    import typer

    assert parse_domains(["sketch", "a/b=0.5", "x=y=-1"]) == {"sketch": 1.0, "a/b": 0.5, "x=y": -1.0}
    assert parse_domains(["sketch=0.5", "sketch=0.25"]) == {"sketch": 0.75}  # domains add
    for bad in ("sketch=", "=1", "sketch=strong", "sketch=nan", ""):
        with pytest.raises(typer.BadParameter, match="DOMAIN"):
            parse_domains([bad])
