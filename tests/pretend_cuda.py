"""A device that says it is CUDA and has the numbers of a CPU: it refuses what a GPU refuses, where there is none.

Tensors of two devices do not meet, but for numbers without a dimension and for indices on the CPU; numpy gets nothing
from the device; random numbers come from a generator of their own device. There are no doubles, as on Apple's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map


CUDA = torch.device("cuda:0")
FROM_ANYWHERE = ("copy_", "_to_copy")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
NO_NUMBERS = ("cat", "stack", "convolution", "mm", "bmm", "addmm", "baddbmm")  # without a dimension, of another device


class Pretended(Tensor):
    """A tensor on the device; ``here`` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, x: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls, x.size(), strides=x.stride(), storage_offset=x.storage_offset(), dtype=x.dtype, layout=x.layout
        )
        made.here = x
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made: Tensor = Pretended(self.here.detach().clone())
        parameter = isinstance(self, torch.nn.Parameter)
        return torch.nn.Parameter(made, self.requires_grad) if parameter else made.requires_grad_(self.requires_grad)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("numpy gets nothing from the device: use .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        others = [x for x in given if not isinstance(x, Pretended) and (x.dim() or name in NO_NUMBERS)]
        if name in INDEXED and isinstance(args[0], Pretended):
            indices = {id(x) for x in tree_leaves(args[1])}
            others = [x for x in others if id(x) not in indices]
        if others and name not in FROM_ANYWHERE:
            raise RuntimeError(f"{func} got tensors of two devices: {[(type(x).__name__, *x.shape) for x in given]}")
        kwargs = {k: torch.device("cpu") if k == "device" else x for k, x in (kwargs or {}).items()}
        answer = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
        if isinstance(args[0], Tensor) and not isinstance(args[0], Pretended) and name == "copy_":
            return args[0]
        known = {id(x.here): x for x in given if isinstance(x, Pretended)}  # what is changed in place stays itself

        def there(x: Any) -> Any:
            if isinstance(x, Tensor) and x.dtype == torch.float64:
                raise TypeError(f"{func}: the device has no doubles")
            return known[id(x)] if id(x) in known else Pretended(x) if isinstance(x, Tensor) else x

        return tree_map(there, answer)


def _numbers(x: Any) -> Any:
    return x.here if isinstance(x, Pretended) else x


class _Move(torch.autograd.Function):
    """From the CPU to the device, or back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.here.detach().clone() if isinstance(x, Pretended) else Pretended(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.here if isinstance(gradient, Pretended) else Pretended(gradient)


def _moved(x: Tensor, device: Any) -> Tensor:
    if (torch.device(device).type == "cuda") == isinstance(x, Pretended):
        return x
    y: Tensor = _Move.apply(x)
    return y


class _Mode(TorchFunctionMode):
    """What names a device, or leaves PyTorch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args else None
        if func is Tensor.to:
            words = [*args[1:], kwargs.pop("other", None), kwargs.pop("device", None), kwargs.pop("dtype", None)]
            words = [w for x in words for w in ((x.device, x.dtype) if isinstance(x, Tensor) else (x,))]
            for word in words:
                if isinstance(word, str | torch.device):
                    first = _moved(first, word)
                elif isinstance(word, torch.dtype):
                    kwargs["dtype"] = word
            return func(first, **kwargs) if kwargs else first
        if func is Tensor.cpu:
            return _moved(first, "cpu")
        if isinstance(first, Pretended) and name == "numpy":
            return first.__array__()
        if isinstance(first, Pretended) and name in ("tolist", "new_tensor"):
            answer = getattr(first.here.detach(), name)(*args[1:], **kwargs)
            return Pretended(answer) if isinstance(answer, Tensor) else answer
        if isinstance(first, Pretended) and name == "as_tensor":
            kwargs.setdefault("device", CUDA)
        place = kwargs.get("device")
        if place is None or torch.device(place).type not in ("cpu", "cuda"):
            return func(*args, **kwargs)
        if torch.device(place).type == "cuda" and kwargs.get("generator") is not None:
            raise RuntimeError("random numbers of the device need a generator of the device")
        if isinstance(first, Tensor):
            args = (_moved(first, "cpu"), *args[1:])
        return _moved(func(*args, **{**kwargs, "device": "cpu"}), place)


@contextmanager
def pretended_cuda(monkeypatch: Any) -> Iterator[None]:
    """For a block, ``"cuda"`` is such a device."""
    autocast = torch.autocast.__init__
    monkeypatch.setattr(
        torch.autocast, "__init__", lambda self, kind, *a, **k: autocast(self, kind.replace("cuda", "cpu"), *a, **k)
    )
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Mode():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
