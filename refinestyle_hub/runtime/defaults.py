"""PyTorch's defaults as this package expects them, whatever other libraries have made of them.

``torch.set_default_dtype`` and ``torch.set_default_device`` hold for the whole process, and change what every
``torch.zeros`` gives. Setting them back would change what other threads do at the same time, so new tensors are given
their type and device one by one, in this thread alone; where the defaults are PyTorch's own, at no cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


__all__ = ["standard_defaults"]

FRACTIONS = frozenset({torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn, torch.eye, torch.linspace})
OF_VALUES = frozenset({torch.tensor, torch.as_tensor, torch.full, torch.arange, torch.scalar_tensor})
OTHERS = frozenset({torch.randint, torch.randperm})


class _Standard(TorchFunctionMode):
    """New tensors are float32 where their type is a default, and on the CPU where their device is."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in FRACTIONS or function in OTHERS:
            _fill(kwargs, "device", "cpu")
            if function in FRACTIONS:
                _fill(kwargs, "dtype", torch.float32)
        elif function in OF_VALUES:
            known = args and hasattr(args[0], "dtype")  # a tensor or array keeps its type, and a tensor its device
            _fill(kwargs, "device", args[0].device if args and isinstance(args[0], torch.Tensor) else "cpu")
            if not known and kwargs.get("dtype") is None and function(*args, **kwargs).is_floating_point():
                kwargs["dtype"] = torch.float32
        return function(*args, **kwargs)


def _fill(kwargs: dict[str, Any], name: str, value: Any) -> None:
    if kwargs.get(name) is None:
        kwargs[name] = value


@contextmanager
def standard_defaults() -> Iterator[None]:
    """For a block, or as the decorator of a function; it leaves inference mode, whose tensors nothing can learn."""
    with ExitStack() as changes:
        if torch.is_inference_mode_enabled():
            changes.enter_context(torch.inference_mode(False))
        if torch.get_default_dtype() != torch.float32 or torch.get_default_device().type != "cpu":
            changes.enter_context(_Standard())
        yield
