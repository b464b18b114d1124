"""The README's quickstart is run, block by block, as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from refinestyle_hub import Generator, RefineStylePipeline, TokenSet
from refinestyle_hub.errors import FetchError, ModelNotFoundError


README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def fetched() -> None:
    try:
        Generator.from_pretrained("ffhq-1024", subfolder="generator")
    except (FetchError, ModelNotFoundError) as error:
        pytest.skip(f"the weights of ffhq-1024 cannot be had here: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("fetched")
def test_the_quickstart_runs(astronaut: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps, and the first two blocks with the small model: what they name, the large one has too."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    assert "pipe.adapt" in blocks[1]
    assert "smile" in RefineStylePipeline.from_pretrained("ffhq-1024").directions
    blocks[0] = blocks[0].replace("steps=100", "steps=2").replace("ffhq-1024", "mini-faces-128")
    blocks[1] = blocks[1].replace('name="pencil"', 'name="pencil", steps=2')  # of 500
    monkeypatch.chdir(tmp_path)
    astronaut.save("me.jpg")
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        astronaut.rotate(5 * i).save(name)
    space: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), space)
    with Image.open("again.png") as again, Image.open("smiling.png") as smiling:
        assert again.size == smiling.size == (128, 128)
        assert again.tobytes() != smiling.tobytes()
    pictures = space["pictures"]  # of the last block
    assert isinstance(pictures, torch.Tensor)
    assert pictures.shape == (4, 3, 1024, 1024)
    assert Path("me.safetensors").exists()
    assert Path("drawn.png").exists()
    assert TokenSet.from_pretrained("my-pencil").metadata["pictures"] == 3


def test_every_link_into_the_project_leads_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
