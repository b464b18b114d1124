"""``refinestyle train``: each command runs a training whose settings are its options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from ..boundary.paths import user_path
from ..errors import ConfigError, counted
from ..train.attribute_settings import AttributeTraining
from ..train.encoder_settings import EncoderTraining
from ..train.generator_settings import GeneratorTraining
from . import console, options


__all__ = ["train"]

train = typer.Typer(no_args_is_help=True)

S = TypeVar("S")
Data: TypeAlias = Annotated[str, typer.Argument(help="Folder or zip of pictures, or a dataset's id.", metavar="DATA")]
Out: TypeAlias = Annotated[Path, typer.Option("--out", help="Folder of the run.")]
Config: TypeAlias = Annotated[Path | None, typer.Option(help="JSON file with any of the options below.")]
Report: TypeAlias = tuple[Mapping[str, Any], str] | None  # as JSON and as text; None in all but the main process


def _training(settings: type[S]) -> Callable[[Callable[[S], Report]], None]:
    """Decorate a function that runs a training: it becomes the command of its name, with the settings as options."""

    def decorate(run: Callable[[S], Report]) -> None:
        def command(
            data: Data, out: Out, config: Config = None, as_json: console.AsJson = False, *, given: Mapping[str, Any]
        ) -> None:
            places = {"data": data, "out": str(out)}
            report = run(options.build(settings, {**given, **places}, config, _settings_of(settings, out)))
            if report is not None:
                console.emit(*report, as_json)

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        train.command()(options.with_options(settings, skip=("data", "out"))(command))

    return decorate


@contextmanager
def _progress(pictures: int) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """What a training calls: it shows how far it is, and Ctrl-C ends the run after the present step."""
    with console.progress("pictures", pictures) as tick, console.interruptible() as pressed:

        def progress(seen: int, total: int, metrics: Mapping[str, float]) -> None:
            tick(seen, metrics)
            if pressed():
                raise KeyboardInterrupt

        yield progress


@_training(GeneratorTraining)
def generator(settings: GeneratorTraining) -> Report:
    """Train a generator and its discriminator. A run found in OUT continues with its own settings.

    Several processes: accelerate launch -m refinestyle_hub train generator ...
    """
    from ..storage.index import PipelineIndex, save_index
    from ..train.generator_trainer import train_generator

    with _progress(settings.pictures) as progress:
        trainer = train_generator(settings, progress)
    if not trainer.accelerator.is_main_process:
        return None
    out = user_path(settings.out)
    save_index(out, PipelineIndex(("generator", "discriminator")))
    text = f"{counted(trainer.seen, 'picture')} seen; refinestyle generate {out} draws with the model"
    return {"out": str(out), "pictures": trainer.seen}, text


@_training(EncoderTraining)
def encoder(settings: EncoderTraining) -> Report:
    """Train an encoder for the generator of --model. A run found in OUT continues with its own settings.

    Several processes: accelerate launch -m refinestyle_hub train encoder ...
    """
    from ..train.encoder_trainer import train_encoder

    with _progress(settings.total) as progress:
        trainer = train_encoder(settings, progress)
    if not trainer.accelerator.is_main_process:
        return None
    out = user_path(settings.out)
    text = f"{counted(trainer.seen, 'picture')} seen; the encoder is in {out / 'encoder'}"
    return {"out": str(out), "pictures": trainer.seen}, text


@_training(AttributeTraining)
def attributes(settings: AttributeTraining) -> Report:
    """Train the network that reads attributes off portraits; DATA has labels.jsonl and parameters.npz.

    A run found in OUT continues with its own settings.
    """
    from ..train.attribute_trainer import train_attributes

    with _progress(settings.pictures) as progress:
        report = train_attributes(settings, progress).report
    if not report:
        return None
    r2 = report["test"]["parameters_r2"]
    return report, f"test R2 of the parameters {r2:.3f}; the network is in {settings.out}"


def _settings_of(kind: type, out: Path) -> dict[str, Any]:
    """The settings of a run that can continue; none where there is no run."""
    from ..train.checkpoint import read_state
    from ..train.loop import STATE

    if not (out / STATE).is_file():
        return {}
    found = dict(read_state(out / STATE)["config"])
    if not found.keys() <= {field.name for field in fields(kind)}:
        raise ConfigError(f"{out} holds a run of another kind, or of a newer version; give another --out.")
    return found
