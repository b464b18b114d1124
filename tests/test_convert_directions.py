"""Published direction files, in the layouts that their repositories use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from remote_model import assert_helps

from refinestyle_hub.convert.direction_files import FACTORS, doubt, read_directions
from refinestyle_hub.convert.latent_files import read_latents
from refinestyle_hub.editing.directions import apply
from refinestyle_hub.errors import ModelFileError, ModelNotFoundError


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_interfacegan_boundary(tmp_path: Path) -> None:
    boundary = _random(1, 512).double()
    path = tmp_path / "stylegan_ffhq_eyeglasses_w_boundary.npy"
    np.save(path, boundary.numpy())  # float64, as published
    found = read_directions(path, licence="MIT")
    assert list(found) == ["eyeglasses"]
    torch.testing.assert_close(found["eyeglasses"].vector, boundary.float())
    assert found["eyeglasses"].info.licence == "MIT"
    assert found["eyeglasses"].info.source == path.name


def test_flat_w_plus_boundary(tmp_path: Path) -> None:
    boundary = _random(1, 9216)
    np.save(tmp_path / "Smiling_boundary.npy", boundary.numpy())
    found = read_directions(tmp_path / "Smiling_boundary.npy")
    assert torch.equal(found["smiling"].vector, boundary.reshape(18, 512))


@pytest.mark.parametrize("shape", [(1, 512), (1, 18, 512), (18, 512), (512,)])
@pytest.mark.parametrize("zipped", [True, False])
def test_direction_tensors(tmp_path: Path, shape: tuple[int, ...], zipped: bool) -> None:
    vector = _random(*shape)
    torch.save(vector, tmp_path / "age.pt", _use_new_zipfile_serialization=zipped)
    found = read_directions(tmp_path / "age.pt")
    assert torch.equal(found["age"].vector, vector.reshape(-1, 512))
    assert list(read_directions(tmp_path / "age.pt", name="older")) == ["older"]


def test_ganspace_components_and_named_edits(tmp_path: Path) -> None:
    components, deviations = _random(80, 1, 512), _random(80).abs()
    torch.save({"comp": components, "mean": _random(1, 512), "std": deviations}, tmp_path / "ffhq_pca.pt")
    found = read_directions(tmp_path / "ffhq_pca.pt")
    assert len(found) == 80
    torch.testing.assert_close(found["pca7"].vector, components[7] * deviations[7])

    table = tmp_path / "ganspace_configs.csv"
    table.write_text("name\tcomponent\tfirst\tend\tstrength\neye_openness\t54\t7\t8\t-15.0\nsmile\t46\t4\t5\t20\n")
    named = read_directions(tmp_path / "ffhq_pca.pt", table=table)
    assert list(named) == ["eye_openness", "smile"]
    assert named["eye_openness"].info.layers == (7, 8)
    assert named["eye_openness"].info.limits == (-15.0, 15.0)
    w = torch.zeros(1, 18, 512)
    moved = apply(w, {"smile": 2.0}, named)
    torch.testing.assert_close(moved[0, 4], 2 * components[46, 0] * deviations[46])
    assert float(moved[0, [3, 5]].abs().max()) == 0


def test_files_that_are_no_directions(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_directions(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_directions(tmp_path / "text.pt")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_directions(tmp_path / "objects.npy")
    torch.save({"state": [1, 2], "epoch": 4}, tmp_path / "state.pt")
    with pytest.raises(ModelFileError, match="neither directions"):
        read_directions(tmp_path / "state.pt")
    torch.save([torch.ones(512), torch.ones(18, 512), "smile"], tmp_path / "list.pt")
    for read in (read_directions, lambda path: read_latents(path, 18, 512)):
        with pytest.raises(ModelFileError) as caught:
            read(tmp_path / "list.pt")  # type: ignore[operator]
        assert_helps(caught, "list.pt holds a list of 3 values, with tensors of", "one tensor is expected", "by name")
    torch.save([], tmp_path / "nothing.pt")
    with pytest.raises(ModelFileError, match="holds a list of 0 values: one tensor"):
        read_directions(tmp_path / "nothing.pt")
    torch.save(torch.ones(1, 300), tmp_path / "narrow.pt")
    with pytest.raises(ModelFileError, match="w_dim"):
        read_directions(tmp_path / "narrow.pt")
    torch.save(torch.full((1, 512), torch.nan), tmp_path / "nan.pt")
    with pytest.raises(ModelFileError, match="NaN"):
        read_directions(tmp_path / "nan.pt")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    torch.save({"comp": Evil(), "std": torch.ones(1)}, tmp_path / "evil.pt")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_directions(tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_broken_table_names_its_line(tmp_path: Path) -> None:
    torch.save({"comp": _random(2, 1, 512), "std": torch.ones(2)}, tmp_path / "pca.pt")
    table = tmp_path / "edits.csv"
    table.write_text("smile,1,4,5,20\nage,9,4,5,20\n")
    with pytest.raises(ModelFileError, match="line 2: no such component"):
        read_directions(tmp_path / "pca.pt", table=table)
    table.write_text("smile,1,4,5,20\nage,one,4,5,20\n")
    with pytest.raises(ModelFileError, match="line 2: not name"):
        read_directions(tmp_path / "pca.pt", table=table)
    with pytest.raises(ModelFileError, match=r"pca\.pt is not a table"):
        read_directions(tmp_path / "pca.pt", table=tmp_path / "pca.pt")


def test_layouts_that_were_refused(tmp_path: Path) -> None:
    vector = _random(1, 512)
    np.save(tmp_path / "SMILE.npy", vector.numpy())
    (tmp_path / "SMILE.npy").rename(tmp_path / "SMILE.NPY")
    assert torch.equal(read_directions(tmp_path / "SMILE.NPY")["smile"].vector, vector)

    torch.save({"smile": vector, "age": _random(18, 512)}, tmp_path / "edits.pt")
    found = read_directions(tmp_path / "edits.pt")
    assert {name: d.info.codes for name, d in found.items()} == {"smile": 1, "age": 18}

    components, deviations = _random(80, 1, 512), _random(80).abs()
    layers = {"act_comp": components * 2, "act_stdev": deviations, "lat_mean": _random(1, 512)}
    np.savez(tmp_path / "layer.npz", **{name: values.numpy() for name, values in layers.items()})
    torch.testing.assert_close(
        read_directions(tmp_path / "layer.npz")["pca1"].vector, 2 * components[1] * deviations[1]
    )

    np.save(tmp_path / "fs3.npy", np.ones((9088, 512), np.float32))
    with pytest.raises(ModelFileError, match="table of style channels"):
        read_directions(tmp_path / "fs3.npy")
    np.save(tmp_path / "_w_boundary.npy", vector.numpy())
    with pytest.raises(ModelFileError, match="give one"):
        read_directions(tmp_path / "_w_boundary.npy")
    assert list(read_directions(tmp_path / "_w_boundary.npy", name="age")) == ["age"]
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelFileError, match="cannot be read as arrays"):
        read_directions(tmp_path / "bad.npz")


def test_a_single_direction_has_the_name_of_its_file(tmp_path: Path) -> None:
    vector = _random(1, 512)
    np.savez(tmp_path / "young.npz", vector.numpy())
    np.savez(tmp_path / "Pose_boundary.npz", boundary=vector.numpy(), intercept=np.array([[0.1]]))
    torch.save({"direction": vector}, tmp_path / "eye glasses.pt")
    for file, name in (("young.npz", "young"), ("Pose_boundary.npz", "pose"), ("eye glasses.pt", "eye_glasses")):
        found = read_directions(tmp_path / file)
        assert list(found) == [name]
        torch.testing.assert_close(found[name].vector, vector)
    np.save(tmp_path / "微笑.npy", vector.numpy())
    with pytest.raises(ModelFileError, match="give one"):
        read_directions(tmp_path / "微笑.npy")


def test_a_name_goes_before_those_of_several(tmp_path: Path) -> None:
    torch.save({"smile": _random(1, 512), "läng 2": _random(18, 512)}, tmp_path / "edits.pt")
    assert list(read_directions(tmp_path / "edits.pt")) == ["smile", "lang_2"]
    assert list(read_directions(tmp_path / "edits.pt", name="stit")) == ["stit-smile", "stit-lang_2"]
    torch.save({"a b": _random(1, 512), "a_b": _random(1, 512)}, tmp_path / "alike.pt")
    with pytest.raises(ModelFileError, match="told apart"):
        read_directions(tmp_path / "alike.pt")


def test_sefa_factors_are_columns(tmp_path: Path) -> None:
    factors, _ = torch.linalg.qr(_random(32, 32))
    torch.save({"ckpt": "ffhq.pt", "eigvec": factors}, tmp_path / "factor.pt")
    found = read_directions(tmp_path / "factor.pt", w_dim=32)
    assert list(found) == [f"sefa{i}" for i in range(FACTORS)]
    assert torch.equal(found["sefa3"].vector[0], factors[:, 3])
    with pytest.raises(ModelFileError, match=r"is \[32, 32\]"):
        read_directions(tmp_path / "factor.pt")


@pytest.mark.parametrize("shape", [(18, 256), (2, 16, 512), (9088,), (0, 512), (1, 300)])
def test_sizes_of_something_else(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "some.npy", np.ones(shape, np.float32))
    with pytest.raises(ModelFileError, match="not codes of 512 numbers"):
        read_directions(tmp_path / "some.npy")


def test_fewer_codes_than_the_generator_has(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", _random(1, 512).numpy())
    with pytest.raises(ModelFileError, match="2 codes of 256 numbers"):
        read_directions(tmp_path / "wide.npy", w_dim=256, num_ws=12)
    np.save(tmp_path / "fine.npy", _random(18, 512).numpy())
    assert read_directions(tmp_path / "fine.npy", num_ws=16)["fine"].info.codes == 18


def test_values_that_lead_nowhere(tmp_path: Path) -> None:
    for values, why in ((0.0, "0 everywhere"), (1e20, "far too large"), (1e300, "far too large")):
        np.save(tmp_path / "some.npy", np.full((1, 512), values))
        with pytest.raises(ModelFileError, match=why):
            read_directions(tmp_path / "some.npy")
    np.save(tmp_path / "some.npy", np.ones((1, 512), np.complex64))
    with pytest.raises(ModelFileError, match="neither directions"):
        read_directions(tmp_path / "some.npy")
    np.save(tmp_path / "some.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelFileError, match="Python objects"):
        read_directions(tmp_path / "some.npy")


def test_a_table_without_edits(tmp_path: Path) -> None:
    torch.save({"comp": _random(2, 1, 512), "std": torch.ones(2)}, tmp_path / "pca.pt")
    table = tmp_path / "edits.csv"
    for text, why in (
        ("", "names no edit"),
        ("smile,1,4,5,20\nage,1,4,5,nan\n", "line 2: not name"),
        ("smile,1,4,5,0\n", "line 1: not name"),
        ("smile,1,4,5,20\nsmile,0,4,5,20\n", "'smile' is there twice"),
    ):
        table.write_text(text)
        with pytest.raises(ModelFileError, match=why):
            read_directions(tmp_path / "pca.pt", table=table)
    torch.save(_random(1, 512), tmp_path / "age.pt")
    with pytest.raises(ModelFileError, match="no GANSpace components"):
        read_directions(tmp_path / "age.pt", table=table)


def test_names_that_speak_of_another_latent_space() -> None:
    assert "z of the first StyleGAN" in doubt("stylegan_ffhq_age_boundary.npy")
    assert "w of the first StyleGAN" in doubt("stylegan_ffhq_age_w_boundary.npy")
    assert "z of PGGAN" in doubt("pggan_celebahq_age_boundary.npy")
    assert [doubt(name) for name in ("age.pt", "Smiling_boundary.npy", "stylegan2_ffhq_age_boundary.npy")] == [""] * 3
