"""``refinestyle train``: each command runs a training whose settings are its options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ..errors import ConfigError, ModelFileError
from ..train.attribute_settings import AttributeTraining
from ..train.encoder_settings import EncoderTraining
from ..train.generator_settings import GeneratorTraining
from . import console, options


__all__ = ["train"]

train = typer.Typer(no_args_is_help=True)

Data: TypeAlias = Annotated[str, typer.Argument(help="Folder or zip of pictures, or a dataset's id.", metavar="DATA")]
Out: TypeAlias = Annotated[Path, typer.Option("--out", help="Folder of the run.")]
Config: TypeAlias = Annotated[Path | None, typer.Option(help="JSON file with any of the options below.")]
PLACES = ("data", "out")  # settings that are arguments of every command


@contextmanager
def _progress(pictures: int) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """What a training calls: it shows how far it is, and Ctrl-C ends the run after the present step."""
    with console.progress("pictures", pictures) as tick, console.interruptible() as pressed:

        def progress(seen: int, total: int, figures: Mapping[str, float]) -> None:
            tick(seen, figures)
            if pressed():
                raise KeyboardInterrupt

        yield progress


@train.command()
@options.with_options(GeneratorTraining, skip=PLACES)
def generator(
    data: Data,
    out: Out,
    config: Config = None,
    as_json: console.AsJson = False,
    *,
    given: Mapping[str, Any],
) -> None:
    """Train a generator and its discriminator. A run found in OUT goes on where it stopped, with its own settings.

    Several processes: accelerate launch -m refinestyle_hub train generator ...
    """
    from ..storage.index import PipelineIndex, save_index
    from ..train.generator_trainer import train_generator

    places = {"data": data, "out": str(out)}
    settings = options.build(GeneratorTraining, {**given, **places}, config, _settings_of(GeneratorTraining, out))
    with _progress(settings.pictures) as progress:
        trainer = train_generator(settings, progress)
    if trainer.accelerator.is_main_process:
        save_index(out, PipelineIndex(("generator", "discriminator")))
        report = {"out": str(out), "pictures": trainer.seen}
        console.emit(
            report, f"{trainer.seen:,} pictures seen; refinestyle generate {out} draws with the model", as_json
        )


@train.command()
@options.with_options(EncoderTraining, skip=PLACES)
def encoder(
    data: Data,
    out: Out,
    config: Config = None,
    as_json: console.AsJson = False,
    *,
    given: Mapping[str, Any],
) -> None:
    """Train an encoder for the generator of --model. A run found in OUT goes on where it stopped, as it was set up.

    Several processes: accelerate launch -m refinestyle_hub train encoder ...
    """
    from ..train.encoder_trainer import train_encoder

    places = {"data": data, "out": str(out)}
    settings = options.build(EncoderTraining, {**given, **places}, config, _settings_of(EncoderTraining, out))
    with _progress(settings.total) as progress:
        trainer = train_encoder(settings, progress)
    if trainer.accelerator.is_main_process:
        report = {"out": str(out), "pictures": trainer.seen}
        console.emit(report, f"{trainer.seen:,} pictures seen; the encoder is in {out / 'encoder'}", as_json)


@train.command()
@options.with_options(AttributeTraining, skip=PLACES)
def attributes(
    data: Data,
    out: Out,
    config: Config = None,
    as_json: console.AsJson = False,
    *,
    given: Mapping[str, Any],
) -> None:
    """Train the network that reads attributes off portraits; DATA has labels.jsonl and parameters.npz.

    A run found in OUT goes on where it stopped, with its own settings.
    """
    from ..train.attribute_trainer import train_attributes

    places = {"data": data, "out": str(out)}
    settings = options.build(AttributeTraining, {**given, **places}, config, _settings_of(AttributeTraining, out))
    with _progress(settings.pictures) as progress:
        trainer = train_attributes(settings, progress)
    if trainer.report:  # only the main process has one
        text = f"test R2 of the parameters {trainer.report['test']['parameters_r2']:.3f}; the network is in {out}"
        console.emit(trainer.report, text, as_json)


def _settings_of(kind: type, out: Path) -> dict[str, Any]:
    """The settings of a run that can go on; none where there is no run."""
    from safetensors import SafetensorError, safe_open

    from ..train.loop import STATE

    state = out / STATE
    if not state.is_file():
        return {}
    try:
        with safe_open(state, "pt") as file:
            found = dict(json.loads(file.metadata()["state"])["config"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{state} is not the state of a training run; give another --out.") from error
    if not found.keys() <= {field.name for field in fields(kind)}:
        raise ConfigError(f"{out} holds a run of another kind, or of a newer version; give another --out.")
    return found
