"""The command line, run in process; what it prints, writes and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from tiny import token_set

from refinestyle_hub.cli import options
from refinestyle_hub.cli.arguments import load_domains, parse_edits, parse_seeds
from refinestyle_hub.config import EncoderNetwork, StyleGAN2Config
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import ConfigError
from refinestyle_hub.faces.dlib_models import FaceModels
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.token_set import TokenSet
from refinestyle_hub.train.attribute_settings import AttributeTraining
from refinestyle_hub.train.encoder_settings import EncoderTraining
from refinestyle_hub.train.generator_settings import GeneratorTraining


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def pixels(file: Path) -> Any:
    with Image.open(file) as picture:
        return np.array(picture)


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.argv = ['refinestyle', '--help']\ntry:\n  from refinestyle_hub.cli import main; main()\n"
    code += "finally:\n  heavy = {'torch', 'gradio', 'dlib', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("generate", "invert", "edit", "train", "info", "demo"):
        assert command in done.stdout


def test_generate(run: Any, tiny_pipeline_dir: Path, tiny_pipe: RefineStylePipeline, tmp_path: Path) -> None:
    args = ["generate", tiny_pipeline_dir, "--seeds", "0-2,7", "--trunc", "0.5", "--out", tmp_path, "--json"]
    code, out, _ = run(*args)
    assert code == 0
    report = json.loads(out)
    assert report["seeds"] == [0, 1, 2, 7]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["seed0000.png", "seed0001.png", "seed0002.png", "seed0007.png"]
    assert [Path(file).name for file in report["files"]] == names
    wanted = tiny_pipe.generate([7], truncation=0.5)[0]
    assert np.array_equal(pixels(tmp_path / "seed0007.png"), np.asarray(wanted))
    one = run("generate", tiny_pipeline_dir, "--seeds", "7", "--out", tmp_path)[1]
    assert one == f"1 picture in {tmp_path}\n"


def test_from_a_photo_to_an_edit_in_it(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, astronaut: Image.Image
) -> None:
    photo = tmp_path / "photo.png"
    astronaut.save(photo)
    out = tmp_path / "face"
    code, text, _ = run("invert", tiny_pipeline_dir, photo, "--steps", 4, "--out", out)
    assert code == 0
    assert "st-lpips-alex" in text
    written = {"crop.png", "reconstruction.png", "inversion.safetensors", "report.json"}
    assert {path.name for path in out.iterdir()} == written
    report = json.loads((out / "report.json").read_text())
    assert report["lpips_backbone"] == "st-lpips-alex"
    assert {"mse", "lpips", "identity_distance", "seconds", "seed", "w_plus_lpips"} <= set(report)
    assert str(tmp_path) not in json.dumps(report)  # a report may be shared: it names no folder of this machine

    face = out / "inversion.safetensors"
    assert run("edit", tiny_pipeline_dir, face, "--set", "smile=0", "--out", out / "same.png")[0] == 0
    assert np.array_equal(pixels(out / "same.png"), pixels(out / "reconstruction.png"))
    args = ["--set", "smile=1.5", "--set", "age=-1", "--paste", photo, "--out", out / "edit.png", "--json"]
    code, text, _ = run("edit", tiny_pipeline_dir, face, *args)
    assert json.loads(text)["edits"] == {"smile": 1.5, "age": -1.0}
    assert pixels(out / "edit.png").shape == (512, 512, 3)


def test_aligned_and_w_plus_alone(run: Any, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    crop = tmp_path / "crop.png"
    Image.new("RGB", (32, 32), "gray").save(crop)
    args = ["--aligned", "--w-only", "--steps", 2, "--seed", 5, "--out", tmp_path / "face", "--json"]
    code, out, _ = run("invert", tiny_pipeline_dir, crop, *args)
    assert code == 0
    report = json.loads(out)
    assert (report["w_steps"], report["token_steps"], report["seed"]) == (2, 0, 5)
    assert report["identity_distance"] is None  # there is no face in grey
    assert Inversion.from_pretrained(tmp_path / "face" / "inversion.safetensors").tokens is None


def test_as_many_steps_as_the_help_says(
    run: Any, tiny_pipe: RefineStylePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo by itself like one in a folder: steps follow an encoder's answer."""
    encoder = Encoder.for_generator(tiny_pipe.generator, widths=(8, 8, 8, 16), width=16, heads=2, depth=1, rank=2)
    RefineStylePipeline(tiny_pipe.generator, encoder=encoder).save_pretrained(tmp_path / "model")
    monkeypatch.setattr("refinestyle_hub.inversion.inversion_settings.STEPS_AFTER_ENCODER", 3)
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "crop.png")
    args = ["invert", tmp_path / "model", tmp_path / "crop.png", "--aligned", "--out", tmp_path / "face", "--json"]
    for more, wanted in (([], (0, 3)), (["--w-steps", 2], (2, 1)), (["--w-only"], (3, 0))):
        code, out, err = run(*args, *more)
        assert code == 0, err
        assert tuple(json.loads(out)[kind] for kind in ("w_steps", "token_steps")) == wanted
    code, _, err = run(*args, "--w-steps", 4)
    assert (code, "4 of 3 cannot be" in err) == (1, True)
    code, _, err = run(*args, "--w-only", "--w-steps", 1)
    assert (code, "give --steps" in err) == (2, True)


