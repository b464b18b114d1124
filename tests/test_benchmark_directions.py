"""How the benchmark of published directions finds files, and brings directions to equal effect."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from refinestyle_hub.editing.directions import Direction


FOLDER = Path(__file__).parents[1] / "benchmarks"
WIDTH, ROWS = 4, 3


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not FOLDER.is_dir():
        pytest.skip("benchmarks/ is not part of this installation")
    monkeypatch.syspath_prepend(str(FOLDER))
    import published_directions

    return published_directions


class Bench:
    """Readings that are the first two numbers of the mean code; a person is where the code lies."""

    def __init__(self, seen: type) -> None:
        self.instruments = SimpleNamespace(names=["smile", "age"], free={"smile": (), "age": ()})
        self.pipe = SimpleNamespace(generator=SimpleNamespace(config=SimpleNamespace(num_ws=ROWS, w_dim=WIDTH)))
        self._seen = seen

    def see(self, faces: Any, direction: Direction, strengths: Any, identities: bool) -> Any:
        codes = torch.stack([face for face, _ in faces]).mean(1)
        moved = [codes + strength * direction.offset(ROWS).mean(0) for strength in strengths]
        return self._seen(np.stack([m[:, :2].double().numpy() for m in moved]), [[*m.numpy()] for m in moved])

    def plain(self, faces: Any) -> Any:
        return self.see(faces, Direction(torch.zeros(1, WIDTH)), (0.0,), identities=True)


def comparison(published: ModuleType) -> Any:
    faces = [(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(n)), None) for n in range(5)]
    return published.Comparison(Bench(published.Seen), faces)


def test_files_are_known_by_source_and_meaning(published: ModuleType, tmp_path: Path) -> None:
    for place in ("e4e", "stit"):
        (tmp_path / place).mkdir()
    torch.save(torch.ones(1, 512), tmp_path / "e4e" / "pose.pt")
    np.save(tmp_path / "stit" / "smile.npy", np.ones((1, 18, 512), np.float32))
    np.save(tmp_path / "stit" / "beauty.npy", np.ones((1, 512), np.float32))
    found = list(published.published(tmp_path, ["smile", "yaw"], 16))
    assert [(title, own) for title, own, _ in found] == [("e4e/pose", "yaw"), ("stit/smile", "smile")]
    assert [direction.offset(16).shape for _, _, direction in found] == [(16, 512), (16, 512)]


@pytest.mark.parametrize("scale", [0.05, 1.0, -20.0])
def test_units_and_signs_of_files_do_not_matter(published: ModuleType, scale: float) -> None:
    row = comparison(published).row("smile", Direction(scale * torch.tensor([[1.0, 0.5, 0.0, 1.0]])))
    assert row["strength"] * scale > 0
    assert row["length"] == pytest.approx(1.5)
    assert row["leak"] == pytest.approx(0.5)
    assert (row["worst"], row["worst_leak"]) == ("age", pytest.approx(0.5))
    assert row["identity"] == pytest.approx(1.5)
    assert row["found"] == 1


def test_what_does_not_reach_the_effect_is_said_so(published: ModuleType) -> None:
    row = comparison(published).row("smile", Direction(torch.tensor([[0.01, 1.0, 1.0, 1.0]])))
    assert row["strength"] is None


def test_ours_win_where_they_leak_less_and_keep_the_person(published: ModuleType) -> None:
    def row(name: str, leak: float, identity: float) -> dict[str, Any]:
        numbers = {"strength": 1.0, "length": 1.0, "worst": "age", "worst_leak": 0.1, "pictures": 0.1, "found": 1.0}
        return {"attribute": name, "leak": leak, "identity": identity, **numbers}

    rows = {
        "ours/smile": row("smile", 0.1, 0.2),
        "e4e/smile": row("smile", 0.2, 0.3),
        "stit/smile": row("smile", 0.2, 0.1),
        "ours/yaw": row("yaw", 0.1, 0.2),
        "stit/yaw": row("yaw", 0.2, 0.3),
        "e4e/pose": {"attribute": "yaw", "strength": None},
    }
    told = published.table(rows)
    assert "1 of 2 attributes (yaw)" in told
    assert "out of reach" in told
