"""Running the code of a model card."""

from __future__ import annotations

import re
from typing import Any


def run_snippets(text: str) -> dict[str, Any]:
    """Run all Python of a card in one namespace, and return it."""
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, names)
    return names