def test_aligned_pictures_need_no_dlib(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    monkeypatch.setattr("refinestyle_hub.faces.detect.default_models", FaceModels)
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "crop.png")
    args = ["--aligned", "--w-only", "--steps", 0, "--out", tmp_path / "face", "--json"]
    code, out, _ = run("invert", tiny_pipeline_dir, tmp_path / "crop.png", *args)
    assert code == 0
    assert json.loads(out)["identity_distance"] is None


def test_info(run: Any, tiny_pipeline_dir: Path) -> None:
    code, out, _ = run("info", tiny_pipeline_dir, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["resolution"] == 32
    assert "smile" in report["directions"]
    assert "32 x 32 pixels" in run("info", tiny_pipeline_dir)[1]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["generate", "MODEL", "--seeds", "1-x", "--out", "OUT"], "neither a seed"),
        (["generate", "MODEL", "--seeds", "9-3", "--out", "OUT"], "neither a seed"),
        (["generate", "MODEL"], "Missing option"),
        (["edit", "MODEL", "x.safetensors", "--set", "smile", "--out", "a.png"], "NAME=STRENGTH"),
        (["edit", "MODEL", "x.safetensors", "--set", "smile=nan", "--out", "a.png"], "NAME=STRENGTH"),
        (["edit", "MODEL", "x.safetensors", "--out", "a.gif"], ".png, .jpg"),
        (["invert", "MODEL", "x.png", "--steps", "-1", "--out", "OUT"], "--steps"),
        (["invert", "MODEL", "x.png", "--seed", str(2**32), "--out", "OUT"], "--seed"),
        (["invert", "MODEL", "x.png", "--out", __file__], "Invalid value for '--out'"),
        (["generate", "MODEL", "--out", __file__], "Invalid value for '--out'"),
        (["adapt", "MODEL", "x.png", "--name", " ", "--out", "OUT"], "The name is empty"),
        (["edit", "MODEL", str(Path(__file__).parent), "--out", "a.png"], "Invalid value for 'INVERSION'"),
        (["nonsense"], "No such command"),
        (["train", "nonsense"], "No such command"),
    ],
)
def test_wrong_usage_ends_with_2(run: Any, args: list[str], reason: str) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert not out
    assert reason in err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["info", "no-such-model"], "no-such-model"),
        (["generate", "MODEL", "--trunc", "nan", "--out", "TMP/out"], "finite"),
        (["invert", "MODEL", "TMP/none.png", "--out", "TMP/out"], "There is no picture file"),
        (["edit", "MODEL", "TMP/none.safetensors", "--out", "TMP/a.png"], "none.safetensors"),
        (["train", "generator", "TMP/none", "--out", "TMP/out"], "none"),
    ],
)
def test_errors_are_three_lines_at_most_without_a_traceback(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, args: list[str], reason: str
) -> None:
    places = {"MODEL": str(tiny_pipeline_dir)}
    code, out, err = run(*(places.get(arg, arg.replace("TMP", str(tmp_path))) for arg in args))
    assert code == 1
    assert not out
    lines = err.strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[0].startswith("error: ")
    assert reason in lines[0]


