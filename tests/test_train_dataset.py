"""Pictures from every kind of source, batches that can be resumed and shared out, labels and their mirror image."""

from __future__ import annotations

import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refinestyle_hub.errors import ConfigError, PictureError
from refinestyle_hub.train import dataset
from refinestyle_hub.train.dataset import Batch, batches, open_pictures
from refinestyle_hub.train.labels import ATTRIBUTES, mirror, open_labels


SPLITS = ["train"] * 6 + ["val"] + ["test"]
ROW = {
    "age": 0.7, "gender": 0.1, "smile": 0.5, "mouth_open": 0.2, "brow": -0.1, "yaw": 10.0, "pitch": -3.0,
    "gaze": [-5.0, 2.0], "glasses": True, "beard": 0.0, "makeup": 0.3, "hair_rgb": [255, 0, 51], "tone": 6.0,
    "iris": [0, 102, 255], "light": [-40.0, 20.0], "hair_length": 0.2,
}  # fmt: skip


def picture(i: int, size: int = 16) -> Image.Image:
    """Lossless, and different for each i and side."""
    levels = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight labelled pictures of 16 px."""
    root = tmp_path / "set"
    root.mkdir()
    rows = []
    for i, split in enumerate(SPLITS):
        picture(i).save(root / f"{i:06d}.png")
        rows.append(ROW | {"id": i, "split": split, "smile": i / 10, "hair": ["bob", "afro"][i % 2]})
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(
        root / "parameters.npz",
        local=np.arange(16).reshape(8, 2).astype(np.float16),
        local_names=np.array(["l-ear-wing-incr", "r-ear-wing-incr"]),
        expression=np.arange(24).reshape(8, 3).astype(np.float16),
        expression_names=np.array(["jawOpen", "eyeBlinkLeft", "eyeBlinkRight"]),
    )
    return root


def pixels(i: int) -> torch.Tensor:
    return torch.from_numpy(np.array(picture(i))).permute(2, 0, 1)


def test_splits_are_kept_apart(folder: Path) -> None:
    names = {split: open_pictures(folder, 16, split).names for split in ("train", "val", "test", None)}
    assert names["train"] == tuple(f"{i:06d}.png" for i in range(6))
    assert (names["val"], names["test"]) == (("000006.png",), ("000007.png",))
    assert len(names[None]) == 8
    assert open_pictures(folder, 16).names == names["train"]  # unless told otherwise, nobody sees the rest
    with pytest.raises(ConfigError, match="no split 'holdout'; it has test, train, val"):
        open_pictures(folder, 16, "holdout")


def test_folder_zip_and_dataset_give_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.glob("*.png")):
            file.write(path, path.name)
        file.writestr("__MACOSX/000000.png", b"no picture")
    for name in ("labels.jsonl", "parameters.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    saved = tmp_path / "saved"
    columns = {"image": [picture(i) for i in range(6)], "number": list(range(6))}
    features = datasets.Features({"number": datasets.Value("int64"), "image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(saved)
    for source in (folder, archive, saved):
        found = open_pictures(source, 16)
        assert len(found) == 6
        assert torch.equal(found.take(range(6)), torch.stack([pixels(i) for i in range(6)]))
    assert torch.equal(open_labels(archive, open_pictures(archive, 16).names).values,
                       open_labels(folder, open_pictures(folder, 16).names).values)  # fmt: skip
    with pytest.raises(ConfigError, match="no splits"):
        open_pictures(saved, 16, "test")


def test_dataset_with_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    part = [datasets.Dataset.from_dict({"image": [picture(i)]}, features=features) for i in range(2)]
    datasets.DatasetDict({"train": part[0], "test": part[1]}).save_to_disk(tmp_path)
    assert torch.equal(open_pictures(tmp_path, 16, "test")[0], pixels(1))
    assert len(open_pictures(tmp_path, 16, None)) == 2
    with pytest.raises(ConfigError, match="no split 'val'; it has train, test"):
        open_pictures(tmp_path, 16, "val")
    datasets.DatasetDict({"train": part[0], "validation": part[1]}).save_to_disk(tmp_path / "other")
    assert torch.equal(open_pictures(tmp_path / "other", 16, "val")[0], pixels(1))


def test_folder_is_searched_recursively_and_pictures_are_fitted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    wide = Image.new("RGBA", (64, 32), (255, 0, 0, 255))
    wide.paste((0, 255, 0, 255), (16, 0, 48, 32))  # the central square
    wide.save(tmp_path / "a" / "b" / "wide.PNG")
    picture(0).convert("L").save(tmp_path / "grey.jpg")
    (tmp_path / "notes.txt").write_text("not a picture")
    found = open_pictures(tmp_path, 8)
    assert found.names == ("a/b/wide.PNG", "grey.jpg")
    green = torch.tensor([0, 255, 0])[:, None, None].expand(3, 8, 8)
    assert (found[0] - green).abs().max() < 25  # the filter overshoots a little at the sides
    assert found[1].shape == (3, 8, 8)


def test_decoded_once_unless_the_set_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = open_pictures(folder, 16)
    monkeypatch.setattr(dataset, "CACHE_BYTES", 6 * 3 * 16 * 16 - 1)
    streamed = open_pictures(folder, 16)
    assert torch.equal(kept[0], streamed[0])
    (folder / "000000.png").unlink()
    assert torch.equal(kept[0], pixels(0))
    with pytest.raises(PictureError, match=r"000000\.png"):
        streamed[0]


def test_useless_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no pictures"):
        open_pictures(tmp_path, 16)
    with pytest.raises(PictureError, match="no folder or zip"):
        open_pictures(tmp_path / "absent" / "folder", 16)
    (tmp_path / "file.tar").write_bytes(b"x")
    with pytest.raises(PictureError, match="neither a folder nor a zip"):
        open_pictures(tmp_path / "file.tar", 16)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    broken = open_pictures(tmp_path, 16)
    with pytest.raises(PictureError, match=r"^broken\.png: "):
        broken[0]
    with pytest.raises(PictureError, match=r"^broken\.png: "):  # also out of the loading thread
        next(batches(broken, 1))
    with pytest.raises(IndexError):
        broken[1]
    with pytest.raises(ConfigError, match=r"no labels\.jsonl"):
        open_pictures(tmp_path, 16, "test")
    with pytest.raises(ConfigError, match="one is missing"):
        open_labels(tmp_path, broken.names)


def test_damaged_and_encrypted_zip_members_are_named(folder: Path, tmp_path: Path) -> None:
    picture = (folder / "000000.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("damaged.png", picture)
        archive.writestr("locked.png", picture)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.find(picture) + len(picture) // 2] ^= 0xFF  # the first of the two: its checksum is wrong now
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.rfind(signature) + flags] |= 1  # the second says that it is encrypted
    (tmp_path / "a.zip").write_bytes(content)
    pictures = open_pictures(tmp_path / "a.zip", 16)
    with pytest.raises(PictureError, match=r"^damaged\.png: .*CRC"):
        pictures[0]
    with pytest.raises(PictureError, match=r"^locked\.png: .*encrypted"):
        pictures[1]


def taken(folder: Path, count: int, size: int, **options: int | bool) -> list[Batch]:
    return list(itertools.islice(batches(open_pictures(folder, 16), size, **options), count))  # type: ignore[arg-type]


def test_every_picture_once_per_epoch_in_another_order(folder: Path) -> None:
    found = torch.cat([b.indices for b in taken(folder, 20, 3)]).view(10, 6)
    assert found.sort(dim=1).values.eq(torch.arange(6)).all()
    assert len({tuple(epoch.tolist()) for epoch in found}) > 5
    other = torch.cat([b.indices for b in taken(folder, 20, 3, seed=1)]).view(10, 6)
    assert not torch.equal(found, other)


def test_flipped_batches_hold_mirrored_pictures(folder: Path) -> None:
    flips = []
    for batch in taken(folder, 50, 4):
        for image, index, flipped in zip(batch.pictures, batch.indices, batch.flipped, strict=True):
            assert torch.equal(image, pixels(int(index)).flip(-1) if flipped else pixels(int(index)))
        flips.append(batch.flipped)
    assert 70 < int(torch.cat(flips).sum()) < 130  # 200 fair coins: 4 standard deviations are 28
    assert not any(b.flipped.any() for b in taken(folder, 5, 4, flip=False))


def test_a_run_continues_where_it_stopped(folder: Path) -> None:
    whole, rest = taken(folder, 7, 4), taken(folder, 4, 4, position=12)
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a.pictures, b.pictures)
        assert torch.equal(a.flipped, b.flipped)


def test_two_processes_share_the_batch_of_one(folder: Path) -> None:
    one = taken(folder, 5, 4)
    halves = [taken(folder, 5, 2, rank=rank, world=2) for rank in range(2)]
    for whole, *parts in zip(one, *halves, strict=True):
        assert torch.equal(whole.pictures, torch.cat([p.pictures for p in parts]))
        assert torch.equal(whole.indices, torch.cat([p.indices for p in parts]))


def test_labels_follow_the_pictures(folder: Path) -> None:
    pictures = open_pictures(folder, 16, "val")
    labels = open_labels(folder, pictures.names)
    row = dict(zip(labels.names, labels.values[0].tolist(), strict=True))
    assert labels.values.shape == (1, len(labels.names))
    assert row["smile"] == pytest.approx(0.6)  # of id 6
    assert (row["gaze_x"], row["gaze_y"], row["glasses"]) == (-5.0, 2.0, 1.0)
    assert (row["hair_red"], row["hair_blue"], row["iris_green"]) == pytest.approx((1.0, 0.2, 0.4))
    assert row["hair_lightness"] == pytest.approx(0.299 + 0.114 * 0.2)
    assert (row["light_azimuth"], row["light_elevation"]) == (-40.0, 20.0)
    assert (row["r-ear-wing-incr"], row["jawOpen"]) == (13.0, 18.0)
    assert labels.hair_styles[labels.hair[0]] == "bob"
    assert labels.names[labels.num_attributes] == "l-ear-wing-incr"


def test_pictures_without_a_label_are_named(folder: Path) -> None:
    picture(9).save(folder / "000009.png")
    with pytest.raises(ConfigError, match=r"No labels of 1 picture, 000009\.png"):
        open_labels(folder, open_pictures(folder, 16, None).names)
    assert "000009.png" not in open_pictures(folder, 16).names


def test_broken_labels_are_named(folder: Path) -> None:
    file = folder / "labels.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].replace('"smile"', '"grin"'), *lines[1:]]))
    with pytest.raises(ConfigError, match="has no 'smile'"):
        open_labels(folder, open_pictures(folder, 16).names)
    for broken in ("{", "[]", '{"name": 1}'):
        file.write_text(f"{lines[0]}\n{broken}\n")
        with pytest.raises(ConfigError, match=r"labels\.jsonl, line 2: not a JSON object with an id"):
            open_pictures(folder, 16)


def test_mirror_swaps_sides_and_turns_angles() -> None:
    names = ["yaw", "pitch", "l-ear-wing-incr", "gaze_x", "eyeBlinkRight", "r-ear-wing-incr", "light_azimuth",
             "eyeBlinkLeft", "browInnerUp"]  # fmt: skip
    order, sign = mirror(names)
    values = torch.arange(1.0, 10.0)
    mirrored = values[order] * sign
    assert mirrored.tolist() == [-1, 2, 6, -4, 8, 3, -7, 5, 9]
    assert torch.equal(mirrored[order] * sign, values)


def test_mirror_knows_every_name_of_the_portraits(shared_data: Path) -> None:
    with np.load(shared_data / "parameters.npz") as file:
        names = [*ATTRIBUTES, *map(str, file["local_names"]), *map(str, file["expression_names"])]
    order, sign = mirror(names)
    assert torch.equal(order[order], torch.arange(len(names)))
    moved = {names[i] for i in range(len(names)) if order[i] != i}
    assert moved == {n for n in names if n.startswith(("l-", "r-")) or n.endswith(("Left", "Right"))}
    assert {names[i] for i in range(len(names)) if sign[i] < 0} == {"yaw", "gaze_x", "light_azimuth"}


def test_portraits(shared_data: Path) -> None:
    archive = shared_data / "portraits-128.zip"
    train, val, test = (open_pictures(archive, 128, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (22500, 500, 1000)
    assert max(train.names) == "022499.jpg"
    assert min(test.names) == "023000.jpg"
    labels = open_labels(archive, val.names)
    assert labels.values.shape == (500, 23 + 126 + 23)
    columns = [labels.names.index(name) for name in ("mouth_open", "jawOpen")]
    assert torch.corrcoef(labels.values[:, columns].T)[0, 1] > 0.99  # the two files agree on which row is which
    assert val[0].shape == (3, 128, 128)
    assert val[0].float().std() > 10
