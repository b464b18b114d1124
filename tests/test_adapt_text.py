"""From a text to a domain, and CLIP beside pictures: the whole path, on tiny models of the real classes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import TINY, tiny_generator

from refinestyle_hub.adapt import (
    Adaptation,
    References,
    load_clips,
    picture_term,
    preset,
    text_adaptation,
    text_settings,
)
from refinestyle_hub.cards.facts import read_card
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.losses.clip import Clip
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.model_folder import Folder
from refinestyle_hub.tokens.token_set import TokenSet


pytest.importorskip("transformers")
from tiny_clip import save_tiny_clip  # noqa: E402


TEXTS = ("a photo", "a pencil sketch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    return load_clips([folder])


def values(tokens: TokenSet) -> torch.Tensor:
    return torch.cat([x.flatten().double() for _, x in sorted(tokens.state_dict().items())])


def test_a_run_turns_samples_where_the_text_points(clips: list[Clip]) -> None:
    run = text_adaptation(tiny_generator(), *TEXTS, clips, steps=40)
    before = run.direction(run.preview(which="plain"), run.preview()).mean()
    assert float(before) == pytest.approx(1.0, abs=1e-4)  # nothing has changed yet
    run.run()
    assert run.finished
    assert run.best.nearest < 0.5
    tokens = run.token_set({"name": "sketch"})
    told = tokens.metadata
    assert (told["method"], told["source_text"], told["target_text"]) == ("text adaptation", *TEXTS)
    assert (told["name"], told["pictures"]) == ("sketch", 0)
    assert told["objectives"] == {"clip tiny-clip": 1.0, "norm": text_settings().norm}  # no folder of this machine
    assert all(bool(x.pre.all()) for x in tokens.layers.values())  # it can be merged


def test_the_generator_stays_as_it_is(clips: list[Clip]) -> None:
    generator = tiny_generator()
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    text_adaptation(generator, *TEXTS, clips, steps=2).run()
    assert all(torch.equal(x, before[name]) for name, x in generator.state_dict().items())


def test_a_run_goes_on_as_if_it_had_not_stopped(clips: list[Clip]) -> None:
    def begin(**options: Any) -> Any:
        return text_adaptation(tiny_generator(), *TEXTS, clips, steps=6, **options)

    whole, first = begin(), begin()
    whole.run()
    first.step(2)
    second = begin(state=pickle.loads(pickle.dumps(first.state())))
    second.step(1)
    second.run()
    assert torch.equal(values(second.token_set()), values(whole.token_set()))
    with pytest.raises(ConfigError, match="not the same texts"):
        text_adaptation(tiny_generator(), "a photo", "an oil painting", clips, steps=6, state=first.state())


def test_without_a_discriminator_the_rates_are_those_by_pictures() -> None:
    """Of T tokens; which of two averages is kept is judged by CLIP, and not by features."""
    for tokens in (1, 4):
        known, found = preset(5, tokens, with_discriminator=False), text_settings(tokens, with_discriminator=False)
        for name in ("tokens", "rate", "colour_rate", "coarse", "fine", "lattice"):
            assert getattr(found, name) == getattr(known, name)
    assert found.slack == text_settings().slack < known.slack
    assert text_settings().rate == preset(5).rate


def test_layers_are_those_that_the_text_moves(clips: list[Clip]) -> None:
    run = text_adaptation(tiny_generator(), *TEXTS, clips, steps=1, codes=3)
    layers = set(run.token_set().layers)
    assert 0 < len(layers) < len(TINY.layers)
    chosen = {spec.code for spec in TINY.layers if spec.name in layers}
    assert len(chosen) == 3
    assert layers == {spec.name for spec in TINY.layers if spec.code in chosen}


def test_clip_beside_pictures(clips: list[Clip]) -> None:
    generator = tiny_generator()
    pictures = torch.tanh(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    references = References(pictures, ("a", "b", "c"), (False, False, False))
    term = picture_term(generator, references, clips, weight=0.5)
    settings = text_settings()  # the other terms say nothing here
    run = Adaptation(generator, references, steps=3, settings=settings, terms=[term])
    metrics = run.step()
    assert metrics["clip tiny-clip"] == pytest.approx(1.0, abs=1e-3)  # at first nothing has changed
    assert run.step(2)["clip tiny-clip"] < 1
    assert run.token_set().metadata["objectives"]["clip tiny-clip"] == 0.5
    assert preset(3).sliced_pictures > 0


def test_pipeline_and_file(tiny_pipe: RefineStylePipeline, folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    state = tmp_path / "run" / "state.safetensors"
    made = tiny_pipe.adapt_text(
        *TEXTS,
        clip=[folder],
        name="sketch",
        steps=2,
        state=state,
        on_step=lambda step, steps, f: bool(seen.append(step)),
    )
    assert seen == [1, 2]
    made.save_pretrained(tmp_path / "sketch")
    known = TokenSet.from_pretrained(tmp_path / "sketch")
    assert known.metadata["target_text"] == "a pencil sketch"
    assert known.metadata["left_out"] == []  # no term asks for pictures
    assert known.metadata["objectives"]["lattice"] == preset(5, with_discriminator=False).lattice > 0
    assert torch.equal(values(known), values(made))
    again = tiny_pipe.adapt_text(*TEXTS, clip=[folder], steps=2, state=state)  # it is done already
    assert torch.equal(values(again), values(made))
    picture = tiny_pipe.generate([0], domains={made: 1.0}, output_type="pt")
    assert picture.shape == (1, 3, 32, 32)


def test_no_clip_or_no_text_is_an_error(tiny_pipe: RefineStylePipeline, folder: Path) -> None:
    with pytest.raises(ConfigError, match="at least one CLIP"):
        tiny_pipe.adapt_text(*TEXTS, clip=[])
    with pytest.raises(ConfigError, match="text is needed"):
        tiny_pipe.adapt_text("", "sketch", clip=[folder])
    with pytest.raises(ConfigError, match="cannot be chosen"):
        tiny_pipe.adapt_text(*TEXTS, clip=[folder], codes=99)


# --- The command ----------------------------------------------------------------------------------------------------


def test_command(run: Any, tiny_pipeline_dir: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sketch"
    args = ["adapt", tiny_pipeline_dir, "--text", "pencil sketch", "--source-text", "photo", "--clip", folder]
    code, text, err = run(*args, "--name", "sketch", "--steps", 2, "--out", out, "--json")
    assert code == 0, err
    assert "pictures" not in err  # a text needs none
    assert json.loads(text)["best_step"] == 2
    made = TokenSet.from_pretrained(out).metadata
    assert made["source_text"] == "photo"
    assert set(made["objectives"]) == {"clip tiny-clip", "lattice", "norm"}  # this model has no discriminator
    card = read_card(Folder(out))
    assert 'to "pencil sketch"' in card.data
    assert "--text 'pencil sketch' --source-text photo --clip CLIP --name sketch" in card.training
    assert [picture.file for picture in card.pictures] == ["preview.png"]
    assert (out / "preview.png").is_file()
    assert str(tmp_path) not in (out / "card.json").read_text() + (out / "config.json").read_text()


def test_command_with_pictures_and_clip(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tiny_pipeline_dir: Path,
    folder: Path,
    tmp_path: Path,
) -> None:
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "teal.png")
    out = tmp_path / "teal"
    args = ["adapt", tiny_pipeline_dir, tmp_path / "teal.png", "--align", "none", "--clip", folder, "--steps", 1]
    code, _, err = run(*args, "--name", "teal", "--rights", "I drew it", "--out", out)
    assert code == 0, err
    assert TokenSet.from_pretrained(out).metadata["objectives"]["clip tiny-clip"] == 1.0
    card = read_card(Folder(out))
    assert card.data.endswith("as the maker states: I drew it.")
    assert TokenSet.from_pretrained(out).metadata["rights"] == "I drew it"
    assert card.base_model is None  # a folder, which nobody else could load


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "Give pictures"),
        (["--text", "sketch"], "needs --clip"),
        (["picture.png", "--text", "sketch", "--clip", "CLIP"], "takes the place of pictures"),
        (["picture.png", "--codes", "3"], "give --text"),
        (["--text", "sketch", "--clip", "absent-clip"], "absent-clip"),
    ],
)
def test_command_says_what_is_wrong(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tiny_pipeline_dir: Path,
    tmp_path: Path,
    args: list[str],
    reason: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, _, err = run("adapt", tiny_pipeline_dir, *args, "--name", "x", "--out", tmp_path / "x")
    assert code in (1, 2)
    assert reason in err
    assert "Traceback" not in err
