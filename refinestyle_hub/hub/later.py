"""Parts of a model that are loaded when they are first used: some take longer to load than a picture to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from torch import nn


__all__ = ["Later", "LazyPart", "then"]

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Later(Generic[T]):
    """A part whose files were found and whose config was read."""

    config: Any
    load: Callable[[], T]


def then(part: T | Later[T], change: Callable[[T], T]) -> T | Later[T]:
    """A part changed: now, or once it is loaded."""
    if isinstance(part, Later):
        load = part.load
        return Later(part.config, lambda: change(load()))
    return change(part)


class LazyPart(Generic[M]):
    """An attribute of a model that holds a network, None, or what loads the network when it is first asked for."""

    def __set_name__(self, owner: type[object], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, model: None, owner: type[object]) -> LazyPart[M]: ...

    @overload
    def __get__(self, model: Any, owner: type[object]) -> M | None: ...

    def __get__(self, model: Any, owner: type[object]) -> M | None | LazyPart[M]:
        if model is None:
            return self
        held: M | Later[M] | None = vars(model)[self.name]
        if isinstance(held, Later):  # the network goes where the model's first part is by now, and is of its type
            first = next(getattr(model, next(iter(model.parts))).parameters())
            held = vars(model)[self.name] = held.load().to(first.device, first.dtype)
        return held

    def __set__(self, model: Any, value: M | Later[M] | None) -> None:
        vars(model)[self.name] = value