@pytest.mark.parametrize("device", ["nonsense", "meta", "cpu:7:7"])
def test_devices_that_are_none(run: Any, tiny_pipeline_dir: Path, tmp_path: Path, device: str) -> None:
    code, _, err = run("generate", tiny_pipeline_dir, "--device", device, "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith(f"error: The device '{device}' cannot be used here")
    assert err.count("\n") == 1


def test_ctrl_c_before_there_is_anything_to_keep(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "crop.png")
    steps = []

    def interrupted(self: Generator, *args: Any, **options: Any) -> None:
        steps.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "forward", interrupted)
    code, out, err = run("invert", tiny_pipeline_dir, tmp_path / "crop.png", "--aligned", "--out", tmp_path / "out")
    assert steps
    assert code == 130
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")
def test_ctrl_c_while_inverting_keeps_the_best_so_far(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "crop.png")
    where = ["invert", tiny_pipeline_dir, tmp_path / "crop.png", "--aligned", "--w-steps", 2]
    forward, kept = Generator.forward, tmp_path / "out" / "inversion.safetensors"

    def interrupted(self: Generator, *args: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, *args, **options)

    with monkeypatch.context() as pressed:
        pressed.setattr(Generator, "forward", interrupted)
        code, text, _ = run(*where, "--steps", 400, "--out", tmp_path / "out")
    assert (code, "stopped, with the best so far: mse" in text) == (130, True)
    report = Inversion.from_pretrained(kept).report
    assert (report["stopped"], report["w_steps"], report["token_steps"]) == ("cancelled", 1, 0)

    assert run(*where, "--steps", 4, "--out", tmp_path / "out")[0] == 0  # the same photo, to its end
    whole = kept.read_bytes()
    with monkeypatch.context() as pressed:
        pressed.setattr(Generator, "forward", interrupted)
        code, _, err = run(*where, "--steps", 400, "--out", tmp_path / "out")
    assert (code, "before is kept" in err, kept.read_bytes() == whole) == (130, True, True)


