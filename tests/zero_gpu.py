"""A stand-in for ZeroGPU: every call runs in a fork, pickled both ways; of errors only ``gr.Error`` comes through.

Requested seconds are checked and noted, as the platform would charge them.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch


class FakeZeroGPU:
    """A decorator like ``spaces.GPU``."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, task: Any = None, *, duration: Any = 60, size: str | None = None) -> Any:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def stream(*args: Any, **kwargs: Any) -> Any:
                wanted = duration(*args, **kwargs) if callable(duration) else duration
                assert 0 < wanted <= 120
                self.seconds.append(wanted)
                context = multiprocessing.get_context("fork")
                receiver, sender = context.Pipe(False)
                payload = pickle.dumps((args, kwargs))
                child = context.Process(target=_child, args=(sender, function, payload), daemon=True)
                child.start()
                sender.close()
                try:
                    while True:
                        kind, value = pickle.loads(receiver.recv_bytes())
                        if kind == "end":
                            return
                        if kind == "error":
                            raise value if isinstance(value, gr.Error) else gr.Error(f"ZeroGPU worker error {value}")
                        yield value
                finally:
                    child.terminate()
                    child.join()

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                return next(iter(stream(*args, **kwargs)))

            return stream if inspect.isgeneratorfunction(function) else call

        return decorate(task) if callable(task) else decorate


def _child(sender: Any, function: Callable[..., Any], payload: bytes) -> None:
    torch.set_num_threads(1)  # the pool of the parent's threads did not come along
    args, kwargs = pickle.loads(payload)
    try:
        result = function(*args, **kwargs)
        for value in result if inspect.isgenerator(result) else [result]:
            sender.send_bytes(pickle.dumps(("value", value)))
        sender.send_bytes(pickle.dumps(("end", None)))
    except gr.Error as error:
        sender.send_bytes(pickle.dumps(("error", error)))
    except Exception as error:
        sender.send_bytes(pickle.dumps(("error", type(error).__name__)))
