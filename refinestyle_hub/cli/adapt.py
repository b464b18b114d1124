"""``refinestyle adapt``."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .pictures import Device, Model, load


if TYPE_CHECKING:
    from ..adapt import Adaptation, AdaptState


__all__ = ["adapt"]

RUN = ".run"  # in the domain's folder: state, previews and report, which a push of the domain leaves out


class Align(str, Enum):
    """What is done with pictures before they are used."""

    auto = "auto"
    none = "none"


def adapt(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="1 to 20 pictures of a style.", metavar="PICTURES...")],
    name: Annotated[str, typer.Option(help="What the domain is called.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the domain. A run found in it goes on.")],
    tokens: Annotated[int, typer.Option(min=1, max=64, help="T, tokens per layer.")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of optimisation; by default 500.")] = None,
    align: Annotated[
        Align, typer.Option(help="auto: cut faces out where they are found; none: use all pictures as they are.")
    ] = Align.auto,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    preview_every: Annotated[int, typer.Option(min=1, help="Steps between previews of fixed samples.")] = 50,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Make a domain from a few pictures of a style. Ctrl-C keeps the best so far; the same command goes on."""
    from ..adapt import STEPS, load_references

    pipe = load(model, device)
    references = load_references(pictures, pipe.generator.config.resolution, align.value)
    state = out / RUN / "state.safetensors"
    run = pipe.adaptation(
        references, steps=steps or STEPS, tokens=tokens, seed=seed, state=_saved(state) if state.exists() else None
    )
    before = run.preview(plain=True)

    def show(file: Path) -> None:
        from ..images import contact_sheet, save_png, to_images

        rows = [*to_images(before), *to_images(run.preview())]
        save_png(contact_sheet(rows, columns=len(before)), file)

    began = time.monotonic()
    with console.progress("steps", run.steps) as tick, console.interruptible() as pressed:

        def on_step(step: int, total: int, figures: dict[str, float]) -> bool:
            tick(step, {key: figures[key] for key in ("distance",) if key in figures})
            if step % preview_every == 0:
                show(out / RUN / f"step{step:04d}.png")
            return pressed()

        finished = run.run(on_step, state)
    domain = run.token_set({"name": name})
    domain.save_pretrained(out)
    show(out / "preview.png")
    report = _report(run, model, name, time.monotonic() - began)
    console.write_json(out / RUN / "report.json", report)
    console.emit(report, _told(report, out, finished), as_json)
    if not finished:
        raise typer.Exit(130)


def _saved(path: Path) -> AdaptState:
    from ..adapt import AdaptState

    return AdaptState.load(path)


def _report(run: Adaptation, model: str, name: str, seconds: float) -> dict[str, Any]:
    made = run.token_set()
    return {
        "model": model,
        "name": name,
        "steps": run.done,
        "planned_steps": run.steps,
        "best_step": made.metadata["steps"],
        "tokens": run.settings.tokens,
        "numbers": made.num_values,
        "bytes": made.nbytes,
        "seed": run.seed,
        "pictures": run.references.report,
        "left_out": run.left_out,
        "seconds": round(run.seconds, 1),
        "seconds_of_this_call": round(seconds, 1),
    }


def _told(report: dict[str, Any], out: Path, finished: bool) -> str:
    lines = [f"used as it is, no face was aligned: {name}" for name in report["pictures"]["as_they_are"]]
    if report["left_out"]:
        lines.append(f"the model has no discriminator; left out: {', '.join(report['left_out'])}")
    if not finished:
        lines.append(f"stopped after {report['steps']} of {report['planned_steps']} steps; the same command goes on")
    lines.append(
        f"{report['name']}: {report['numbers']:,} numbers, {report['bytes'] / 1024:.0f} KB, best at step "
        f"{report['best_step']}, {report['seconds']:.0f} s; refinestyle generate ... --domain {out} draws with it"
    )
    return "\n".join(lines)
