"""Folders of pictures: skipped, resumed, shared."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from run_parts import in_two_processes
from tiny import TINY, tiny_encoder, tiny_generator

from refinestyle_hub.cli import main
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.errors import BaseMismatchError, ConfigError, MissingDependencyError, ModelFileError, PictureError
from refinestyle_hub.faces.photo import Photo
from refinestyle_hub.images import to_tensor
from refinestyle_hub.inversion.crops import invert_crops
from refinestyle_hub.inversion.folder import FolderReport, invert_folder
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.inversion.inversion_settings import InversionSettings
from refinestyle_hub.pipeline import RefineStylePipeline


@pytest.fixture(scope="module")
def pipe() -> RefineStylePipeline:
    return RefineStylePipeline(generator := tiny_generator(), encoder=tiny_encoder(generator))


@pytest.fixture
def folder(tmp_path: Path, astronaut: Image.Image) -> Path:
    """Five pictures of one face, two names of one stem, and one that is none."""
    face = astronaut.crop((140, 15, 315, 190))
    for i, name in enumerate(("a.png", "a.jpg", "more/b.png", "more/c.png", "d.webp")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        face.rotate(5 * i).save(path)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "notes.txt").write_text("no picture either, and nobody thinks so")
    return tmp_path / "photos"


def inverted(pipe: RefineStylePipeline, folder: Path, out: Path, **how: Any) -> FolderReport:
    return invert_folder(pipe.generator, folder, out, encoder=pipe.encoder, perceptual=pipe.perceptual, **how)


def test_one_process_needs_no_accelerate(
    pipe: RefineStylePipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert len(inverted(pipe, folder, tmp_path / "out", aligned=True, steps=0).inverted) == 5
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingDependencyError, match="Sharing work between processes needs accelerate"):
        inverted(pipe, folder, tmp_path / "out", aligned=True, steps=0)


def test_every_picture_gets_a_file_and_what_cannot_is_listed(
    pipe: RefineStylePipeline, folder: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    report = inverted(
        pipe, folder, tmp_path / "out", aligned=True, steps=3, batch=4, on_picture=lambda *call: calls.append(call)
    )
    names = ("a.jpg", "a.png", "d.webp", "more/b.png", "more/c.png")
    assert (report.inverted, report.kept, list(report.skipped)) == (names, (), ["broken.png"])
    assert "picture" in report.skipped["broken.png"]
    assert calls == [(4, 6), (6, 6)]
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert [file for file in files if file.endswith(".safetensors")] == [
        f"{name}/inversion.safetensors" for name in names
    ]
    found = Inversion.from_pretrained(tmp_path / "out" / "more" / "b.png" / "inversion.safetensors")
    with Image.open(folder / "more" / "b.png") as image:
        alone = pipe.invert_crops(to_tensor(image, TINY.resolution), steps=3)[0]
    torch.testing.assert_close(found.w_plus, alone.w_plus, rtol=0, atol=1e-5)  # sums of a batch run in another order
    assert found.tokens is not None
    assert found.crop is None


def test_what_another_model_made_is_not_taken_for_ours(
    pipe: RefineStylePipeline, folder: Path, tmp_path: Path
) -> None:
    other = tiny_generator(seed=1)
    codes = other.mean_latent.expand(other.config.num_ws, -1).clone()
    Inversion(codes, base=other.fingerprint()).save(tmp_path / "out" / "a.png" / "inversion.safetensors")
    with pytest.raises(BaseMismatchError, match=r"(?s)a\.png.*earlier run"):
        inverted(pipe, folder, tmp_path / "out", aligned=True)


def test_an_inversion_that_is_damaged_is_named(pipe: RefineStylePipeline, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    (tmp_path / "out" / "a.png" / "inversion.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match=r"(?s)a\.png.*Remove it, and it is made again"):
        inverted(pipe, folder, tmp_path / "out", aligned=True)


def test_the_pictures_folder_is_not_that_of_the_inversions(pipe: RefineStylePipeline, folder: Path) -> None:
    with pytest.raises(ConfigError, match="a folder of their own"):
        inverted(pipe, folder, folder / "more" / "..")


def test_reasons_name_no_folder_of_this_machine(
    pipe: RefineStylePipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, faces: str) -> Photo:
        raise PictureError(f"{path} cannot be read: Input/output error.")

    monkeypatch.setattr("refinestyle_hub.inversion.folder.read_photo", fail)
    report = inverted(pipe, folder, tmp_path / "out", aligned=True)
    assert report.skipped["more/b.png"] == "more/b.png cannot be read: Input/output error."


def test_a_second_run_goes_on(pipe: RefineStylePipeline, folder: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        inverted(pipe, folder, tmp_path / "out", aligned=True, steps=1, batch=2, on_picture=stop)
    first = (tmp_path / "out" / "a.jpg" / "inversion.safetensors").stat()
    report = inverted(pipe, folder, tmp_path / "out", aligned=True, steps=1, batch=2)
    assert report.kept == ("a.jpg", "a.png")
    assert report.inverted == ("d.webp", "more/b.png", "more/c.png")
    assert (tmp_path / "out" / "a.jpg" / "inversion.safetensors").stat().st_mtime_ns == first.st_mtime_ns


def test_ctrl_c_says_what_is_kept(
    run: Any, pipe: RefineStylePipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*args: Any, **how: Any) -> list[Inversion]:
        if (tmp_path / "out").exists():
            raise KeyboardInterrupt
        return invert_crops(*args, **how)

    pipe.save_pretrained(tmp_path / "model")
    args = ["invert", tmp_path / "model", folder, "--out", tmp_path / "out", "--aligned", "--steps", 1, "--batch", 2]
    with monkeypatch.context() as ctrl_c:
        ctrl_c.setattr("refinestyle_hub.inversion.folder.invert_crops", stopping)
        code, _, err = run(*args)
    assert (code, err) == (130, f"stopped; 2 inversions in {tmp_path / 'out'}; the same command continues\n")
    code, text, _ = run(*args)
    assert (code, "3 inverted, 2 kept, 1 skipped" in text) == (0, True)


def test_inversions_of_one_folder_are_made_in_one_way(pipe: RefineStylePipeline, folder: Path, tmp_path: Path) -> None:
    """So that nobody takes quick answers for those of many steps."""
    where, out = folder / "more", tmp_path / "out"
    endless = InversionSettings(patience=10**9)
    inverted(pipe, where, tmp_path / "endless", aligned=True, steps=0, settings=endless)
    inverted(pipe, where, out, aligned=True, steps=0)
    untrained = Encoder.for_generator(pipe.generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1)
    other = RefineStylePipeline(pipe.generator, encoder=untrained)
    assert pipe.encoder is not None
    config = pipe.encoder.config
    again = Encoder(
        replace(config, network=replace(config.network, num_iters=2))
    )  # the same weights, and other answers
    again.load_state_dict(pipe.encoder.state_dict())
    for one, change, what in (
        (pipe, {"steps": 2}, "token_steps 0, not 2"),
        (pipe, {"seed": 3}, "seed 0, not 3"),
        (pipe, {"settings": InversionSettings(norm=0.1)}, "other settings"),
        (other, {}, "other encoder"),
        (RefineStylePipeline(pipe.generator, encoder=again), {}, "other encoder"),
    ):
        options: dict[str, Any] = {"aligned": True, "steps": 0, **change}
        with pytest.raises(ConfigError, match=what):
            inverted(one, where, out, **options)
    inverted(pipe, folder, tmp_path / "all", aligned=True, steps=1)
    (tmp_path / "all" / "more" / "b.png" / "inversion.safetensors").unlink()
    for name in ("b.png", "c.png"):  # of another folder of pictures in the same way: both kinds are known
        (out / name).rename(tmp_path / "all" / name)
    with pytest.raises(ConfigError, match=r"b.png.*token_steps 0, not 1"):
        inverted(pipe, where, tmp_path / "all", aligned=True, steps=1)
    assert inverted(pipe, where, tmp_path / "all", aligned=True, steps=0, batch=1).kept == ("b.png", "c.png")
    (where / "b.png").write_bytes((where / "c.png").read_bytes())
    with pytest.raises(ConfigError, match=r"b.png.*is of another picture of that name"):
        inverted(pipe, where, tmp_path / "endless", aligned=True, steps=0, settings=endless)


def test_faces_are_found_and_their_lack_is_listed(
    pipe: RefineStylePipeline, tmp_path: Path, astronaut: Image.Image
) -> None:
    (tmp_path / "photos").mkdir()
    astronaut.save(tmp_path / "photos" / "portrait.png")
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "photos" / "wall.png")
    report = inverted(pipe, tmp_path / "photos", tmp_path / "out")
    assert report.inverted == ("portrait.png",)
    assert "face" in report.skipped["wall.png"]
    found = Inversion.from_pretrained(tmp_path / "out" / "portrait.png" / "inversion.safetensors")
    assert found.source_size == astronaut.size
    assert found.quad is not None
    with pytest.raises(PictureError, match="no pictures"):
        inverted(pipe, tmp_path / "out", tmp_path / "more")
    with pytest.raises(ConfigError, match="batch"):
        inverted(pipe, tmp_path / "photos", tmp_path / "out", batch=0)


def test_from_the_command_line(
    pipe: RefineStylePipeline, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        main(["invert", str(tmp_path / "model"), str(folder), "--out", str(tmp_path / "out"), "--aligned", "--json"])
    assert ended.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["inverted"]) == 5
    assert list(report["skipped"]) == ["broken.png"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    first = Inversion.from_pretrained(tmp_path / "out" / "a.png" / "inversion.safetensors")

    # optimised, by another encoder, in batches of a size of one's own
    Encoder.for_generator(pipe.generator, widths=(8, 8, 8, 8), width=16, heads=2, depth=1).save_pretrained(
        tmp_path / "untrained"
    )
    options = ["--steps", "2", "--w-steps", "1", "--batch", "2", "--encoder", str(tmp_path / "untrained")]
    where = [str(tmp_path / "model"), str(folder / "more"), "--out", str(tmp_path / "other"), "--aligned"]
    with pytest.raises(SystemExit) as ended:
        main(["invert", *where, *options])
    assert ended.value.code == 0
    other = Inversion.from_pretrained(tmp_path / "other" / "b.png" / "inversion.safetensors")
    assert (other.report["w_steps"], other.report["token_steps"]) == (1, 1)
    assert other.tokens is not None
    assert first.tokens is not None
    assert (other.tokens.config.layers["b8.conv0"].tokens, first.tokens.config.layers["b8.conv0"].tokens) == (8, 2)
    with pytest.raises(SystemExit) as ended:
        main(["invert", *where, "--face", "1"])
    assert ended.value.code == 2


def test_a_folder_of_which_nothing_can_be_used(run: Any, pipe: RefineStylePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    code, text, _ = run("invert", tmp_path / "model", tmp_path / "photos", "--out", tmp_path / "out", "--aligned")
    assert (code, "broken.png: " in text, "0 inverted, 0 kept, 1 skipped" in text) == (1, True, True)
    assert (tmp_path / "out" / "report.json").is_file()


@pytest.mark.slow
def test_two_processes_share_a_folder(pipe: RefineStylePipeline, folder: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    lines = [
        "import json, os, sys",
        "from dataclasses import asdict",
        "from pathlib import Path",
        "from refinestyle_hub.inversion.folder import invert_folder",
        "from refinestyle_hub.pipeline import RefineStylePipeline",
        "model, folder, out = sys.argv[1:]",
        "seen = []",
        "pipe = RefineStylePipeline.from_pretrained(model)",
        "how = {'encoder': pipe.encoder, 'perceptual': pipe.perceptual, 'aligned': True, 'steps': 2}",
        "report = invert_folder(pipe.generator, folder, out, **how, on_picture=lambda *n: seen.append(n))",
        "text = json.dumps({**asdict(report), 'seen': seen})",
        "Path(out + '-' + os.environ['RANK'] + '.json').write_text(text)",
    ]
    in_two_processes(tmp_path / "go.py", lines, tmp_path / "model", folder, tmp_path / "out")
    reports = [json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["seen"] for report in reports] == [[[3, 3]], [[3, 3]]]
    for report in reports:
        assert report["inverted"] == ["a.jpg", "a.png", "d.webp", "more/b.png", "more/c.png"]
        assert list(report["skipped"]) == ["broken.png"]
