"""Figures that are kept: of one setup, by several processes, and of no other file."""

from __future__ import annotations

from pathlib import Path

import pytest

from refinestyle_hub.errors import ConfigError, ModelFileError, SaveError
from refinestyle_hub.evaluation.record import Record


SETUP = {"model": "a", "metrics": ["mse"], "attributes": None}


def test_figures_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    record = Record(path, SETUP)
    assert record.rows("way") == {}
    record.add("way", "1", {"mse": 0.5})
    other = Record(path, SETUP)  # another process
    other.add("way", "2", {"mse": 0.25})
    record.add("other way", "1", {"mse": 1})
    assert other.rows("way") == {"1": {"mse": 0.5}, "2": {"mse": 0.25}}
    assert other.rows("other way") == {"1": {"mse": 1}}
    assert [one.name for one in path.parent.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("key", SETUP)
def test_figures_of_another_setup_are_refused(tmp_path: Path, key: str) -> None:
    Record(tmp_path / "figures.json", SETUP).add("way", "1", {"mse": 0.5})
    with pytest.raises(ConfigError, match=f"has figures of another {key}. Name another place"):
        Record(tmp_path / "figures.json", {**SETUP, key: "b"})


@pytest.mark.parametrize(
    ("content", "why"),
    [("{", "not valid JSON"), ("{}", "something other than figures"), ('{"rows": {}}', "other than figures")],
)
def test_other_files_are_left_alone(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "figures.json"
    path.write_text(content)
    with pytest.raises(ModelFileError, match=why):
        Record(path, SETUP)
    assert path.read_text() == content


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError):
        Record(tmp_path / "file" / "figures.json", SETUP)