def test_what_is_refused_leaves_nothing_behind(run: Any, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    assert run("invert", tiny_pipeline_dir, tmp_path / "black.png", "--out", tmp_path / "out")[0] == 1
    where = [tiny_pipeline_dir, tmp_path / "black.png", "--out", tmp_path / "out"]
    code, _, err = run("invert", *where, "--aligned", "--face", 1)
    assert (code, "An aligned crop has one face" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_seeds_and_edits_are_parsed() -> None:
    assert parse_seeds("3, 1-2,3") == [3, 1, 2]
    assert parse_edits(["smile=1.5", "age=-2", "smile=1"]) == {"smile": 2.5, "age": -2.0}
    with pytest.raises(typer.BadParameter):
        parse_seeds("0-99999999")


def test_a_name_is_the_models_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = token_set()
    here.save_pretrained("wild")
    here.save_pretrained("other")
    pipe = RefineStylePipeline(StyleGAN2Generator(StyleGAN2Config(32, 8, 8, 2, {4: 6, 8: 4, 16: 2, 32: 2})))
    pipe.domains["wild"] = here
    with pytest.warns(UserWarning, match=r"'wild' is the model's own domain here; .* is \./wild"):
        assert load_domains(pipe, {"wild": 0.5}) == {"wild": 0.5}
    for place in ("./wild", str(tmp_path / "wild"), "other"):
        assert all(isinstance(found, TokenSet) for found in load_domains(pipe, {place: 0.5}))


# --- Training ---


COMMANDS = {"generator": GeneratorTraining, "encoder": EncoderTraining, "attributes": AttributeTraining}


@pytest.mark.parametrize(("command", "config"), COMMANDS.items(), ids=COMMANDS)
def test_every_setting_is_an_option(run: Any, command: str, config: type) -> None:
    code, out, _ = run("train", command, "--help")
    assert code == 0
    network = fields(EncoderNetwork) if command == "encoder" else ()
    for field in (*fields(config), *network):
        if field.name not in ("data", "out", "network"):
            assert f"--{field.name.replace('_', '-')}" in out


def test_options_are_read_as_their_fields_say(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    @options.with_options(GeneratorTraining, skip=("data", "out"))
    def command(name: Annotated[str, typer.Argument()], *, given: dict[str, Any]) -> None:
        seen.update(given)

    app = typer.Typer()
    app.command()(command)
    app(["x", "--channels", "4:8, 8:6", "--no-flip", "--batch", "4", "--r1-gamma", "0.1"], standalone_mode=False)
    assert seen == {"channels": {"4": 8, "8": 6}, "flip": False, "batch": 4, "r1_gamma": 0.1}
    places = {"data": "d", "out": "o"}
    (tmp_path / "c.json").write_text('{"batch": 2, "seed": 7}')
    made = options.build(GeneratorTraining, seen | places, tmp_path / "c.json", {"seed": 1, "mixing": 0.5})
    assert (made.channels, made.flip, made.batch, made.seed, made.mixing) == ({4: 8, 8: 6}, False, 4, 7, 0.5)
    (tmp_path / "c.json").write_text('{"bach": 2}')
    with pytest.raises(ConfigError, match="bach"):
        options.build(GeneratorTraining, places, tmp_path / "c.json")


def test_a_run_goes_on_with_its_own_settings_and_ends_as_a_model(run: Any, portraits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sizes = ["--resolution", 16, "--channels", "4:8,8:8,16:8", "--z-dim", 8, "--mapping-layers", 1, "--batch", 4]
    once = ["train", "generator", portraits, "--out", out, "--seed", 3, "--cooldown", 0, "--grid-every", 1000]
    code, text, err = run(*once, *sizes, "--pictures", 4, "--json")
    assert code == 0, err
    assert json.loads(text)["pictures"] == 4
    code, text, err = run("train", "generator", portraits, "--out", out, "--pictures", 8, "--json")  # sizes are known
    assert code == 0, err
    assert json.loads(text)["pictures"] == 8
    pipe = RefineStylePipeline.from_pretrained(out)
    assert pipe.generator.config.resolution == 16
    assert pipe.discriminator is not None


@pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_run_after_a_whole_step(
    run: Any, portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: signal.Signals
) -> None:
    """So does the signal of schedulers; as a run of another kind it does not go on."""
    from refinestyle_hub.train.generator_trainer import GeneratorTrainer

    step = GeneratorTrainer.step

    def interrupted(self: GeneratorTrainer, *args: Any) -> dict[str, float]:
        os.kill(os.getpid(), which)
        return step(self, *args)

    monkeypatch.setattr(GeneratorTrainer, "step", interrupted)
    sizes = ["--resolution", 16, "--channels", "4:8,8:8,16:8", "--z-dim", 8, "--mapping-layers", 1, "--batch", 4]
    before = signal.getsignal(which)
    code, out, err = run("train", "generator", portraits, "--out", tmp_path / "run", *sizes, "--pictures", 400)
    assert code == 130
    assert "Traceback" not in err
    assert (tmp_path / "run" / "state.safetensors").is_file()
    assert signal.getsignal(which) is before
    code, _, err = run("train", "encoder", portraits, "--model", "mini-faces-128", "--out", tmp_path / "run")
    assert (code, "a run of another kind" in err) == (1, True)


def test_a_damaged_state_is_named(run: Any, portraits: Path, tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    code, _, err = run("train", "generator", portraits, "--out", tmp_path)
    assert code == 1
    assert "is not the state of a training run" in err


def test_the_demo_is_found_or_its_absence_explained(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("runpy.run_path", lambda path, run_name: started.append(path))
    monkeypatch.setenv("REFINESTYLE_MODEL", "")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run("demo", "--model", "mine", "--port", 7999)[0] == 0
    assert [Path(path).name for path in started] == ["app.py"]
    assert (os.environ["REFINESTYLE_MODEL"], os.environ["GRADIO_SERVER_PORT"]) == ("mine", "7999")
